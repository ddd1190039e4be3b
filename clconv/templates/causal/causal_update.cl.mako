<%namespace name="causal" file="causal.cl.mako"/>\
## causal_update: a few more positions of sequences whose last samples are in states
##   y[n,c,q] = finish(bias[c] + sum_{k<WIDTH} weight[c,k] * (state, then x)[q + k + 1 of the last ones])
## and x joins the state, as its last samples, or in a `ring` behind the cache_seqlens[n] that it had so far.
## Row n has the state `conv_state_indices[n]`, else n. A negative index is padding: y is 0, and no state
## changes. An index that no state has gives NaN, and changes none.
##
## One work-item owns LANES channels of one row, and their state.
<%
    ring = "cache_seqlens" in bound
%>\
#define WIDTH ${width}
#define BEFORE (WIDTH - 1)  // samples that an output reads before its own position

${causal.loading_apart()}

${causal.kind()} void store_apart(__global STORED *at, const long step, const VECTOR value, const long left)
{
    if (step == 1 && left >= LANES) {
        store_vector(at, value);
        return;
    }
    LANE_ARRAY v;
    v.vector = value;
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        if (e < left) store(at + e * step, v.lane[e]);
}

${causal.finishing(False, silu)}

<%def name="sums()">\
for (long q = 0; q < length; ++q) {
    VECTOR sum = ${"load_apart(bias + bias_offset + c, 1, left)" if "bias" in bound else "(SUM)0"};
    ${"UNROLL" if width <= unrolled else "NO_UNROLL"} for (int k = 0; k < WIDTH; ++k) {
        const long p = q + k - BEFORE;
        const VECTOR w = load_apart(weight + weight_offset + c * WIDTH + k, WIDTH, left);
        const VECTOR sample = p >= 0 ? load_apart(x_from + p * x_step, x_channel, left)
% if ring:
            : load_apart(state + (begin + p + (begin + p < 0 ? state_length : 0)) * state_step, state_channel, left);
% else:
            : load_apart(state + (state_length + p) * state_step, state_channel, left);
% endif
        sum = w * sample + sum;
    }
    store_apart(y_to + q * y_step, y_channel, finish(sum), left);
}
</%def>\
<%def name="change_state()">\
NO_UNROLL for (int e = 0; e < LANES && e < left; ++e) {
    __global STORED *own = state + e * state_channel;
    __global const STORED *samples = x_from + e * x_channel;
    const long skipped = length > state_length ? length - state_length : 0;
% if ring:
    for (long q = skipped; q < length; ++q) own[(begin + q) % state_length * state_step] = samples[q * x_step];
% else:
    for (long j = 0; j < state_length - length; ++j) own[j * state_step] = own[(j + length) * state_step];
    for (long q = skipped; q < length; ++q) own[(state_length - length + q) * state_step] = samples[q * x_step];
% endif
}
</%def>\
__kernel ${attributes}
void causal_update(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long n = i / blocks, c = i % blocks * LANES;
        const long left = channels - c;
        const long entry = ${"conv_state_indices[conv_state_indices_offset + n]" if "conv_state_indices" in bound else "n"};
        __global const STORED *x_from = x + x_offset + n * x_batch + c * x_channel;
        __global STORED *y_to = y + y_offset + n * y_batch + c * y_channel;
        if (entry < 0 || entry >= entries) {
            const VECTOR value = entry < 0 ? (SUM)0 : (SUM)NAN;
            for (long q = 0; q < length; ++q) store_apart(y_to + q * y_step, y_channel, value, left);
            continue;
        }
        __global STORED *state = conv_state + conv_state_offset + entry * state_batch + c * state_channel;
% if ring:
        const long lengths = cache_seqlens[cache_seqlens_offset + n];
        const long begin = state_length ? (lengths % state_length + state_length) % state_length : 0;
% endif
        ${sums()}
        if (state_length > 0) {
            ${change_state()}
        }
    }
}
