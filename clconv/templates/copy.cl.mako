## copy: y[a,b,p] = x[a,b,p], from any strides to a contiguous array
## One work-item owns every global size-th element.
__kernel ${attributes}
void copy(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long p = i % size_2, row = i / size_2;
        y[y_offset + i] = x[x_offset + row / size_1 * x_batch_stride + row % size_1 * x_channel_stride + p * x_stride];
    }
}
