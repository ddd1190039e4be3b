<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="fourier" file="fourier.cl.mako"/>\
## long_inverse: y[n, tile*step + i] = result i < step of the inverse transform of product[n][.][tile], positions
## first_position … behind which there are `positions` in all
## Sums that are not finite are made again by the definition, sum_k weight[k] * x[n, p + k - pad].
##
## For CPUs: one work-item a work-group. It owns LANES tiles of one row, which are its lanes, and two
## arrays of `scratch`. Dimension 0 is tasks, and loops.
${fourier.constants("__global")}
#define STRIDE 1
#define DILATION 1

${definition.functions()}

${fourier.sum_tree()}
<%
    even = len(transform.passes) % 2 == 0
    arrays = ("own", "other") if even else ("other", "own")
%>\
## Results i … of all tiles; sample i is at i ^ 1.
<%def name="store_results()">\
% for e in range(lanes):
VECTOR r${e} = own[(i + ${e}) ^ 1];
% endfor
const SUM all = sum_tree(${fourier.tree(["r%d" % e for e in range(lanes)])});
if (all * 0 != 0) {  // or all are large
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        NO_UNROLL for (int l = 0; l < LANES; ++l) {
            __global SUM *sum = (__global SUM *)(own + ((i + e) ^ 1)) + l;
            const long p = first + (long)l * step + i + e;
            if (*sum * 0 != 0 && p < positions)
                *sum = defined(row, 0, weight + weight_offset, 1, 1, kernel_size, (int)p, pad, length);
        }
% for e in range(lanes):
    r${e} = own[(i + ${e}) ^ 1];
% endfor
}
${fourier.turn()}
% for e in range(lanes):
turned[${e}] = r${e};
% endfor
NO_UNROLL for (int l = 0; l < LANES; ++l) {
    const long p = first + (long)l * step + i;
    __global STORED *to = y + y_offset + n * y_batch + p;
    if (p + LANES <= positions) store_vector(to, turned[l]);
    else
        NO_UNROLL for (int e = 0; p + e < positions; ++e) store(to + e, ((__local SUM *)(turned + l))[e]);
}
</%def>\
__kernel ${attributes}
void long_inverse(${signature})
{
    __local VECTOR turned[LANES];
    __global VECTOR *own = (__global VECTOR *)(scratch + scratch_offset + get_group_id(0) * (4L * POINTS * LANES));
    __global VECTOR *other = own + SIZE;
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long n = task / blocks, tile = task % blocks * LANES, first = first_position + tile * step;
        __global const STORED *row = x + x_offset + n * x_batch;
        __global const SUM *from = product + product_offset + n * row_pitch + tile;
        ${fourier.join("from", arrays[0], "(2 * pitch)", "pitch")}
        ${fourier.passes(*arrays)}
        NO_UNROLL for (int i = 0; i < step; i += LANES) {
            ${store_results()}
        }
    }
}
