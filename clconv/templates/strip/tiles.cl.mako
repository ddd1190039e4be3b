## What the forward pass and the input gradient by strips share around a tile of sums: constants, the
## strip, and the loops from a task down to a tile.
##
##   task               positions of some batch elements, times some tiles of channels
##     group            the part of them that is of one group of the convolution
##       terms          the channels summed over that the strip holds at once (mostly all)
##         block        BLOCK_TILES tiles of channels, which share a place's piece of the strip
##           place      VECTORS vectors of positions
##             tile     CHANNEL_TILE channels: the sums in registers
<%def name="constants()">\
// The strip of a task in local memory, and a tile of its sums in registers:
//
//             positions of x, from the task's first one on (ROWS such rows a channel and batch element)
//            +----------------------------------------------------------+
//   c = 0    |        [ x0: LANES ][ x1 ] …     <- what a tap reads     |
//   c = 1    |        [           ][    ]                               |
//   …        +----------------------------------------------------------+
//
//             VECTORS vectors of LANES positions
//            +-------------+-------------+----
//   m        | s0_0        | s0_1        | …      CHANNEL_TILE channels of y. The tiles of a block
//   m + 1    | s1_0        | s1_1        | …      follow one another down, then comes the next
//   …        +-------------+-------------+----    place to the right.
//
// A work-group is one work-item, which owns tasks: a block of positions times task_tiles such tiles.
#define TERMS ${terms}  // channels summed over, a group
#define CHANNELS ${channels}  // channels written, a group
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define CHANNEL_TILE ${channel_tile}  // channels a tile
#define VECTORS ${vectors}  // vectors of positions a tile
#define TILES ${-(-channels // channel_tile)}  // tiles of channels a group
#define BLOCK_TILES ${block_tiles}  // tiles of channels that share a piece of the strip
#define TERM_BLOCK ${term_block}  // channels summed over that the strip holds
#define STRIP ${strip_elements}  // its elements
#define ROWS ${rows}  // rows of the strip that a channel has
#define WEIGHT ${"__local const SUM" if packed else "__global const STORED"}  // where the sums find the weights
</%def>\
<%def name="first_channel()">\
% if channels % channel_tile:
// The last tile begins early, to be whole, and does not store what its neighbour does.
#define FIRST_CHANNEL(tile) min(((tile) - g * TILES) * CHANNEL_TILE, CHANNELS - CHANNEL_TILE)
% else:
#define FIRST_CHANNEL(tile) (((tile) - g * TILES) * CHANNEL_TILE)
% endif
% if packed:
#define PANEL ${channel_tile * tile_strides[0] if weight_strides[1] == kernel_size else term_block * tile_strides[1]}  // weights of a tile
% endif
</%def>\
<%def name="converting()">\
% if packed:
// Converted neighbours; the last vector begins early, to be whole.
static inline void convert_weights(__local SUM *to, __global const STORED *from, const int count)
{
    for (int i = 0; i < count; i += LANES) {
        const int at = i + LANES <= count ? i : count - LANES;
        if (at >= 0) *(__local SUMS *)(to + at) = load_vector(from + at);
        else for (int e = 0; e < count; ++e) to[e] = load(from + e);
    }
}
% endif
</%def>\
## The loops. `first` is the task's first position, `stage` copies a row of x to the strip, `tile` sums
## and stores a tile.
<%def name="of_tasks(first, stage, tile)">\
for (long task = group; task < tasks; task += groups) {
    const long place = task % position_blocks;
    const int tile_begin = (int)(task / position_blocks) * task_tiles;
    const int tile_end = tile_begin + task_tiles < TILES * GROUPS ? tile_begin + task_tiles : TILES * GROUPS;
    const int n_first = (int)(place / chunks) * block_rows;
    const int vector_first = (int)(place % chunks) * chunk_vectors;
    const int n_count = batch - n_first < block_rows ? batch - n_first : block_rows;
    const int row_count = row_vectors - vector_first < chunk_vectors ? row_vectors - vector_first : chunk_vectors;
    const int vector_count = n_count * row_count;
    const int first = ${first};
    for (int group_tile = tile_begin; group_tile < tile_end;) {
        const int g = group_tile / TILES;
        const int group_end = tile_end < (g + 1) * TILES ? tile_end : (g + 1) * TILES;
% if spill_elements:
        for (int c_first = 0; c_first < TERMS; c_first += TERM_BLOCK) {
            const int c_count = TERMS - c_first < TERM_BLOCK ? TERMS - c_first : TERM_BLOCK;
            const int last_block = c_first + TERM_BLOCK >= TERMS;
            ${of_terms(stage, tile)}
        }
% else:
        // All of them. A compiler that knew of a single one would make the loop straight code, for
        // which some run out of registers.
        const int c_first = 0, c_count = term_count;
        ${of_terms(stage, tile)}
% endif
        group_tile = group_end;
    }
}
</%def>\
<%def name="of_terms(stage, tile)">\
% if lies["x"] == "channels":
for (int row = 0; row < n_count; ++row) {
    __global const STORED *x_row = x + x_offset + (long)(n_first + row) * x_batch_stride + ((long)g * TERMS + c_first);
    __local SUM *to = strip + row * row_pitch;
    ${stage()}
}
% else:
for (int c = 0; c < c_count; ++c)
    for (int row = 0; row < n_count; ++row) {
% if lies["x"] == "rows":
        const long next = c + PREFETCH_ROWS < c_count ? PREFETCH_ROWS * x_channel_stride : 0;
% endif
        __global const STORED *x_row = x + x_offset + (long)(n_first + row) * x_batch_stride
            + ((long)g * TERMS + c_first + c) * x_channel_stride;
        __local SUM *to = strip + c * channel_pitch + row * row_pitch;
        ${stage()}
    }
