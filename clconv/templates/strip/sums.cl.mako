## A tile's sums s0_0, s0_1, …: CHANNEL_TILE x VECTORS vectors in registers, channel by channel.
<%!
    def macro(text):
        """A text's lines as one macro."""
        return " \\\n".join(text.strip("\n").split("\n")) + "\n"
%>\
## One tap: CHANNEL_TILE weights times VECTORS vectors of the strip.
<%def name="functions()">\
% if tap_group > 1:
// TAPS: ${tap_group} taps of one channel that lie a vector apart in the strip, ${tap_stride} taps from each other: a vector
// of it then serves several sums.
${taps()}
% endif
// TAP: one tap: ${channel_tile} weights at w times VECTORS vectors of the strip at `at`.
${tap("TAP", "strip{}".format)}
% if side_by_side:
// TAP_WHOLE: the same where the vectors lie side by side, which takes fewer addresses.
${tap("TAP_WHOLE", "strip0 + {} * LANES".format)}
% endif
</%def>\
<%def name="tap(name, strip_of)" filter="macro">\
#define ${name}(at, w) {
% for j in range(vectors):
    const VECTOR x${j} = *(__local const SUMS *)(${strip_of(j)} + (at));
% endfor
% for i in range(channel_tile):
    const SUM w${i} = (w)[${i * tile_strides[0]}];
% for j in range(vectors):
    s${i}_${j} = w${i} * x${j} + s${i}_${j};
% endfor
% endfor
}
</%def>\
<%def name="taps()" filter="macro">\
#define TAPS(at, k) {
% for b in range(tap_group):
    const SUM w${b} = w[WEIGHT_AT((k) + ${b * tap_stride})];
% endfor
% for i in range(vectors + tap_group - 1):
    {
        const VECTOR v = *(__local const SUMS *)(strip0 + (at) + ${i} * LANES);
% for b in range(tap_group):
% if 0 <= i - b < vectors:
        s0_${i - b} = w${b} * v + s0_${i - b};
% endif
% endfor
    }
% endfor
}
</%def>\
## The sums of a tile, with what they were before the channels that the strip holds now.
<%def name="begin()">\
% for i in range(channel_tile):
% for j in range(vectors):
VECTOR s${i}_${j} = 0;
% endfor
% endfor
% if spill_elements:
__local VECTOR *spilled_tile = (__local VECTOR *)spilled
    + (${"((tile - group_tile) * STRIDE + r)" if phases > 1 else "(tile - group_tile)"} * spill_vectors + v) * CHANNEL_TILE;
if (c_first) {
    ${each_sum("{sum} = spilled_tile[{index}];")}
}
% endif
</%def>\
## Where other channels follow, the sums leave the registers meanwhile.
<%def name="spill()">\
% if spill_elements:
if (!last_block) {
    ${each_sum("spilled_tile[{index}] = {sum};")}
    continue;
}
% endif
</%def>\
<%def name="each_sum(statement)">\
% for i in range(channel_tile):
% for j in range(vectors):
${statement.format(sum="s%d_%d" % (i, j), index=i * vectors + j)}
% endfor
% endfor
</%def>\
## In an array, for what is not worth code of its own for each of them.
<%def name="in_array()">\
VECTOR sums[CHANNEL_TILE * VECTORS];
${each_sum("sums[{index}] = {sum};")}
</%def>\
## All channels and taps. `products` writes the loops over them around the macro that is given.
<%def name="of_products(products)">\
% if tap_group > 1:
// Vectors of one row of x: they lie side by side, unless they are of two rows.
if (whole)
    ${of_tap_groups()}
else
% endif
% if side_by_side:
if (whole) {
    ${products("TAP_WHOLE")}
} else
% endif
% if tap_group > 1 or side_by_side:
{
    ${products("TAP")}
}
% else:
${products("TAP")}
% endif
</%def>\
<%def name="of_tap_groups()"><%
    block = tap_group * tap_stride
%>\
for (int c = 0; c < c_count; ++c) {
    const int at = c * channel_pitch;
    WEIGHT *w = weights + (long)c * ${tile_strides[1]};
    for (int k0 = 0; k0 + ${block} <= KERNEL_SIZE; k0 += ${block})
        for (int k = k0; k < k0 + ${tap_stride}; ++k) TAPS(at + k * ${spacing}, k)
    for (int k = KERNEL_SIZE / ${block} * ${block}; k < KERNEL_SIZE; ++k) TAP(at + k * ${spacing}, w + WEIGHT_AT(k))
}
</%def>\
