<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="stores" file="stores.cl.mako"/>\
<%namespace name="strip" file="strip.cl.mako"/>\
<%namespace name="sums" file="sums.cl.mako"/>\
<%namespace name="tiles" file="tiles.cl.mako"/>\
## convolution_strip:
##   y[n,m,q] = epilogue(sum_{c<TERMS, k<KERNEL_SIZE}
##                       weight[m,c,k] * x[n, g*TERMS + c, q*STRIDE + k*DILATION - pad])
##   n batch, g group, m channel written, c channel of g summed over, k tap, q position
##
## For CPUs: one work-item a work-group. It owns some tiles of CHANNEL_TILE channels m, and of positions
## q either a chunk of one row or all of several rows. It copies the part of x that these need, with
## zeros for the padding, into the strip in local memory, once for all its channels; then sums, in
## registers, CHANNEL_TILE x VECTORS vectors of LANES positions at a time. No test is left in the inner
## loop.
##   strip[c][n][b][t] = x[n, c, (first + t)*STRIDE + b*DILATION - pad], b < ROWS: tap k = b + i*ROWS
##   finds its x at t = q - first + i*SPACING.
## Where the strip cannot hold all channels c, they come in blocks of TERM_BLOCK, and the sums are
## spilled to local memory meanwhile. Dimension 0 is tasks, and loops.
${tiles.constants()}
#define SPACING ${spacing}  // distance of two taps of a row
% if tap_group > 1:
#define WEIGHT_AT(k) (k) * ${tile_strides[2]}
% endif
${tiles.first_channel()}

${strip.functions(stride)}
${strip.functions_apart(stride)}
${tiles.converting()}

${epilogue.functions()}
% if rows_together:

${strip.stage_rows(stride)}
% endif

${sums.functions()}

<%def name="stage()">\
% if lies["x"] == "channels":
for (int b = 0; b < ROWS; ++b)
    stage_channels(to + b * tap_row_pitch, channel_pitch, x_row, x_position_stride, c_count, (long)first * STRIDE + b * DILATION - pad, tap_row_pitch, length);
% elif lies["x"] == "strided":
for (int b = 0; b < ROWS; ++b)
    stage_apart(to + b * tap_row_pitch, x_row, x_position_stride, (long)first * STRIDE + b * DILATION - pad, tap_row_pitch, length);
% elif rows_together:
stage_rows(to, tap_row_pitch, x_row, (long)first * STRIDE - pad, row_count * LANES + ${(kernel_size - 1) // rows * spacing}, length, next);
% else:
for (int b = 0; b < ROWS; ++b)
    stage(to + b * tap_row_pitch, x_row, (long)first * STRIDE + b * DILATION - pad, tap_row_pitch, length, next);
% endif
</%def>\
<%def name="products(tap)">\
% if unrolled:
${'_Pragma("unroll %d") ' % channel_unroll if channel_unroll > 1 else ""}for (int c = 0; c < c_count; ++c) {
    const int at = c * channel_pitch;
    WEIGHT *w = weights + ${"" if short_index else "(long)"}c * ${tile_strides[1]};
% for k in range(kernel_size):
    ${tap}(at + ${"" if rows == 1 else "%d * tap_row_pitch + " % (k % rows)}${k // rows} * SPACING, w + ${k * tile_strides[2]})
% endfor
}
% else:
for (int c = 0; c < c_count; ++c) {
    for (int b = 0; b < ROWS; ++b) {
        int at = c * channel_pitch + b * tap_row_pitch;
        WEIGHT *w = weights + (long)c * ${tile_strides[1]} + b * ${tile_strides[2]};
        _Pragma("unroll 4") for (int k = b; k < KERNEL_SIZE; k += ROWS) {
            ${tap}(at, w)
            at += SPACING;
            w += ROWS * ${tile_strides[2]};
        }
    }
}
% endif
</%def>\
<%def name="tile()">\
const int out_shift = 0, out_limit = out_length;
% if plain_end:
${stores.prefetch()}
% endif
${sums.begin()}
${sums.of_products(products)}
${sums.spill()}
% if plain_end:
if (plain) {
    ${stores.store_plain()}
    continue;
}
% endif
${stores.store_checked()}
</%def>\
<%kernel:of_groups name="convolution_strip" arrays="${arrays}">\
${tiles.of_tasks("vector_first * LANES", stage, tile)}
</%kernel:of_groups>\
