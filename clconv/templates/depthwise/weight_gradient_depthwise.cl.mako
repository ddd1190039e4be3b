<%namespace name="strip" file="strip.cl.mako"/>\
## weight_gradient_depthwise, one input channel a group, stride 1:
##   partial[s,o,k] = sum of y[n,o,q] * x[n, o / MULTIPLIER, q + k*DILATION - pad] over the share s of
##                    all (n, q); sum_partials adds the shares. A single share goes to result as
##                    sum_partials would add it. Where a bias gradient is wanted too, sum of y[n,o,q]
##                    over the same lies behind a share's weights, or goes to bias.
##   n batch, o output channel, k tap, q output position; y is the output's gradient
##
## For CPUs: one work-item a work-group. It owns all taps of one channel o, in one share. Units of
## positions, `chunk` of one row, come one after the other: x and y are copied to local memory, x with
## zeros for the padding. Then TAPS x TAP_GROUP vectors of LANES sums are kept in registers: for TAPS
## taps side by side, and TAP_GROUP such that are a whole vector apart, for which a vector of x meets
## several vectors of y. A unit's sums are added to those of the units before it; lanes are added in
## the end. Where a tile has all taps each of y is read once: in place, and so is x, but for the ends
## of rows; not those of float16, which would be converted at every tap.
##   strip[t] = x[n, o / MULTIPLIER, first - pad + t], row[t] = y[n, o, first + t]
## Dimension 0 is tasks, and loops.
##
##                 strip: positions ->                       A tile of sums, each a vector of LANES:
##   tap k          [  x of p  ][ p + 1    ] …                            group 0      group 1   …
##   tap k + 1       [  x of p  ][ p + 1   ] …                tap k       s0_0         s0_1
##   row: y          [    p     ][ p + 1   ] …                tap k + 1   s1_0         s1_1
##   Group b has the taps TAP_STRIDE * b further: what they read of x at p lies at p + b, so that the
##   vector of x at p meets y at p - b.
<%
    with_bias = "bias" in bound
    block = tap_stride * tap_group
    whole = "long" if dtype == "float64" else "int"
%>\
#define MULTIPLIER ${multiplier}  // channels o a channel of x
#define CHANNELS ${channels}  // o
#define KERNEL_SIZE ${kernel_size}
#define DILATION ${dilation}
#define REACH ((KERNEL_SIZE - 1) * DILATION)
#define UNIT ${unit}  // positions of a unit, at most
#define TAPS ${taps}
#define TAP_GROUP ${tap_group}
#define TAP_STRIDE ${tap_stride}  // taps from one to the next that reads a whole vector further
#define SHARE_SUMS ((long)CHANNELS * ${"(KERNEL_SIZE + 1)" if with_bias else "KERNEL_SIZE"})

${strip.functions(1)}

## x at vector p of the taps k … k + count - 1 times y of the vectors p - b.
<%def name="products(p, count, groups)">\
% for b in groups:
const VECTOR y${b} = y_at[${p} - ${b}];
% endfor
% for j in range(count):
{
    const VECTOR v = *(__local const SUMS *)(x_at + (${p}) * LANES + ${j} * DILATION);
% for b in groups:
    s${j}_${b} = v * y${b} + s${j}_${b};
% endfor
}
% endfor
</%def>\
## The whole vectors of a unit, of count taps times group, the first of which is k.
<%def name="tile(count, group)">\
__local const SUM *x_at = strip + k * DILATION;
% for j in range(count):
% for b in range(group):
VECTOR s${j}_${b} = 0;
% endfor
% endfor
// No vector of y before the first one or behind the last one is made up: zeros times infinity would be
// NaN.
% for p in range(group - 1):
{
    ${products(p, count, range(p + 1))}
}
% endfor
for (int p = ${group - 1}; p < vectors; ++p) {
    ${products("p", count, range(group))}
}
% for p in range(group - 1):
{
    ${products("vectors + %d" % p, count, range(p + 1, group))}
}
% endfor
% for j in range(count):
% for b in range(group):
sums[k + ${j} + ${b} * TAP_STRIDE] += s${j}_${b};
% endfor
% endfor
</%def>\
## Positions from q on whose windows lie inside the row.
<%def name="read_in_place()">\
__global const STORED *x_at = x_row + (q - pad), *y_at = y_row + q;
const int vectors = (inside_end - q) / LANES;
count = vectors * LANES;
% for j in range(taps):
VECTOR s${j} = 0;
% endfor
for (int p = 0; p < vectors; ++p) {
    const VECTOR v = load_vector(y_at + p * LANES);
% for j in range(taps):
    s${j} = v * load_vector(x_at + p * LANES + ${j} * DILATION) + s${j};
% endfor
% if with_bias:
    bias_sums += v;
% endif
}
% for j in range(taps):
sums[${j}] += s${j};
% endfor
continue;
</%def>\
## Where all of a unit goes through local memory: the pieces of the next one are prefetched.
<%def name="prefetch_next_unit()">\
if (unit + 1 < unit_end) {
    // The sums take longer than the processor remembers where it was reading.
    const int begin = (int)((unit + 1) % chunks) * chunk;
    const int ahead = out_length - begin < chunk ? out_length - begin : chunk;
    const long row_step = (unit + 1) / chunks - n;
    for (int t = begin; t < begin + ahead; t += ${line}) {
        PREFETCH(y_row + row_step * y_batch_stride + t, 0);
        if (t < length) PREFETCH(x_row + row_step * x_batch_stride + t, 0);
    }
}
</%def>\
## `count` positions from q on, through local memory: whole vectors tile by tile, then the rest.
<%def name="read_staged()">\
const int vectors = count / LANES, filled = (count + LANES - 1) / LANES * LANES;
stage(strip, x_row, (long)q - pad, filled + REACH, length, 0);
stage(row, y_row, q, filled, q + count, 0);
__local const VECTOR *y_at = (__local const VECTOR *)row;
int k = 0;
% if tap_group > 1:
if (vectors >= TAP_GROUP)
    for (; k + ${block} <= KERNEL_SIZE; k += ${block - tap_stride})
        for (const int next = k + TAP_STRIDE; k < next; k += TAPS) {
            ${tile(taps, tap_group)}
        }
