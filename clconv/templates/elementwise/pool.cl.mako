## pool: y[r,q] = the maximum or the average of x[r, q stride + k dilation - left] over 0 <= k < kernel_size
## Positions outside the row count for nothing; with `count_padding` an average divides by those of the
## padding, too. NaN stays. One work-item owns every global size-th task, `block` positions q of one row.
static inline SUM pool_one(__global const STORED *row, const long start, const long length,
                           const long right, const int kernel_size, const int dilation)
{
    SUM v = ${"-INFINITY" if mode == "maximum" else "0"};
    int counted = 0;
    for (int k = 0; k < kernel_size; ++k) {
        const long p = start + (long)k * dilation;
        const int inside = p >= 0 && p < length;
        const SUM w = load(row + (inside ? p : 0));
% if mode == "maximum":
        v = inside && (w > v || w != w) ? w : v;
% else:
        v += inside ? w : (SUM)0;
        counted += ${"p < length + right" if count_padding else "inside"};
% endif
    }
    return ${"v" if mode == "maximum" else "v / counted"};
}

__kernel ${attributes}
void pool(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long row = task / blocks, first = task % blocks * block;
        const long stop = min(first + block, out_length);
        __global const STORED *from = x + x_offset + row * length;
        __global STORED *to = y + y_offset + row * out_length;
        long q = first;
        while (q < stop) {
            const long start = q * stride - left;
            const long last = start + (long)(LANES - 1) * stride + (long)(kernel_size - 1) * dilation;
            if (q + LANES > stop || start < 0 || last >= length) {
                store(to + q, pool_one(from, start, length, right, kernel_size, dilation));
                ++q;
                continue;
            }
            VECTOR v = ${"-INFINITY" if mode == "maximum" else "0"};
            for (int k = 0; k < kernel_size; ++k) {
                __global const STORED *at = from + start + (long)k * dilation;
                const VECTOR w = stride == 1 ? load_vector(at) : load_strided(at, stride);
% if mode == "maximum":
                v = (w > v) | (w != w) ? w : v;
% else:
                v += w;
% endif
            }
            store_vector(to + q, ${"v" if mode == "maximum" else "v / kernel_size"});
            q += LANES;
        }
    }
}
