<%namespace name="ends" file="ends.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="stores" file="stores.cl.mako"/>\
<%namespace name="strip" file="strip.cl.mako"/>\
<%namespace name="sums" file="sums.cl.mako"/>\
<%namespace name="tiles" file="tiles.cl.mako"/>\
## input_gradient_strip, with t = p + pad = u*STRIDE + r for a position p written:
##   y[n,m,p] = epilogue(sum_{c<TERMS, k = first tap of r + i*TAP_STEP}
##                       weight[c,m,k] * x[n, g*TERMS + c, u + SHIFT(r) - i*TAP_BACK])
##   n batch, g group, m channel written, c channel of g summed over, k tap, r phase; x is the output's
##   gradient, or what a transposed convolution is given
##
## For CPUs: tasks, strip and tiles as in convolution_strip, of positions u, each in every phase r. The
## phases are summed one after the other, from the same strip, and interleaved in local memory.
##   strip[c][n][b][t] = x[n, c, first + reach_low + t], ROWS is 1; or, where the taps of a stride of 1
##   lie far apart, x[n, c, first + t - b*DILATION] with a row b for each tap.
## Near the ends of x, sums that are NaN are made again (ends.cl.mako). Dimension 0 is tasks, and loops.
${tiles.constants()}
#define COMMON ${common}  // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${stride // common}  // distance of the taps of a phase
#define TAP_BACK ${dilation // common}  // distance of what they read
#define TAP_INVERSE ${tap_inverse}  // of TAP_BACK modulo TAP_STEP
% if tap_group > 1:
// The strip is walked through from its far end to its near one.
#define WEIGHT_AT(k) (KERNEL_SIZE - 1 - (k)) * ${tile_strides[2]}
% endif
${tiles.first_channel()}

${strip.functions(1)}
${strip.functions_apart(1)}
${tiles.converting()}
${ends.functions(terms, channels, stride)}

${epilogue.functions()}

${sums.functions()}

<%def name="stage()">\
% if lies["x"] == "channels":
for (int b = 0; b < ROWS; ++b)
    stage_channels(to + b * tap_row_pitch, channel_pitch, x_row, x_position_stride, c_count, (long)first${" + reach_low" if rows == 1 else " - b * DILATION"}, tap_row_pitch, out_length);
% elif lies["x"] == "strided":
for (int b = 0; b < ROWS; ++b)
    stage_apart(to + b * tap_row_pitch, x_row, x_position_stride, (long)first${" + reach_low" if rows == 1 else " - b * DILATION"}, tap_row_pitch, out_length);
% elif rows == 1:
stage(to, x_row, (long)first + reach_low, row_pitch, out_length, next);
% else:
for (int b = 0; b < ROWS; ++b)
    stage(to + b * tap_row_pitch, x_row, (long)first - b * DILATION, tap_row_pitch, out_length, next);
% endif
</%def>\
## All taps of a stride of 1, one after the other.
<%def name="unrolled_products(tap)">\
${'_Pragma("unroll %d") ' % channel_unroll if channel_unroll > 1 else ""}for (int c = 0; c < c_count; ++c) {
    const int at = c * channel_pitch;
    WEIGHT *w = weights + ${"" if short_index else "(long)"}c * ${tile_strides[1]};
% for k in range(kernel_size):
    ${tap}(at + ${(kernel_size - 1 - k) * dilation if rows == 1 else "%d * tap_row_pitch" % k}, w + ${k * tile_strides[2]})
% endfor
}
</%def>\
<%def name="products(tap)">\
for (int c = 0; c < c_count; ++c) {
    int at = c * channel_pitch${" + (KERNEL_SIZE - 1) * DILATION" if rows == 1 else ""};
    WEIGHT *w = weights + (long)c * ${tile_strides[1]};
    _Pragma("unroll 4") for (int i = 0; i < KERNEL_SIZE; ++i) {
        ${tap}(at, w)
        at ${"-= DILATION" if rows == 1 else "+= tap_row_pitch"};
        w += ${tile_strides[2]};
    }
}
</%def>\
<%def name="phase_products(tap)">\
for (int c = 0; c < c_count; ++c) {
    int at = c * channel_pitch + phase_at;
    WEIGHT *w = weights + (long)c * ${tile_strides[1]} + first_tap * ${tile_strides[2]};
    _Pragma("unroll 4") for (int i = 0; i < tap_count; ++i) {
        ${tap}(at, w)
        at -= TAP_BACK;
        w += TAP_STEP * ${tile_strides[2]};
    }
}
</%def>\
## Near an end of x: whether some sum is NaN, and may be so of the zeros' making.
<%def name="find_nan()">\
if (near_end) {
    const SUM all = sum_lanes(${" + ".join("s%d_%d" % (i, j) for i in range(channel_tile) for j in range(vectors))});
    odd |= all != all;
}
</%def>\
## A count, not a test: of a loop with a test that is the same each time compilers make two.
<%def name="mend(sum, t, i='i')">\
${sum} = sums_inside(${sum}, odd * LANES, ${x_rows()},
    weight + weight_offset + ((long)g * TERMS * CHANNELS + m + ${i}) * KERNEL_SIZE, ${t}, out_length);
</%def>\
<%def name="x_rows()">x + x_offset + n * x_batch_stride + (long)g * TERMS${{
    "rows": " * x_channel_stride, x_channel_stride", "channels": ", 1, x_position_stride",
    "strided": " * x_channel_stride, x_channel_stride, x_position_stride"}[lies["x"]]}</%def>\
<%def name="tile()">\
const int u = first + vector_at[0];
const int near_end = !whole || u + reach_low < 0 || u + VECTORS * LANES > out_length;
int odd = 0;
% if phases > 1:
${tile_of_phases()}
% else:
${tile_of_one_phase()}
% endif
</%def>\
<%def name="tile_of_one_phase()">\
const int out_shift = -pad, out_limit = length;
% if plain_end:
${stores.prefetch()}
% endif
${sums.begin()}
${sums.of_products(unrolled_products if unrolled else products)}
${sums.spill()}
${find_nan()}
% if plain_end:
if (plain && !odd) {
    ${stores.store_plain()}
    continue;
}
% endif
${stores.store_checked(mend)}
</%def>\
<%def name="tile_of_phases()">\
for (int r = 0; r < STRIDE; ++r) {
    const int first_tap = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP);
    const int tap_count = r % COMMON == 0 && first_tap < KERNEL_SIZE ? (KERNEL_SIZE - 1 - first_tap) / TAP_STEP + 1 : 0;
    // Exact, and of numbers that may be negative, for which / would round to zero.
    const int phase_at = (tap_count ? (r - first_tap * DILATION) / STRIDE : 0) - reach_low;
    ${sums.begin()}
    ${sums.of_products(phase_products)}
    ${sums.spill()}
    ${find_nan()}
    ${stores.interleave()}
}
% if spill_elements:
if (!last_block) continue;
% endif
${stores.store_interleaved(mend)}
</%def>\
<%kernel:of_groups name="input_gradient_strip" arrays="${arrays}">\
${tiles.of_tasks("pad / STRIDE + vector_first * LANES", stage, tile)}
</%kernel:of_groups>\
