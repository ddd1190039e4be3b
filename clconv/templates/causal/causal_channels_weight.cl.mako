<%namespace name="causal" file="causal.cl.mako"/>\
## causal_channels_weight: the sums of causal_rows_weight where channels lie side by side
##
## A work-group owns a share of a block of channels, each of its work-items VECTORS vectors of LANES
## channels, and adds one unit after the other to `partial`; TAPS taps at a time.
<%
    packed = "seq_idx" in bound
%>\
${causal.declarations()}
#define TAPS ${taps}  // that are summed at once
#define VECTORS ${vectors}
% if "states" in bound:
${causal.loading_apart()}
% endif
// Adds the first `left` lanes, `step` apart, to what is there, or puts them where nothing is.
static inline void add_apart(__global SUM *at, const int step, const VECTOR value, const long left, const int new)
{
    LANE_ARRAY v;
    v.vector = value;
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        if (e < left) at[(long)e * step] = new ? v.lane[e] : at[(long)e * step] + v.lane[e];
}

<%def name="add_position()">\
const VECTOR g = load_gradients(grad_from + q * grad_outer, left);
% if packed:
if (numbers[q] < 0) continue;
% endif
% if bias:
total += g;
% endif
if (q >= BEFORE && k + TAPS <= WIDTH) {
    UNROLL for (int t = 0; t < TAPS; ++t) {
        const long p = q + k + t - BEFORE;
% if packed:
        if (numbers[p] == numbers[q])
% endif
        sums[t] = g * load_some(from + p * x_outer, left) + sums[t];
    }
} else {
    UNROLL for (int t = 0; t < TAPS; ++t) {
        const long p = q + k + t - BEFORE;
        if (k + t >= WIDTH) continue;
% if packed:
        if (p < 0 || numbers[p] != numbers[q]) continue;
        sums[t] = g * load_some(from + p * x_outer, left) + sums[t];
% elif "states" in bound:
        sums[t] = g * (p < 0 ? load_apart(before + (BEFORE + p) * states_step, states_channel, left)
                             : load_some(from + p * x_outer, left)) + sums[t];
% else:
        sums[t] = g * (p < 0 ? (VECTOR)0 : load_some(from + p * x_outer, left)) + sums[t];
% endif
    }
}
</%def>\
__kernel ${attributes}
void causal_channels_weight(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long block = task % blocks, share = task / blocks;
        __global SUM *to = partial + partial_offset + share * count;
        for (long unit = share; unit < units; unit += shares) {
            const long n = unit / chunks, begin = unit % chunks * chunk;
            const long end = begin + chunk < length ? begin + chunk : length;
% if packed:
            __global const int *numbers = seq_idx + seq_idx_offset + n * length;
% endif
            for (int v = 0; v < VECTORS; ++v) {
                const long c = ((block * VECTORS + v) * GROUP + (long)get_local_id(0)) * LANES;
                const long left = channels - c;
                if (left <= 0) break;
                __global const STORED *from = x + x_offset + n * x_batch + c;
                __global const GRADIENT *grad_from = grad + grad_offset + n * grad_batch + c;
% if "states" in bound:
                __global const STORED *before = states + states_offset + n * states_batch + c * states_channel;
% endif
                for (int k = 0; k < WIDTH; k += TAPS) {
                    VECTOR sums[TAPS];
                    UNROLL for (int t = 0; t < TAPS; ++t) sums[t] = (SUM)0;
                    VECTOR total = (SUM)0;
                    for (long q = begin; q < end; ++q) {
                        ${add_position()}
                    }
                    UNROLL for (int t = 0; t < TAPS; ++t)
                        if (k + t < WIDTH) add_apart(to + c * WIDTH + k + t, WIDTH, sums[t], left, unit == share);
% if bias:
                    if (k == 0) add_apart(to + channels * WIDTH + c, 1, total, left, unit == share);
% endif
                }
            }
        }
    }
}
