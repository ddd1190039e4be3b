## The product of two matrices, a tile a work-group, that the kernels of products share:
##   sum[m][j] = sum_{t < terms} left[m][t] * right[t][j]     m row, j column, t term
##
## A slab of DEPTH terms of both factors is copied to local memory, terms outermost:
##   left_slab[t][m], m < TILE_ROWS;  right_slab[t][j], j < TILE_COLUMNS
## Rows of slabs are padded by 4 elements: they stay aligned for reads of 128 bits, and the
## work-items that copy neighbouring terms of one row write to different banks. A work-item sums
## ITEM_ROWS x ITEM_COLUMNS in registers, in blocks of 4 x 4 that lie half a tile apart, so that
## neighbouring work-items read neighbouring quads:
##   rows 4 * item_row + i and TILE_ROWS / 2 + 4 * item_row + i, columns likewise
## With BUFFERS 2 the next slab is fetched into registers while this one is summed up, and goes to
## the other buffer, so that one barrier a slab is enough.
<%def name="constants()">\
#define TILE_ROWS ${tile_rows}
#define TILE_COLUMNS ${tile_columns}
#define ITEM_ROWS ${item_rows}
#define ITEM_COLUMNS ${item_columns}
#define DEPTH ${depth}              // terms a slab
#define BUFFERS ${buffers}
#define LINES (TILE_ROWS / ITEM_ROWS)           // work-items across the rows
#define COLUMN_ITEMS (TILE_COLUMNS / ITEM_COLUMNS)
#define ITEMS (LINES * COLUMN_ITEMS)
#define LEFT_PITCH (TILE_ROWS + 4)
#define RIGHT_PITCH (TILE_COLUMNS + 4)
#define SLAB (DEPTH * (LEFT_PITCH + RIGHT_PITCH))
#define LEFT_EACH (DEPTH * TILE_ROWS / ITEMS)   // elements of a slab that a work-item copies
#define RIGHT_EACH (DEPTH * TILE_COLUMNS / ITEMS)
#define COLUMNS_EACH ${max(1, tile_columns // ((tile_rows // item_rows) * (tile_columns // item_columns)))}              // different columns among them
#define SCRATCH ${max(buffers * depth * (tile_rows + tile_columns + 8), tile_rows // item_rows * tile_columns)}
typedef ${"double" if dtype == "float64" else "float"}4 QUAD;
</%def>\
<%def name="slabs()">\
    __local SUM slabs[SCRATCH] __attribute__((aligned(${32 if dtype == "float64" else 16})));
    const int item = get_local_id(0);
    const int item_row = item / COLUMN_ITEMS, item_column = item % COLUMN_ITEMS;
</%def>\
## The caller's `left` and `right` fetch element `e` of a work-item into v, at term first + d of row
## m, or of column j; LEFT_ROW, LEFT_TERM, RIGHT_COLUMN and RIGHT_TERM say which element that is.
<%def name="products(terms, moves=False)">\
% for i in range(item_rows):
            SUM ${", ".join("s%d_%d = 0" % (i, j) for j in range(item_columns))};
% endfor
% if buffers == 2:
            SUM left[LEFT_EACH], right[RIGHT_EACH];
