## take: y[r,q] = x[r, index[q]], or `fill` where that is negative; with `linear`
##       x[r, index[q]] + weight[q] * (x[r, next[q]] - x[r, index[q]])
## One work-item owns every global size-th task, `block` positions q of one row.
__kernel ${attributes}
void take(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long row = task / blocks, first = task % blocks * block;
        const long stop = min(first + block, out_length);
        __global const STORED *from = x + x_offset + row * length;
        __global STORED *to = y + y_offset + row * out_length;
        for (long q = first; q < stop; ++q) {
            const int p = index[index_offset + q];
% if linear:
            const SUM here = load(from + p), there = load(from + next[next_offset + q]);
            const SUM share = weight[weight_offset + q];
            // Where both are one sample, it stays as it is, infinity too.
            store(to + q, share == 0 ? here : here + share * (there - here));
% else:
            store(to + q, p < 0 ? fill : load(from + p));
% endif
        }
    }
}