% endif
__global const STORED *group_weights = weight + weight_offset
    + (long)g * CHANNELS * TERMS * KERNEL_SIZE + (long)c_first * ${weight_strides[1]};
for (int tile_first = group_tile; tile_first < group_end; tile_first += BLOCK_TILES) {
    const int tile_last = tile_first + BLOCK_TILES < group_end ? tile_first + BLOCK_TILES : group_end;
% if packed:
    ${pack()}
% endif
    int row = 0, in_row = 0;
    for (int v = 0; v < vector_count; v += VECTORS) {
        ${place()}
% if block_unrolled:
        UNROLL for (int tile_index = 0; tile_index < BLOCK_TILES; ++tile_index) {
            const int tile = tile_first + tile_index;
            if (tile >= tile_last) break;
% else:
        for (int tile = tile_first; tile < tile_last; ++tile) {
% endif
            const int m = FIRST_CHANNEL(tile), wanted = (tile - g * TILES) * CHANNEL_TILE;
% if packed:
            WEIGHT *weights = panel + (tile - tile_first) * PANEL;
% else:
            WEIGHT *weights = group_weights + (long)m * ${weight_strides[0]};
% endif
            ${tile()}
        }
    }
}
</%def>\
## A block's weights converted, those that are neighbours together.
<%def name="pack()">\
for (int tile = tile_first; tile < tile_last; ++tile) {
    __local SUM *to = panel + (tile - tile_first) * PANEL;
    __global const STORED *from = group_weights + (long)FIRST_CHANNEL(tile) * ${weight_strides[0]};
% if weight_strides[1] == kernel_size:
    for (int i = 0; i < CHANNEL_TILE; ++i)
        convert_weights(to + i * ${tile_strides[0]}, from + (long)i * ${weight_strides[0]}, c_count * KERNEL_SIZE);
% else:
    for (int c = 0; c < c_count; ++c)
        convert_weights(to + c * ${tile_strides[1]}, from + (long)c * ${weight_strides[1]}, CHANNEL_TILE * KERNEL_SIZE);
% endif
}
</%def>\
## Where the vectors of a place are, in the strip (strip0, strip1, …) and among the task's positions.
<%def name="place()">\
// Where each vector is: mostly side by side in one row.
const int whole = in_row + VECTORS <= row_count;
int vector_row[VECTORS], vector_at[VECTORS];
__local const SUM *strip0 = strip + row * row_pitch + in_row * LANES;
vector_row[0] = row, vector_at[0] = in_row * LANES;
% for j in range(1, vectors):
__local const SUM *strip${j} = strip0 + ${j} * LANES;
% endfor
if (whole) {
% for j in range(1, vectors):
    vector_row[${j}] = row, vector_at[${j}] = vector_at[0] + ${j} * LANES;
% endfor
    in_row += VECTORS;
    if (in_row == row_count) in_row = 0, ++row;
} else {
    // A vector behind the last one repeats it and is not stored.
% for j in range(1, vectors):
    if (v + ${j} < vector_count && ++in_row == row_count) in_row = 0, ++row;
    vector_row[${j}] = row, vector_at[${j}] = in_row * LANES;
    strip${j} = strip + row * row_pitch + in_row * LANES;
% endfor
    if (++in_row == row_count) in_row = 0, ++row;
}
</%def>\
