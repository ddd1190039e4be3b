<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
## convolution_pointwise, a kernel_size and a stride of 1; the forward pass:
##   y[n,m,q] = epilogue(sum_{c<TERMS} weight[m,c] * x[n, g*TERMS + c, q + shift])
## or the input gradient (BACKWARD), whose weights are read as weight[c,m]:
##   n batch, g group, m channel written, c channel of g summed over, q position written
##
## For CPUs: one work-item a work-group. It owns some tiles of CHANNEL_TILE channels m, and some places
## of PLACE = VECTORS * LANES positions, and sums all channels c of a tile in registers.
##   Rows (flat == 0): positions are counted in each row, x is read where it lies, and all that is read
##   and written lies inside a row. A row's last place begins early, to be whole; what it shares with the
##   place before it, it writes again, with the same values: both belong to one task.
##   Flat (flat == 1), for rows that are shorter than a place, and where some positions have no x
##   (padding): positions are counted through all rows. A place's x is copied to local memory once, lane
##   by lane, TERM_BLOCK channels at a time:
##     panel[c][t] = x of position first + t, or 0 where there is none.
## Dimension 0 is tasks, and loops.
<%
    term_step, channel_step = (channels, 1) if backward else (1, terms)
%>\
#define TERMS ${terms}  // channels summed over, a group
#define CHANNELS ${channels}  // channels written, a group
#define GROUPS ${groups}
#define CHANNEL_TILE ${channel_tile}  // channels a tile
#define VECTORS ${vectors}  // vectors of positions a tile
#define PLACE (VECTORS * LANES)  // positions a tile
#define TILES ${-(-channels // channel_tile)}  // tiles of channels a group
#define TERM_BLOCK ${term_block}  // channels summed over that the panel holds

${epilogue.functions()}

## Of all channels of a tile, of which `load` gives the vectors of x, and which `channel` names.
<%def name="products(load)">\
for (int c = 0; c < c_count; ++c) {
% for j in range(vectors):
    const VECTOR x${j} = ${load(j)};
% endfor
    __global const STORED *w = weights + ${"" if short_index else "(long)"}c * ${term_step};
% for i in range(channel_tile):
    const SUM w${i} = load(w + ${i * channel_step});
% for j in range(vectors):
    s${i}_${j} = w${i} * x${j} + s${i}_${j};
% endfor
% endfor
}
</%def>\
<%def name="of_row(j)">load_vector(x_place + c * x_channel_stride + ${j} * LANES)</%def>\
<%def name="of_panel(j)">*(__local const VECTOR *)(panel + c * PLACE + ${j} * LANES)</%def>\
<%def name="begin()">\
% for i in range(channel_tile):
% for j in range(vectors):
VECTOR s${i}_${j} = 0;
% endfor
% endfor
</%def>\
<%def name="in_array()">\
VECTOR sums[CHANNEL_TILE * VECTORS];
% for i in range(channel_tile):
% for j in range(vectors):
sums[${i * vectors + j}] = s${i}_${j};
% endfor
% endfor
</%def>\
## A tile at a place of a row.
<%def name="tile_of_row()">\
const int q = at < positions - PLACE ? (int)at : positions - PLACE;
const int c_count = term_count, inside = 1;
__global const STORED *x_place = x + x_offset + n * x_batch_stride + (long)g * TERMS * x_channel_stride + (q + shift);
${begin()}
${products(of_row)}
% if straight:
% for i in range(channel_tile):
${"if (m + %d >= wanted) " % i if channels % channel_tile else ""}{
    const long channel = (long)g * CHANNELS + m + ${i};
% for j in range(vectors):
    ${epilogue.finish("s%d_%d" % (i, j), "channel", "q + %d * LANES" % j, "1", "0", "positions")}
% endfor
}
% endfor
% else:
${in_array()}
NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
    NO_UNROLL for (int j = 0; j < VECTORS; ++j) {
        const long channel = (long)g * CHANNELS + m + i;
        ${epilogue.finish("sums[i * VECTORS + j]", "channel", "q + j * LANES", "1", "0", "positions")}
    }