${fetch((caller.left, caller.right, caller.move if moves else None), "0", "left[e] = v;", "right[e] = v;")}\
            int turn = 0;
            for (uint first = 0; first < ${terms}; first += DEPTH) {
                __local SUM *left_slab = slabs + turn * SLAB, *right_slab = left_slab + DEPTH * LEFT_PITCH;
                UNROLL for (int e = 0; e < LEFT_EACH; ++e)
                    left_slab[LEFT_TERM(item + e * ITEMS) * LEFT_PITCH + LEFT_ROW(item + e * ITEMS)] = left[e];
                UNROLL for (int e = 0; e < RIGHT_EACH; ++e)
                    right_slab[RIGHT_TERM(item + e * ITEMS) * RIGHT_PITCH + RIGHT_COLUMN(item + e * ITEMS)] = right[e];
                barrier(CLK_LOCAL_MEM_FENCE);
                if (first + DEPTH < ${terms}) {
${fetch((caller.left, caller.right, caller.move if moves else None), "first + DEPTH", "left[e] = v;", "right[e] = v;")}\
                }
${sum_up()}\
                turn ^= 1;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
% else:
            for (uint first = 0; first < ${terms}; first += DEPTH) {
                __local SUM *left_slab = slabs, *right_slab = slabs + DEPTH * LEFT_PITCH;
${fetch((caller.left, caller.right, caller.move if moves else None), "first", "left_slab[d * LEFT_PITCH + m] = v;", "right_slab[d * RIGHT_PITCH + j] = v;")}\
                barrier(CLK_LOCAL_MEM_FENCE);
${sum_up()}\
                barrier(CLK_LOCAL_MEM_FENCE);
            }
% endif
</%def>\
<%def name="fetch(of, first, put_left, put_right)">\
                // The work-item, since terms have 31 bits. Compilers do not know, and so compute
                // what depends on it here, rather than keep it in registers from before the loop.
                const int here = item + (int)((${first}) >> 31);
                UNROLL for (int e = 0; e < LEFT_EACH; ++e) {
                    const int m = LEFT_ROW(here + e * ITEMS), d = LEFT_TERM(here + e * ITEMS);
                    const uint t = ${first} + d;
                    SUM v;
${of[0]()}\
                    ${put_left}
                }
                // Not all at a time where the addresses of all take more registers than there are.
                _Pragma("unroll ${16 if buffers == 2 else fetch_count}") for (int e = 0; e < RIGHT_EACH; ++e) {
                    const int j = RIGHT_COLUMN(here + e * ITEMS), d = RIGHT_TERM(here + e * ITEMS);
                    const uint t = ${first} + d;
                    SUM v;
${of[1]()}\
                    ${put_right}
                }
% if of[2]:
${of[2]()}\
% endif
</%def>\
## Two terms a turn: with more, compilers read the whole slab into registers beforehand. The order of
## the sums lets processors that issue two multiply-adds at once find two with different operands.
<%def name="sum_up()">\
                {
                    __local const SUM *left_at = left_slab + 4 * item_row, *right_at = right_slab + 4 * item_column;
                    const int depth = DEPTH + (int)(first >> 31);  // DEPTH, see `here`
                    NO_UNROLL for (int d = 0; d < depth; d += 2) {
% for d in range(2):
                        {
% for i in range(item_rows // 4):
                            const QUAD a${i} = *(__local const QUAD *)(left_at + (d + ${d}) * LEFT_PITCH + ${i} * (TILE_ROWS / 2));
% endfor
% for j in range(item_columns // 4):
                            const QUAD b${j} = *(__local const QUAD *)(right_at + (d + ${d}) * RIGHT_PITCH + ${j} * (TILE_COLUMNS / 2));
% endfor
% for i in range(0, item_rows, 2):
% for j in range(0, item_columns, 2):
% for u, v in ((0, 0), (1, 1), (0, 1), (1, 0)):
                            s${i + u}_${j + v} = a${(i + u) // 4}.s${(i + u) % 4} * b${(j + v) // 4}.s${(j + v) % 4} + s${i + u}_${j + v};
% endfor
% endfor
% endfor
                        }
% endfor
                    }
                }
</%def>\
## The caller's body stores v, the sum of row m and column j, the work-item's column number h.
## A row of all work-items at once goes through local memory, so that neighbours store neighbours.
<%def name="results()">\
% for i in range(item_rows):
% for j in range(item_columns // 4):
            *(__local QUAD *)(slabs + item_row * TILE_COLUMNS + ${j} * (TILE_COLUMNS / 2) + 4 * item_column) = (QUAD)(${", ".join("s%d_%d" % (i, 4 * j + k) for k in range(4))});
% endfor
            barrier(CLK_LOCAL_MEM_FENCE);
            UNROLL for (int h = 0; h < COLUMNS_EACH; ++h) {
                NO_UNROLL for (int e = item + h * ITEMS; e < LINES * TILE_COLUMNS; e += COLUMNS_EACH * ITEMS) {
                    const int m = ${i // 4} * (TILE_ROWS / 2) + e / TILE_COLUMNS * 4 + ${i % 4}, j = e % TILE_COLUMNS;
                    const SUM sum = slabs[e];
${caller.body()}\
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
% endfor
</%def>\
