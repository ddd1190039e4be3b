## What is done to sums before they are stored: activation(sum + bias + residual).
<%def name="functions()">\
${activation_function()}
% if lies["y"] == "channels":
${positions_apart()}
% endif
</%def>\
<%def name="activation_function()"><%
    f = "" if dtype == "float64" else "f"
%>\
% if activation:
static inline VECTOR activate(VECTOR v, SUM slope)
{
% if activation == "relu":
    return v < (VECTOR)0.0${f} ? (VECTOR)0.0${f} : v;  // NaN stays
% elif activation == "leaky_relu":
    return v < (VECTOR)0.0${f} ? slope * v : v;
% elif activation == "sigmoid":
    return 1.0${f} / (1.0${f} + exp(-v));
% elif activation == "tanh":
    return tanh(v);
% elif activation == "gelu":
    return 0.5${f} * v * erfc(v * -0.70710678118654752440${f});
% elif activation == "silu":
    return v / (1.0${f} + exp(-v));
% elif activation == "elu":
    return v < (VECTOR)0.0${f} ? slope * expm1(v) : v;
% endif
}
% endif
</%def>\
## As load_positions and store_positions, where channels lie side by side.
<%def name="positions_apart()">\
static inline VECTOR load_positions_apart(__global const STORED *row, const long apart, const int first, const int step,
                                          const int shift, const int limit, const int inside)
{
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const long p = (long)(first + e) * step + shift;
        const int ok = inside || (p >= 0 && p < limit);
        const SUM value = load(row + (ok ? p : 0) * apart);
        v.lane[e] = ok ? value : (SUM)0;
    }
    return v.vector;
}

static inline void store_positions_apart(__global STORED *row, const long apart, VECTOR v, const int first, const int step,
                                         const int shift, const int limit, const int inside)
{
    LANE_ARRAY lanes;
    lanes.vector = v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const long p = (long)(first + e) * step + shift;
        if (inside || (p >= 0 && p < limit)) store(row + p * apart, lanes.lane[e]);
    }
}
</%def>\
## Stores a vector of sums. The kernel has `n`, the batch element, and `inside`, 1 where no lane lies beyond `limit`.
<%def name="finish(sums, channel, first, step, shift, limit)"><%
    apart = lies["y"] == "channels"
    positions = "positions_apart" if apart else "positions"
    def row_of(name):
        """The first position of a channel; where channels lie side by side, the step to the next too."""
        row = "{0} + {0}_offset + n * {0}_batch_stride + {1}".format(name, channel)
        return "{1}, {0}_position_stride".format(name, row) if apart else "{1} * {0}_channel_stride".format(name, row)
%>\
{  // lane e belongs at (${first} + e) * ${step} + ${shift}
    VECTOR v = ${sums};
% if "bias" in bound:
    v += (VECTOR)load(bias + bias_offset + ${channel});
% endif
% if "residual" in bound:
    v += load_${positions}(${row_of("residual")},
                        ${first}, ${step}, ${shift}, ${limit}, inside);
% endif
% if "pre_activation" in bound:
    store_${positions}(${row_of("pre_activation")},
                    v, ${first}, ${step}, ${shift}, ${limit}, inside);
% endif
% if activation:
    v = activate(v, slope);
% endif
    store_${positions}(${row_of("y")},
                    v, ${first}, ${step}, ${shift}, ${limit}, inside);
}
</%def>\
