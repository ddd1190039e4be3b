<%namespace name="gemm" file="products.cl.mako"/>\
## products_batched: planes_y[v][g][m][column] = sum_{c < terms} planes_weight[v][g][c][m] * planes_x[v][g][c][column]
##   v plane, g group, m channel written, c channel read, column a tile of samples
##
## For GPUs: a work-group owns TILE_ROWS channels m of one plane and group times TILE_COLUMNS columns. All
## three are filled up with zeros to multiples of what it takes, so that nothing is tested. Neighbouring
## work-items fetch neighbouring m and columns, and store neighbouring quads.
## Dimension 0 is tiles of m, planes and groups, 1 tiles of columns; both loop.
${gemm.constants()}\
#define LEFT_ROW(f) ((f) % TILE_ROWS)
#define LEFT_TERM(f) ((f) / TILE_ROWS)
#define RIGHT_COLUMN(f) ((f) % TILE_COLUMNS)
#define RIGHT_TERM(f) ((f) / TILE_COLUMNS)

__kernel ${attributes}
void products_batched(${signature})
{
${gemm.slabs()}\
    for (int block = get_group_id(1); block < blocks; block += get_num_groups(1)) {
        for (int tile = get_group_id(0); tile < tiles; tile += get_num_groups(0)) {
            const long matrix = tile / row_tiles, row_first = tile % row_tiles * TILE_ROWS;
            __global const SUM *weights = planes_weight + planes_weight_offset + matrix * terms * row_pitch + row_first;
            __global const SUM *xs = planes_x + planes_x_offset + matrix * terms * pitch + block * TILE_COLUMNS;

<%gemm:products terms="(uint)terms">\
<%def name="left()">\
                    v = weights[t * (uint)row_pitch + m];
</%def>\
<%def name="right()">\
                    v = xs[t * (uint)pitch + j];
</%def>\
</%gemm:products>\

            __global SUM *to = planes_y + planes_y_offset + (matrix * row_pitch + row_first + 4 * item_row) * pitch
                + block * TILE_COLUMNS + 4 * item_column;
% for i in range(item_rows):
% for j in range(item_columns // 4):
            vstore4((QUAD)(${", ".join("s%d_%d" % (i, 4 * j + k) for k in range(4))}), 0, to + ${"(%d * (TILE_ROWS / 2) + %d) * pitch + %d * (TILE_COLUMNS / 2)" % (i // 4, i % 4, j)});
% endfor
% endfor
        }
    }
}
