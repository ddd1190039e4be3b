## copy: y[a,b,c,d] = x[a,b,c,d], from any strides to any others; elements are moved as they are
## One work-item owns every global size-th element, counted with d fastest.
__kernel ${attributes}
void copy(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long d = i % size_3, abc = i / size_3;
        const long c = abc % size_2, ab = abc / size_2;
        const long b = ab % size_1, a = ab / size_1;
        y[y_offset + a * y_stride_0 + b * y_stride_1 + c * y_stride_2 + d * y_stride_3]
            = x[x_offset + a * x_stride_0 + b * x_stride_1 + c * x_stride_2 + d * x_stride_3];
    }
}
