## update: y[i] = y[i] + rate * x[i]; one work-item owns every global size-th i
__kernel ${attributes}
void update(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0))
        store(y + y_offset + i, rate * load(x + x_offset + i) + load(y + y_offset + i));
}
