<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="flat" file="flat.cl.mako"/>\
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

${flat.functions()}

${epilogue.functions()}

## All channels of a tile; `load` gives the vectors of x.
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
<%def name="each_sum(statement)">\
% for i in range(channel_tile):
% for j in range(vectors):
${statement.format(sum="s%d_%d" % (i, j), index=i * vectors + j)}
% endfor
% endfor
</%def>\
<%def name="in_array()">\
VECTOR sums[CHANNEL_TILE * VECTORS];
${each_sum("sums[{index}] = {sum};")}
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
## A tile at a place that is counted through all rows.
<%def name="tile_of_panel()">\
${begin()}
% if spill_tiles:
// Where other channels follow, the sums wait in local memory.
__local VECTOR *spilled_tile = (__local VECTOR *)spilled + (tile - group_tile) * (CHANNEL_TILE * VECTORS);
if (c_first) {
    ${each_sum("{sum} = spilled_tile[{index}];")}
}
% endif
${products(of_panel)}
% if spill_tiles:
if (c_first + TERM_BLOCK < term_count) {
    ${each_sum("spilled_tile[{index}] = {sum};")}
    continue;
}
% endif
${in_array()}
NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
    NO_UNROLL for (int j = 0; j < VECTORS; ++j) {
        const long channel = (long)g * CHANNELS + m + i;
        const long *rows = lane_row + j * LANES;
        const int *at_row = lane_position + j * LANES;
        VECTOR v = sums[i * VECTORS + j];
% if backward:
        // A position that nothing was read for has no products, also with weights that are infinite.
        LANE_ARRAY own;
        own.vector = v;
        NO_UNROLL for (int e = 0; e < LANES; ++e) own.lane[e] = from[j * LANES + e] == NOWHERE ? (SUM)0 : own.lane[e];
        v = own.vector;
% endif
        ${flat.finish_lanes()}
    }
</%def>\
## A tile's channels and weights.
<%def name="channels_of_tile()">\
const int g = tile / TILES, wanted = (tile - g * TILES) * CHANNEL_TILE;
// The last tile begins early, to be whole, and does not store what its neighbour does.
const int m = ${"wanted < CHANNELS - CHANNEL_TILE ? wanted : CHANNELS - CHANNEL_TILE" if channels % channel_tile else "wanted"};
__global const STORED *weights = weight + weight_offset + (long)g * CHANNELS * TERMS + (long)m * ${channel_step};
</%def>\
## A block of tiles at a place.
<%def name="place_of_row()">\
for (int tile = tile_first; tile < tile_last; ++tile) {
    ${channels_of_tile()}
    ${tile_of_row()}
}
</%def>\
<%def name="place_of_panel()">\
${flat.lanes_of_place()}
for (int group_tile = tile_first, group_end; group_tile < tile_last; group_tile = group_end) {
    const int g = group_tile / TILES;
    group_end = tile_last < (g + 1) * TILES ? tile_last : (g + 1) * TILES;
    for (int c_first = 0; c_first < term_count; c_first += TERM_BLOCK) {
        const int c_count = term_count - c_first < TERM_BLOCK ? term_count - c_first : TERM_BLOCK;
        ${flat.fill_panel()}
        for (int tile = group_tile; tile < group_end; ++tile) {
            ${channels_of_tile()}
            weights += (long)c_first * ${term_step};
            ${tile_of_panel()}
        }
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
        // A loop for each: in one for both, gradients took up to a quarter longer on Intel's runtime.
        if (flat)
            for (long place = place_first; place < place_end; ++place) {
                const long at = place * PLACE;
                ${place_of_panel()}
            }
        else
            for (long place = place_first; place < place_end; ++place) {
                const long at = place * PLACE;
                ${place_of_row()}
            }
    }
}
</%kernel:of_groups>\
