<%namespace name="sums" file="sums_of_products.cl.mako"/>\
## products_spectral: transformed_y[p][g][tile][m] = sum_c transformed_x[p][g][tile][c] * transformed_weight[p][g][m][c]
##   p point, g group, c channel read, m channel written; complex products, but at the first
##   `real_points` points, where both parts of a number are real numbers of their own
##
## For CPUs: one work-item a work-group. It owns a panel of VECTORS vectors of channels m at one point, for
## a part of the tiles, and sums TILE_ROWS tiles x VECTORS vectors x 2 parts in registers: lanes are
## channels m, each vector of weights serves several tiles. Dimension 0 is tasks, and loops.
##   transformed_x: pairs of vectors, LANES channels c each; transformed_y likewise, LANES channels m
##   transformed_weight: for each c VECTORS real parts, then VECTORS imaginary parts
#define VECTORS ${vectors}
#define X_TILE (blocks * 2 * LANES)
#define Y_TILE (panels * VECTORS * 2 * LANES)
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

<%def name="tile(rows, real)">\
{
    __global const SUM *xs = x_at + tile * X_TILE, *w = w_at;
    ${sums.begin(rows, vectors)}
    NO_UNROLL for (int b = 0; b < blocks; ++b) {
        const int count = b % line_blocks == line_blocks - 1 ? last : LANES;
        NO_UNROLL for (int c = 0; c < count; ++c) {
% for j in range(vectors):
            const VECTOR w${j}r = *(__global const SUMS *)(w + ${j} * LANES), w${j}i = *(__global const SUMS *)(w + ${vectors + j} * LANES);
% endfor
% for i in range(rows):
            {
                const SUM re = xs[${i} * X_TILE + c], im = xs[${i} * X_TILE + LANES + c];
                ${sums.add(i, vectors, real)}
            }
% endfor
            w += 2 * VECTORS * LANES;
        }
        xs += 2 * LANES;
    }
    __global SUM *to = y_at + tile * Y_TILE;
% for i in range(rows):
% for j in range(vectors):
    *(__global SUMS *)(to + ${i} * Y_TILE + ${2 * j} * LANES) = s${i}_${j}r;
    *(__global SUMS *)(to + ${i} * Y_TILE + ${2 * j + 1} * LANES) = s${i}_${j}i;
% endfor
% endfor
    tile += ${rows};
}
</%def>\
<%def name="tiles_of(real)">\
% for rows in tile_rows:
while (tile + ${rows} <= tile_end) {
    ${tile(rows, real)}
}
% endfor
</%def>\
__kernel ${attributes}
void products_spectral(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int part = (int)(task % parts), panel = (int)(task / parts % panels);
        const int g = (int)(task / parts / panels % groups), p = (int)(task / parts / panels / groups);
        __global const SUM *x_at = transformed_x + transformed_x_offset + p * x_pitch + (long)g * tiles * X_TILE;
        __global const SUM *w_at = transformed_weight + transformed_weight_offset + p * weight_pitch
            + ((long)g * panels + panel) * (terms * 2L * VECTORS * LANES);
        __global SUM *y_at = transformed_y + transformed_y_offset + p * y_pitch + (long)g * tiles * Y_TILE + panel * (2 * VECTORS * LANES);
        long tile = (long)part * part_tiles;
        const long tile_end = tiles - tile < part_tiles ? tiles : tile + part_tiles;
        if (p < real_points) {
            ${tiles_of(True)}
        }
        else {
            ${tiles_of(False)}
        }
    }
}
