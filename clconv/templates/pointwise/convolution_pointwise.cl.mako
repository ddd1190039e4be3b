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

// Whether the lanes of a vector are neighbours in a row, by their rows.
static inline int in_one_row(const long *rows) { return rows[0] >= 0 && rows[0] == rows[LANES - 1]; }

// Lane e is at position positions[e] of row rows[e]; or nowhere, if that is negative.
static inline void store_lanes(__global STORED *at, const long batch_stride, const long *rows, const int *positions, const VECTOR v)
{
    if (in_one_row(rows)) {
        store_vector(at + rows[0] * batch_stride + positions[0], v);
        return;
    }
    LANE_ARRAY lanes;
    lanes.vector = v;
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        if (rows[e] >= 0) store(at + rows[e] * batch_stride + positions[e], lanes.lane[e]);
}
% if "residual" in bound:

static inline VECTOR load_lanes(__global const STORED *at, const long batch_stride, const long *rows, const int *positions)
{
    if (in_one_row(rows)) return load_vector(at + rows[0] * batch_stride + positions[0]);
    LANE_ARRAY lanes;
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        lanes.lane[e] = rows[e] < 0 ? (SUM)0 : load(at + rows[e] * batch_stride + positions[e]);
    return lanes.vector;
}
% endif

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
## Of each lane of a place the row and the position there, or row -1 behind the last one; and where its x
## is, from channel 0 on, or -1.
<%def name="lanes_of_place()">\
long lane_row[PLACE], from[PLACE];
int lane_position[PLACE];
long row = at / positions;
int position = (int)(at - row * positions);
NO_UNROLL for (int t = 0; t < PLACE; ++t) {
    const long p = (long)position + shift;
    lane_row[t] = at + t < total ? row : -1, lane_position[t] = position;
    from[t] = at + t < total && p >= 0 && p < x_length ? row * x_batch_stride + p : -1;
    if (++position == positions) position = 0, ++row;
}
</%def>\
<%def name="fill_panel()">\
// Some channels of a lane after the other: where rows are short they are on the same lines of the cache.
NO_UNROLL for (int c_begin = 0; c_begin < c_count; c_begin += ${line}) {
    const int c_end = c_begin + ${line} < c_count ? c_begin + ${line} : c_count;
    __global const STORED *x_group = x + x_offset + ((long)g * TERMS + c_first) * x_channel_stride;
    NO_UNROLL for (int t = 0; t < PLACE; t += LANES) {
        if (in_one_row(lane_row + t) && from[t] >= 0 && from[t + LANES - 1] >= 0) {
            for (int c = c_begin; c < c_end; ++c)
                *(__local VECTOR *)(panel + c * PLACE + t) = load_vector(x_group + c * x_channel_stride + from[t]);
            continue;
        }
        NO_UNROLL for (int e = t; e < t + LANES; ++e) {
            if (from[e] < 0) for (int c = c_begin; c < c_end; ++c) panel[c * PLACE + e] = 0;
            else for (int c = c_begin; c < c_end; ++c) panel[c * PLACE + e] = load(x_group + c * x_channel_stride + from[e]);
        }
    }
}
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
        NO_UNROLL for (int e = 0; e < LANES; ++e) own.lane[e] = from[j * LANES + e] < 0 ? (SUM)0 : own.lane[e];
        v = own.vector;
% endif
        ${finish_lanes()}
    }
</%def>\
## The epilogue of a vector whose lanes may be of several rows.
<%def name="finish_lanes()">\
% if "bias" in bound:
v += (VECTOR)load(bias + bias_offset + channel);
% endif
% if "residual" in bound:
v += load_lanes(residual + residual_offset + channel * residual_channel_stride, residual_batch_stride, rows, at_row);
% endif
% if "pre_activation" in bound:
store_lanes(pre_activation + pre_activation_offset + channel * pre_activation_channel_stride, pre_activation_batch_stride, rows, at_row, v);
% endif
% if activation:
v = activate(v, slope);
% endif
store_lanes(y + y_offset + channel * y_channel_stride, y_batch_stride, rows, at_row, v);
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
${lanes_of_place()}
for (int group_tile = tile_first, group_end; group_tile < tile_last; group_tile = group_end) {
    const int g = group_tile / TILES;
    group_end = tile_last < (g + 1) * TILES ? tile_last : (g + 1) * TILES;
    for (int c_first = 0; c_first < term_count; c_first += TERM_BLOCK) {
        const int c_count = term_count - c_first < TERM_BLOCK ? term_count - c_first : TERM_BLOCK;
        ${fill_panel()}
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
        for (long place = place_first; place < place_end; ++place) {
            const long at = place * PLACE;
            if (flat) {
                ${place_of_panel()}
            } else {
                ${place_of_row()}
            }
        }
    }
}
</%kernel:of_groups>\
