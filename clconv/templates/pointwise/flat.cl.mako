## Places of convolution_pointwise whose positions are counted through all rows: where their lanes are,
## the panel of what they read, and how they are written.
<%def name="functions()">\
#define NOWHERE LONG_MIN
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
</%def>\
## Of each lane of a place the row and the position there, or row -1 behind the last one; and where its x
## is, from channel 0 on, or NOWHERE: rows may lie in reverse, at negative places.
<%def name="lanes_of_place()">\
long lane_row[PLACE], from[PLACE];
int lane_position[PLACE];
long row = at / positions;
int position = (int)(at - row * positions);
NO_UNROLL for (int t = 0; t < PLACE; ++t) {
    const long p = (long)position + shift;
    lane_row[t] = at + t < total ? row : -1, lane_position[t] = position;
    from[t] = at + t < total && p >= 0 && p < x_length ? row * x_batch_stride + p : NOWHERE;
    if (++position == positions) position = 0, ++row;
}
</%def>\
<%def name="fill_panel()">\
// Some channels of a lane after the other: where rows are short they are on the same lines of the cache.
NO_UNROLL for (int c_begin = 0; c_begin < c_count; c_begin += ${line}) {
    const int c_end = c_begin + ${line} < c_count ? c_begin + ${line} : c_count;
    __global const STORED *x_group = x + x_offset + ((long)g * TERMS + c_first) * x_channel_stride;
    NO_UNROLL for (int t = 0; t < PLACE; t += LANES) {
        if (in_one_row(lane_row + t) && from[t] != NOWHERE && from[t + LANES - 1] != NOWHERE) {
            for (int c = c_begin; c < c_end; ++c)
                *(__local VECTOR *)(panel + c * PLACE + t) = load_vector(x_group + c * x_channel_stride + from[t]);
            continue;
        }
        NO_UNROLL for (int e = t; e < t + LANES; ++e) {
            if (from[e] == NOWHERE) for (int c = c_begin; c < c_end; ++c) panel[c * PLACE + e] = 0;
            else for (int c = c_begin; c < c_end; ++c) panel[c * PLACE + e] = load(x_group + c * x_channel_stride + from[e]);
        }
    }
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
