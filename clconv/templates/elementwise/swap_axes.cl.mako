## swap_axes: y[n,b,a] = x[n,a,b]; elements are moved as they are
## One work-item owns every global size-th tile of ${tile} x ${tile} elements.
__kernel ${attributes}
void swap_axes(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long b_tile = task % b_tiles, rest = task / b_tiles;
        const long a_tile = rest % a_tiles, n = rest / a_tiles;
        const long a_first = a_tile * ${tile}, a_stop = min(a_first + ${tile}, a_size);
        const long b_first = b_tile * ${tile}, b_stop = min(b_first + ${tile}, b_size);
        for (long b = b_first; b < b_stop; ++b) {
            __global const STORED *from = x + x_offset + n * x_n_stride + b;
            __global STORED *to = y + y_offset + (n * b_size + b) * a_size;
            for (long a = a_first; a < a_stop; ++a) to[a] = from[a * x_a_stride];
        }
    }
}
