## softmax: y[r,i] = exp(x[r,i] - m) / sum_j exp(x[r,j] - m), m the greatest of row r; or the logarithm of it
## One work-item owns every global size-th row, of `length` elements.
<%namespace name="rows" file="sums_of_rows.cl.mako"/>\
${rows.extremes(">")}
__kernel ${attributes}
void softmax(${signature})
{
    for (long row = get_global_id(0); row < count; row += get_global_size(0)) {
        __global const STORED *from = x + x_offset + row * length;
        __global STORED *to = y + y_offset + row * length;
        const SUM most = extreme_of(from, length);
        SUM total = 0;
        long i = 0;
        VECTOR sum = 0;
        for (; i + LANES <= length; i += LANES) sum += exp(load_vector(from + i) - most);
        total = sum_lanes(sum);
        for (; i < length; ++i) total += exp(load(from + i) - most);
% if logarithm:
        const SUM less = log(total);
        for (i = 0; i + LANES <= length; i += LANES)
            store_vector(to + i, load_vector(from + i) - most - less);
        for (; i < length; ++i) store(to + i, load(from + i) - most - less);
% else:
        for (i = 0; i + LANES <= length; i += LANES)
            store_vector(to + i, exp(load_vector(from + i) - most) / total);
        for (; i < length; ++i) store(to + i, exp(load(from + i) - most) / total);
% endif
    }
}
