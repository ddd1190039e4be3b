<%namespace name="gemm" file="products.cl.mako"/>\
## weight_products_batched: planes_result[v][g][m][c] = sum_{t < terms} planes_y[v][g][m][t] * planes_x[v][g][c][t],
##   added to what it was, if `adding`
##   v plane, g group, m channel of y, c channel of x, t a tile of samples
##
## For GPUs: a work-group owns TILE_ROWS channels m of one plane and group times TILE_COLUMNS channels c.
## All three are filled up with zeros to multiples of what it takes, so that nothing is tested.
## Neighbouring work-items fetch neighbouring terms. Dimension 0 is tiles, and loops.
${gemm.constants()}\
#define LEFT_ROW(f) ((f) / DEPTH)
#define LEFT_TERM(f) ((f) % DEPTH)
#define RIGHT_COLUMN(f) ((f) / DEPTH)
#define RIGHT_TERM(f) ((f) % DEPTH)

__kernel ${attributes}
void weight_products_batched(${signature})
{
${gemm.slabs()}\
    for (int tile = get_group_id(0); tile < tiles; tile += get_num_groups(0)) {
        const long column_first = tile % column_tiles * TILE_COLUMNS;
        const long row_first = tile / column_tiles % row_tiles * TILE_ROWS;
        const long matrix = tile / column_tiles / row_tiles;
        __global const SUM *ys = planes_y + planes_y_offset + (matrix * row_pitch + row_first) * terms;
        __global const SUM *xs = planes_x + planes_x_offset + (matrix * term_pitch + column_first) * terms;

<%gemm:products terms="(uint)terms">\
<%def name="left()">\
                    v = ys[m * (uint)terms + t];
</%def>\
<%def name="right()">\
                    v = xs[j * (uint)terms + t];
</%def>\
</%gemm:products>\

        __global SUM *to = planes_result + planes_result_offset + (matrix * row_pitch + row_first + 4 * item_row) * term_pitch
            + column_first + 4 * item_column;
% for i in range(item_rows):
% for j in range(item_columns // 4):
        {
            __global SUM *at = to + ${"(%d * (TILE_ROWS / 2) + %d) * term_pitch + %d * (TILE_COLUMNS / 2)" % (i // 4, i % 4, j)};
            const QUAD old = adding ? vload4(0, at) : (QUAD)0;
            vstore4(old + (QUAD)(${", ".join("s%d_%d" % (i, 4 * j + k) for k in range(4))}), 0, at);
        }
% endfor
% endfor
    }
}
