<%namespace name="sums" file="sums_of_products.cl.mako"/>\
## weight_products_spectral: transformed_result[p][g][panel][c] = sum_tile transformed_x[p][g][tile][c] * transformed_y[p][g][tile][m]
##   p point, g group, c channel of x, m channel of y; complex products, but at the first `real_points`
##   points, where both parts of a number are real numbers of their own. With `adding` to the old sums.
##
## For CPUs: one work-item a work-group. It owns a panel of VECTORS vectors of channels m at one point, and a
## block of channels c, and sums up to ROWS channels c x VECTORS vectors x 2 parts in registers, over all
## tiles in their order. Dimension 0 is tasks, and loops.
##   transformed_x, transformed_y: pairs of vectors of channels; transformed_result: for each c VECTORS real
##   parts, then VECTORS imaginary parts
#define VECTORS ${vectors}
#define X_TILE (blocks * 2 * LANES)
#define Y_TILE (panels * VECTORS * 2 * LANES)
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

<%def name="channels_of(rows, real)">\
{
    __global const SUM *xs = x_at + c, *ys = y_at;
    ${sums.begin(rows, vectors)}
    NO_UNROLL for (long tile = 0; tile < tiles; ++tile) {
% for j in range(vectors):
        const VECTOR w${j}r = *(__global const SUMS *)(ys + ${2 * j} * LANES), w${j}i = *(__global const SUMS *)(ys + ${2 * j + 1} * LANES);
% endfor
% for i in range(rows):
        {
            const SUM re = xs[${i}], im = xs[LANES + ${i}];
            ${sums.add(i, vectors, real)}
        }
% endfor
        xs += X_TILE;
        ys += Y_TILE;
    }
    __global SUM *to = result_at + c * (2 * VECTORS * LANES);
% for i in range(rows):
% for j in range(vectors):
% for k, part in enumerate("ri"):
    {
        __global SUMS *sum = (__global SUMS *)(to + ${(2 * i + k) * vectors + j} * LANES);
        *sum = adding ? *sum + s${i}_${j}${part} : s${i}_${j}${part};
    }
% endfor
% endfor
% endfor
    c += ${rows};
}
</%def>\
<%def name="block(real)">\
int c = 0;
% for rows in channel_rows:
while (c + ${rows} <= count) {
    ${channels_of(rows, real)}
}
% endfor
</%def>\
__kernel ${attributes}
void weight_products_spectral(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int b = (int)(task % blocks), panel = (int)(task / blocks % panels);
        const int g = (int)(task / blocks / panels % groups), p = (int)(task / blocks / panels / groups);
        const int count = b % line_blocks == line_blocks - 1 ? last : LANES;
        const int c_first = b / line_blocks * channels + b % line_blocks * LANES;
        __global const SUM *x_at = transformed_x + transformed_x_offset + p * x_pitch + (long)g * tiles * X_TILE + b * (2 * LANES);
        __global const SUM *y_at = transformed_y + transformed_y_offset + p * y_pitch + (long)g * tiles * Y_TILE + panel * (2 * VECTORS * LANES);
        __global SUM *result_at = transformed_result + transformed_result_offset + p * weight_pitch
            + (((long)g * panels + panel) * terms + c_first) * (2L * VECTORS * LANES);
        if (p < real_points) {
            ${block(True)}
        }
        else {
            ${block(False)}
        }
    }
}
