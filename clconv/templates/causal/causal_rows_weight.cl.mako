<%namespace name="causal" file="causal.cl.mako"/>\
## causal_rows_weight: sums of a share of the units (n, chunk of positions q) of rows that are contiguous
##   partial[share, c*WIDTH + k]       = sum_q grad[n,c,q] * x[n,c, q + k - BEFORE]
##   partial[share, channels*WIDTH + c] = sum_q grad[n,c,q]
## in the order of the units. With `seq_idx` a product counts only if its two positions have one number that
## is not negative.
##
## One work-group owns a share of one channel, its work-items LANES positions in turn; TAPS taps at a time.
<%
    packed = "seq_idx" in bound
%>\
${causal.declarations()}
#define TAPS ${taps}  // that are summed at once
% if packed:
${causal.sequences()}
% endif
// The first `left` of LANES samples from position p on, zeros behind them. Before the row lie its states.
static inline VECTOR samples(__global const STORED *row, const long p, const long left
% if "states" in bound:
                             , __global const STORED *before, const long step
% endif
                             )
{
    if (p >= 0) return load_some(row + p, left);
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        SUM value = 0;
        if (p + e >= 0 && e < left) value = load(row + p + e);
% if "states" in bound:
        else if (e < left) value = load(before + (BEFORE + p + e) * step);
% endif
        v.lane[e] = value;
    }
    return v.vector;
}

<%def name="add_positions()">\
const VECTOR g = load_gradients(grad_row + q, length - q);
% if packed:
const INDICES here = load_indices(numbers, q, length);
% endif
UNROLL for (int t = 0; t < TAPS; ++t) {
    const long p = q + k + t - BEFORE;
    // Samples at outputs alone: those behind the row have gradients of zero, whose product may be NaN.
    const long left = length - (p > q ? p : q);
% if packed:
    const INDICES chosen = (load_indices(numbers, p, length) == here) & (here >= 0);
    sums[t] += where(chosen, g * samples(row, p, left));
% else:
    sums[t] = g * samples(row, p, left${", before, states_step" if "states" in bound else ""}) + sums[t];
% endif
}
% if bias:
total += ${"where(here >= 0, g)" if packed else "g"};
% endif
</%def>\
## Sum t of the group, from what its work-items have: all of them wait for each other twice.
<%def name="add_items()">\
% if group > 1:
UNROLL for (int t = 0; t < TAPS; ++t) item_sums[t * GROUP + get_local_id(0)] = sums[t];
item_sums[TAPS * GROUP + get_local_id(0)] = total;
barrier(CLK_LOCAL_MEM_FENCE);
for (int t = get_local_id(0); t < TAPS + 1; t += GROUP) {
    SUM all = 0;
    for (int i = 0; i < GROUP; ++i) all += item_sums[t * GROUP + i];
    ${keep("t", "all")}
}
barrier(CLK_LOCAL_MEM_FENCE);
% else:
UNROLL for (int t = 0; t < TAPS; ++t) {
    ${keep("t", "sum_lanes(sums[t])")}
}
${keep("TAPS", "sum_lanes(total)")}
% endif
</%def>\
<%def name="keep(t, value)">\
if (${t} < TAPS && k + ${t} < WIDTH) to[c * WIDTH + k + ${t}] = ${value};
% if bias:
if (${t} == TAPS && k == 0) to[channels * WIDTH + c] = ${value};
% endif
</%def>\
__kernel ${attributes}
void causal_rows_weight(${signature})
{
% if group > 1:
    __local SUM item_sums[(TAPS + 1) * GROUP];
% endif
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long c = task % channels, share = task / channels;
        __global SUM *to = partial + partial_offset + share * count;
        for (int k = 0; k < WIDTH; k += TAPS) {
            VECTOR sums[TAPS];
            UNROLL for (int t = 0; t < TAPS; ++t) sums[t] = (SUM)0;
            VECTOR total = (SUM)0;
            for (long unit = share; unit < units; unit += shares) {
                const long n = unit / chunks, begin = unit % chunks * chunk;
                const long end = begin + chunk < length ? begin + chunk : length;
                __global const STORED *row = x + x_offset + n * x_batch + c * x_outer;
                __global const GRADIENT *grad_row = grad + grad_offset + n * grad_batch + c * grad_outer;
% if packed:
                __global const int *numbers = seq_idx + seq_idx_offset + n * length;
% endif
% if "states" in bound:
                __global const STORED *before = states + states_offset + n * states_batch + c * states_channel;
% endif
                for (long q = begin + (long)get_local_id(0) * LANES; q < end; q += GROUP * LANES) {
                    ${add_positions()}
                }
            }
            ${add_items()}
        }
    }
}
