<%namespace name="causal" file="causal.cl.mako"/>\
## causal_rows, whose rows are contiguous; n batch, c channel, q output position, p input position, k tap:
##   forward   y[n,c,q] = finish(bias[c] + sum_{k<WIDTH} weight[c,k] * x[n,c, q + k - BEFORE])
##   through   the same sums, then y[n,c,q] = grad[n,c,q] * silu'(sum)
##   input     y[n,c,p] = sum_{k<WIDTH, p + BEFORE - k < length} weight[c,k] * grad[n,c, p + BEFORE - k]
##                        + grad_final[n,c, p - (length - BEFORE)], where that is not negative
## With `seq_idx` a product counts only if its two positions have one number, and results of padding are 0.
##
## One work-group owns `chunk` positions of one row, its work-items LANES of them in turn.
<%
    backward = pass_ == "input"
    through = pass_ == "through"
    read = "grad" if backward else "x"
    whole = "load_gradient_vector" if backward else "load_vector"
    other = "q + BEFORE - k" if backward else "p + k"
    packed = "seq_idx" in bound
    kept = width <= unrolled
    tap = "w[k]" if kept else "load(w + k)"
%>\
${causal.declarations()}
% if packed:
${causal.sequences()}
% endif
% if not backward:
${causal.finishing(through, silu)}
// LANES samples from position p on; none but those of the row and of its states are read.
static inline VECTOR samples(__global const STORED *row, const long p, const long length
% if "states" in bound:
                             , __global const STORED *before, const long step
% endif
                             )
{
    if (p >= 0) return load_some(row + p, length - p);
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        SUM value = 0;
        if (p + e >= 0 && p + e < length) value = load(row + p + e);
% if "states" in bound:
        else if (p + e < 0) value = load(before + (BEFORE + p + e) * step);
% endif
        v.lane[e] = value;
    }
    return v.vector;
}
% endif

<%def name="inside()">\
% if packed:
const INDICES here = load_indices(numbers, q, length);
% endif
${"UNROLL" if kept else "NO_UNROLL"} for (int k = 0; k < WIDTH; ++k) {
% if packed:
    const INDICES there = load_indices(numbers, ${other}, length);
    const INDICES chosen = ${"(there == here) & (here >= 0)" if backward else "there == here"};
    sum += where(chosen, ${tap} * ${whole}(row + ${other}));
% else:
    sum = ${tap} * ${whole}(row + ${other}) + sum;
% endif
}
</%def>\
<%def name="at_an_end()">\
% if packed:
const INDICES here = load_indices(numbers, q, length);
% endif
% if backward:
// Where there is no output there is no product, rather than one with zero.
LANE_ARRAY ends;
NO_UNROLL for (int e = 0; e < LANES; ++e) {
    const long at = q + e;
    SUM one = 0;
    NO_UNROLL for (int k = 0; k < WIDTH; ++k) {
        const long other = at + BEFORE - k;
        if (other < length${" && numbers[other] == numbers[at] && numbers[at] >= 0" if packed else ""})
            one = ${tap} * load_gradient(row + other) + one;
    }
% if "grad_final" in bound:
    const long i = at - (length - BEFORE);
    if (i >= 0 && i < BEFORE)
        one += load(grad_final + grad_final_offset + n * final_batch + c * final_channel + i * final_step);
% endif
    ends.lane[e] = one;
}
sum = ends.vector;
% else:
NO_UNROLL for (int k = 0; k < WIDTH; ++k) {
% if packed:
    sum += where(load_indices(numbers, p + k, length) == here, ${tap} * samples(row, p + k, length));
% else:
    sum = ${tap} * samples(row, p + k, length${", before, states_step" if "states" in bound else ""}) + sum;
% endif
}
% endif
</%def>\
__kernel ${attributes}
void causal_rows(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long n = task / chunks / channels, c = task / chunks % channels;
        const long begin = task % chunks * chunk;
        const long end = begin + chunk < length ? begin + chunk : length;
        __global const ${"GRADIENT" if backward else "STORED"} *row = ${read} + ${read}_offset + n * ${read}_batch + c * ${read}_outer;
        __global RESULT *y_row = y + y_offset + n * y_batch + c * y_outer;
% if through:
        __global const STORED *grad_row = grad + grad_offset + n * grad_batch + c * grad_outer;
% endif
% if packed:
        __global const int *numbers = seq_idx + seq_idx_offset + n * length;
% endif
% if "states" in bound:
        __global const STORED *before = states + states_offset + n * states_batch + c * states_channel;
% endif
% if kept:
        SUM w[WIDTH];
        UNROLL for (int k = 0; k < WIDTH; ++k) w[k] = load(weight + weight_offset + c * WIDTH + k);
% else:
        __global const STORED *w = weight + weight_offset + c * WIDTH;
% endif
        const SUM first = ${"load(bias + bias_offset + c)" if "bias" in bound else "(SUM)0"};
        for (long q = begin + (long)get_local_id(0) * LANES; q < end; q += GROUP * LANES) {
            const long p = q - BEFORE;
            VECTOR sum = first;
% if backward:
            if (q + LANES + BEFORE <= length) {
% else:
            if (p >= 0 && q + LANES <= length) {
% endif
                ${inside()}
            } else {
                ${at_an_end()}
            }
% if through:
            sum = finish(sum, load_some(grad_row + q, length - q));
% elif not backward:
            sum = finish(sum);
% endif
% if packed and not backward:
            sum = where(load_indices(numbers, q, length) >= 0, sum);
% endif
            store_some(y_row + q, sum, length - q);
        }
    }
}