% endif
</%def>\
## Where each lane of a place has its x, from channel 0 on, or -1; and which vectors have theirs side by
## side.
<%def name="lanes_of_place()">\
long from[PLACE];
int together[VECTORS];
NO_UNROLL for (int t = 0; t < PLACE; ++t) {
    const long n = (at + t) / positions, p = at + t - n * positions + shift;
    from[t] = at + t < total && p >= 0 && p < x_length ? n * x_batch_stride + p : -1;
}
NO_UNROLL for (int j = 0; j < VECTORS; ++j) {
    const long begin = at + j * LANES;
    together[j] = begin / positions == (begin + LANES - 1) / positions && from[j * LANES] >= 0 && from[(j + 1) * LANES - 1] >= 0;
}
int in_panel = -1;
</%def>\
<%def name="fill_panel()">\
NO_UNROLL for (int c = 0; c < c_count; ++c) {
    __global const STORED *x_row = x + x_offset + ((long)g * TERMS + c_first + c) * x_channel_stride;
    NO_UNROLL for (int j = 0; j < VECTORS; ++j) {
        __local SUM *to = panel + c * PLACE + j * LANES;
        const long *lane_from = from + j * LANES;
        if (together[j]) *(__local VECTOR *)to = load_vector(x_row + lane_from[0]);
        else NO_UNROLL for (int e = 0; e < LANES; ++e) to[e] = lane_from[e] < 0 ? (SUM)0 : load(x_row + lane_from[e]);
    }
}
</%def>\
## A tile at a place that is counted through all rows. A vector may be of several of these.
<%def name="tile_of_panel()">\
${begin()}
__global const STORED *all_weights = weights;
for (int c_first = 0; c_first < term_count; c_first += TERM_BLOCK) {
    const int c_count = term_count - c_first < TERM_BLOCK ? term_count - c_first : TERM_BLOCK;
    const int wanted_panel = g + c_first / TERM_BLOCK * GROUPS;
    if (in_panel != wanted_panel) {
        ${fill_panel()}
        in_panel = wanted_panel;
    }
    weights = all_weights + (long)c_first * ${term_step};
    ${products(of_panel)}
}
${in_array()}
NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
    NO_UNROLL for (int j = 0; j < VECTORS && at + j * LANES < total; ++j) {
        const long channel = (long)g * CHANNELS + m + i, begin = at + j * LANES;
% if backward:
        // A position that nothing was read for has no products, also with weights that are infinite.
        LANE_ARRAY own;
        own.vector = sums[i * VECTORS + j];
        NO_UNROLL for (int e = 0; e < LANES; ++e) own.lane[e] = from[j * LANES + e] < 0 ? (SUM)0 : own.lane[e];
        const VECTOR sum = own.vector;
% else:
        const VECTOR sum = sums[i * VECTORS + j];
% endif
        const long end = begin + LANES < total ? begin + LANES : total;
        NO_UNROLL for (long n = begin / positions; n * positions < end; ++n) {
            const int first = (int)(begin - n * positions), inside = first >= 0 && first + LANES <= positions;
            ${epilogue.finish("sum", "channel", "first", "1", "0", "positions")}
        }
    }
</%def>\
## All tiles of a block at all places of a task.
<%def name="of_places(tile, prepare=None)">\
for (long place = place_first; place < place_end; ++place) {
    const long at = place * PLACE;
% if prepare:
    ${prepare()}
% endif
    for (int tile = tile_first; tile < tile_last; ++tile) {
        const int g = tile / TILES, wanted = (tile - g * TILES) * CHANNEL_TILE;
        // The last tile begins early, to be whole, and does not store what its neighbour does.
        const int m = ${"wanted < CHANNELS - CHANNEL_TILE ? wanted : CHANNELS - CHANNEL_TILE" if channels % channel_tile else "wanted"};
        __global const STORED *weights = weight + weight_offset + (long)g * CHANNELS * TERMS + (long)m * ${channel_step};
        ${tile()}
    }
}
</%def>\
<%kernel:of_groups name="convolution_pointwise" arrays="${arrays}">\
for (long task = group; task < tasks; task += groups) {
    const long block = task % position_blocks, n = flat ? 0 : block / chunks;
    const long place_first = block % chunks * chunk_places;
    const long place_end = place_first + chunk_places < places ? place_first + chunk_places : places;
    const int tile_begin = (int)(task / position_blocks) * task_tiles;
    const int tile_end = tile_begin + task_tiles < TILES * GROUPS ? tile_begin + task_tiles : TILES * GROUPS;
    for (int tile_first = tile_begin; tile_first < tile_end; tile_first += block_tiles) {
        const int tile_last = tile_first + block_tiles < tile_end ? tile_first + block_tiles : tile_end;
        if (flat) {
            ${of_places(tile_of_panel, lanes_of_place)}
        } else {
            ${of_places(tile_of_row)}
        }
    }
}
</%kernel:of_groups>\
