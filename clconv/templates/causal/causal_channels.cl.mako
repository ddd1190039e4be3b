<%namespace name="causal" file="causal.cl.mako"/>\
## causal_channels, whose channels lie side by side: the formulas of causal_rows.
##
## A work-group owns `chunk` positions of a block of channels, each of its work-items VECTORS vectors of
## LANES channels: TILE positions of one vector, then of the next, so that rows are read in long pieces. The
## weights come from `taps`: WIDTH rows, then one of the bias or zeros, of `taps_row` elements.
<%
    backward = pass_ == "input"
    through = pass_ == "through"
    read = "grad" if backward else "x"
    several = "load_gradients" if backward else "load_some"
    called = dtype == "float16" and lanes > 1 and not (backward and grad_sums)
    whole = "load_whole" if called else "load_gradient_vector" if backward else "load_vector"
    packed = "seq_idx" in bound
%>\
${causal.declarations()}
#define TILE ${tile}
% if called:
#define load_whole(at) load_some(at, LANES)  // a call: taken in everywhere, it takes some compilers seconds
% endif
#define VECTORS ${vectors}
% if packed:
${causal.sequences()}
% endif
% if not backward:
${causal.finishing(through, silu)}
% endif
// Of the taps, which are padded to whole vectors.
static inline VECTOR load_taps(__global const SUM *at)
{
    return *(__global const SUMS_UNALIGNED *)at;
}

% if "states" in bound or "grad_final" in bound:
${causal.loading_apart()}
% endif
<%def name="at_an_end()">\
for (long q = first; q < end && q < first + TILE; ++q) {
    VECTOR sum = ${"(SUM)0" if backward else "load_taps(w + WIDTH * taps_row)"};
    NO_UNROLL for (int k = 0; k < WIDTH; ++k) {
% if backward:
        const long p = q + BEFORE - k;
        if (p >= length) continue;  // no output, so no product
% else:
        const long p = q - BEFORE + k;
% endif
% if packed:
        if (p < 0 || numbers[p] != numbers[q]) continue;
% endif
        const VECTOR w_k = load_taps(w + k * taps_row);
% if "states" in bound:
        if (p < 0) {
            sum = w_k * load_apart(before + (BEFORE + p) * states_step, states_channel, left) + sum;
            continue;
        }
% elif not backward:
        if (p < 0) {
            sum = w_k * (SUM)0 + sum;
            continue;
        }
% endif
        sum = w_k * ${several}(from + p * ${read}_outer, left) + sum;
    }
% if "grad_final" in bound:
    if (q >= length - BEFORE)
        sum += load_apart(grad_final + grad_final_offset + n * final_batch + c * final_channel
                          + (q - (length - BEFORE)) * final_step, final_channel, left);
% endif
    ${store("q", "sum", "load_some", "store_some", ", left")}
}
</%def>\
<%def name="store(q, sum, load, store, left)">\
{
    VECTOR value = ${sum};
% if through:
    value = finish(value, ${load}(grad + grad_offset + n * grad_batch + ${q} * grad_outer + c${left}));
% elif not backward:
    value = finish(value);
% endif
% if packed:
    if (numbers[${q}] < 0) value = (SUM)0;
% endif
    ${store}(to + ${q} * y_outer, value${left});
}
</%def>\
<%def name="inside()">\
VECTOR sums[TILE];
UNROLL for (int t = 0; t < TILE; ++t) sums[t] = ${"(SUM)0" if backward else "load_taps(w + WIDTH * taps_row)"};
__global const ${"GRADIENT" if backward else "STORED"} *at = from + (first${"" if backward else " - BEFORE"}) * ${read}_outer;
% if width <= unrolled:
VECTOR kept[WIDTH];
UNROLL for (int k = 0; k < WIDTH; ++k) kept[k] = load_taps(w + ${"(BEFORE - k)" if backward else "k"} * taps_row);
UNROLL for (int i = 0; i < TILE + BEFORE; ++i) {
    const VECTOR sample = ${whole}(at + i * ${read}_outer);
    UNROLL for (int t = 0; t < TILE; ++t)
        if (i >= t && i - t < WIDTH) sums[t] = kept[i - t] * sample + sums[t];
}
% else:
for (int k = 0; k < WIDTH; ++k) {
    const VECTOR w_k = load_taps(w + ${"(BEFORE - k)" if backward else "k"} * taps_row);
    UNROLL for (int t = 0; t < TILE; ++t) sums[t] = w_k * ${whole}(at + (k + t) * ${read}_outer) + sums[t];
}
% endif
UNROLL for (int t = 0; t < TILE; ++t)
    ${store("(first + t)", "sums[t]", "load_whole" if called else "load_vector", "store_whole", "")}
</%def>\
__kernel ${attributes}
void causal_channels(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long block = task % blocks, n = task / blocks / chunks;
        const long begin = task / blocks % chunks * chunk;
        const long end = begin + chunk < length ? begin + chunk : length;
% if packed:
        __global const int *numbers = seq_idx + seq_idx_offset + n * length;
% endif
        for (long first = begin; first < end; first += TILE) {
% if backward:
            const int whole = first + TILE + BEFORE <= length${" && one_sequence(numbers, first, TILE + BEFORE)" if packed else ""};
% else:
            const int whole = first >= BEFORE && first + TILE <= length${" && one_sequence(numbers, first - BEFORE, TILE + BEFORE)" if packed else ""};
% endif
            for (int v = 0; v < VECTORS; ++v) {
                const long c = ((block * VECTORS + v) * GROUP + (long)get_local_id(0)) * LANES;
                const long left = channels - c;
                if (left <= 0) break;
                __global const ${"GRADIENT" if backward else "STORED"} *from = ${read} + ${read}_offset + n * ${read}_batch + c;
                __global RESULT *to = y + y_offset + n * y_batch + c;
                __global const SUM *w = taps + taps_offset + c;
% if "states" in bound:
                __global const STORED *before = states + states_offset + n * states_batch + c * states_channel;
% endif
                if (whole && left >= LANES) {
                    ${inside()}
                } else {
                    ${at_an_end()}
                }
            }
        }
    }
}