% endif
for (; k + ${single} <= KERNEL_SIZE; k += ${single}) {
    ${tile(single, 1)}
}
% if single > 1:
for (; k < KERNEL_SIZE; ++k) {
    ${tile(1, 1)}
}
% endif
% if lanes > 1:
if (vectors * LANES < count) {
    const VECTOR last = y_at[vectors];
    const ${whole}${lanes} there = (${whole}${lanes})(${", ".join(map(str, range(lanes)))}) < (${whole}${lanes})(count - vectors * LANES);
    for (k = 0; k < KERNEL_SIZE; ++k) {
        const VECTOR v = *(__local const SUMS *)(strip + vectors * LANES + k * DILATION);
        sums[k] = (there ? v : (VECTOR)0) * last + sums[k];
    }
}
% endif
% if with_bias:
for (int p = 0; p < filled / LANES; ++p) bias_sums += y_at[p];
% endif
</%def>\
## The positions from `first` to `end` of a unit.
<%def name="read_unit()">\
% if in_place:
// Whole windows: inside_begin <= q < inside_end.
const int inside_begin = pad > first ? pad : first;
const int inside_end = length - REACH + pad < end ? length - REACH + pad : end;
for (int q = first, count; q < end; q += count) {
    if (q >= inside_begin && q + LANES <= inside_end) {
        ${read_in_place()}
    }
    // To where the windows are whole, or to the end.
    count = q < inside_begin && inside_begin + LANES <= inside_end ? (inside_begin - q + LANES - 1) / LANES * LANES : end - q;
    count = count < end - q ? count : end - q;
    ${read_staged()}
}
% else:
${prefetch_next_unit()}
{
    const int q = first, count = end - q;
    ${read_staged()}
}
% endif
</%def>\
__kernel ${attributes}
void weight_gradient_depthwise(${signature})
{
    __local SUM strip[UNIT + ${-(-((kernel_size - 1) * dilation) // 64) * 64}] __attribute__((aligned(64)));
    __local SUM row[UNIT] __attribute__((aligned(64)));
    __local VECTOR sums[KERNEL_SIZE];
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long share = task % shares;
        const int o = (int)(task / shares);
        for (int k = 0; k < KERNEL_SIZE; ++k) sums[k] = 0;
% if with_bias:
        VECTOR bias_sums = 0;
% endif
        const long unit_end = units * (share + 1) / shares;
        for (long unit = units * share / shares; unit < unit_end; ++unit) {
            const long n = unit / chunks;
            const int first = (int)(unit % chunks) * chunk;
            const int end = out_length - first < chunk ? out_length : first + chunk;
            __global const STORED *x_row = x + x_offset + n * x_batch_stride + (o / MULTIPLIER) * x_channel_stride;
            __global const STORED *y_row = y + y_offset + n * y_batch_stride + o * y_channel_stride;
            ${read_unit()}
        }

        __global SUM *to = partial + partial_offset + share * SHARE_SUMS;
        for (int k = 0; k < KERNEL_SIZE; ++k)
            store_share(to + (long)o * KERNEL_SIZE + k, result + result_offset + (long)o * KERNEL_SIZE + k, sum_lanes(sums[k]), shares, scale, momentum);
% if with_bias:
        store_share(to + (long)CHANNELS * KERNEL_SIZE + o, bias + bias_offset + o, sum_lanes(bias_sums), shares, scale, bias_momentum);
% endif
    }
}
