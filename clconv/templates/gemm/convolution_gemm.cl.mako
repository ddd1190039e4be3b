<%namespace name="ends" file="ends.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="gemm" file="products.cl.mako"/>\
## convolution_gemm, for GPUs: rows are channels written, columns (n, position), terms (channel, tap).
## The forward pass:
##   y[n,o,q] = epilogue(sum_{c<GROUP_IN, k<KERNEL_SIZE}
##                       weight[o,c,k] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad])
##   with term c*KERNEL_SIZE + k
## or (backward) the input gradient, whose phase r of t = p + pad = STRIDE * u + r is a convolution of
## stride 1 with the taps k = k0(r) + i*TAP_STEP alone:
##   y[n,c,p] = epilogue(sum_{o<GROUP_OUT, i<taps}
##                       weight[g*GROUP_OUT + o, c, k] * x[n, g*GROUP_OUT + o, u + shift(r) - i*TAP_BACK])
##   with term i*GROUP_OUT + o; x is the output's gradient, or what a transposed convolution is given
##   n batch, o output channel, g its group, c input channel of g, k tap, p input position, q output
##   position
##
## A work-group owns TILE_ROWS channels of one group, in one phase, times TILE_COLUMNS consecutive
## columns, which run on from one batch element to the next: short sequences fill the tile too. The
## last tile's missing channels and columns repeat others and are not stored; missing terms and
## padding are read from a place inside and selected to be zero, without a branch.
## Coalescing: neighbouring work-items fetch neighbouring columns of x, and neighbouring terms of a
## channel's weights (forward) or neighbouring channels of a tap (backward).
## Dimension 0 is tiles of channels, phases and groups, 1 tiles of columns; both loop. terms_given is
## TERMS (forward) or GROUP_OUT (backward), at run time so that no compiler knows the loop's length.
<%
    rows, channels = (group_in, group_out) if backward else (group_out, group_in)
    exact_rows = rows % tile_rows == 0
    exact_terms = (group_out if backward else group_in * kernel_size) % depth == 0
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define ROWS ${rows}              // channels written a group
#define CHANNELS ${channels}          // channels read a group
% if backward:
#define COMMON ${common}            // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${tap_step}          // STRIDE / COMMON
#define TAP_BACK ${dilation // common}          // DILATION / COMMON
#define TAP_INVERSE ${tap_inverse}       // of TAP_BACK modulo TAP_STEP
#define PHASES STRIDE
#define LIMIT out_length            // of the rows read
% else:
#define TERMS (GROUP_IN * KERNEL_SIZE)
#define PHASES 1
#define LIMIT length
% endif
typedef ${weight_index} WEIGHT_INDEX;
#define TILES ${-(-rows // tile_rows)}             // of a group's channels
${gemm.constants()}\
% if backward:
#define LEFT_ROW(f) ((f) % TILE_ROWS)
#define LEFT_TERM(f) ((f) / TILE_ROWS)
% else:
#define LEFT_ROW(f) ((f) / DEPTH)
#define LEFT_TERM(f) ((f) % DEPTH)
% endif
#define RIGHT_COLUMN(f) ((f) % TILE_COLUMNS)
#define RIGHT_TERM(f) ((f) / TILE_COLUMNS)

% if backward:
${ends.functions(group_out, group_in, stride)}

% endif
${epilogue.functions()}

__kernel ${attributes}
void convolution_gemm(${signature})
{
${gemm.slabs()}\
    for (long block = get_group_id(1); block < blocks; block += get_num_groups(1)) {
        // Where the block's first column lies.
        const int n_first = (int)(block * TILE_COLUMNS / positions);
        const int q_first = (int)(block * TILE_COLUMNS - (long)n_first * positions);
        for (long tile = get_group_id(0); tile < (long)TILES * PHASES * GROUPS; tile += get_num_groups(0)) {
            const int row_first = (int)(tile % TILES) * TILE_ROWS;
% if backward:
            const int r = (int)(tile / TILES % PHASES);
            const int g = (int)(tile / TILES / PHASES);
            const int k0 = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP);
            const int taps = r % COMMON == 0 && k0 < KERNEL_SIZE ? (KERNEL_SIZE - 1 - k0) / TAP_STEP + 1 : 0;
            // Exact, and of numbers that may be negative, for which / would round to zero.
            const int shift = taps ? (r - k0 * DILATION) / STRIDE : 0;
            const uint terms = (uint)taps * terms_given;
            __global const STORED *weights = weight + weight_offset + (long)g * GROUP_OUT * GROUP_IN * KERNEL_SIZE + k0;
% else:
            const int g = (int)(tile / TILES);
            const uint terms = terms_given;
            __global const STORED *weights = weight + weight_offset + (long)g * GROUP_OUT * TERMS;
% endif
            // The work-item's columns.
            int n_of[COLUMNS_EACH], q_of[COLUMNS_EACH];
            __global const STORED *x_of[COLUMNS_EACH];
            UNROLL for (int h = 0; h < COLUMNS_EACH; ++h) {
                const int q = q_first + RIGHT_COLUMN(item + h * ITEMS);
                n_of[h] = n_first + q / positions;
                const int there = n_of[h] < batch;
                q_of[h] = there ? q % positions : 0;
                x_of[h] = x + x_offset + (there ? n_of[h] : 0) * x_batch_stride + (long)g * CHANNELS * x_channel_stride;
            }

<%gemm:products terms="terms">\
<%def name="left()">\
<%
    row = "(row_first + m)" if exact_rows else "(row_first + m < ROWS ? row_first + m : ROWS - 1)"
%>\
% if backward:
                    const uint i = t / GROUP_OUT, o = t % GROUP_OUT;
                    const WEIGHT_INDEX at = ((WEIGHT_INDEX)o * GROUP_IN + ${row}) * KERNEL_SIZE + i * TAP_STEP;
% else:
                    const WEIGHT_INDEX at = (WEIGHT_INDEX)${row} * TERMS + t;
% endif
% if exact_terms:
                    v = load(weights + at);
% else:
                    v = load(weights + (t < terms ? at : 0));
                    v = t < terms ? v : (SUM)0;
% endif
</%def>\
<%def name="right()">\
% if backward:
                    const uint i = t / GROUP_OUT, c = t % GROUP_OUT;
                    const int p = q_of[e % COLUMNS_EACH] + pad / STRIDE + shift - (int)i * TAP_BACK;
% else:
                    const uint c = t / KERNEL_SIZE, k = t % KERNEL_SIZE;
                    const int p = q_of[e % COLUMNS_EACH] * STRIDE - pad + (int)k * DILATION;
% endif
% if exact_terms:
                    const int ok = (uint)p < (uint)LIMIT;
                    v = load(x_of[e % COLUMNS_EACH] + c * x_channel_stride + (ok ? p : 0));
% else:
                    const int ok = (uint)p < (uint)LIMIT && t < terms;
                    v = load(x_of[e % COLUMNS_EACH] + (ok ? c * x_channel_stride + p : 0));
% endif
                    v = ok ? v : (SUM)0;
</%def>\
</%gemm:products>\

% if backward:
            int odd = 0;
% endif
<%gemm:results>\
                    const int n = n_of[h];
                    const int channel = g * ROWS + row_first + m;
% if backward:
                    const int p = (q_of[h] + pad / STRIDE) * STRIDE + r - pad;
                    const int inside = n < batch && p >= 0 && p < length${"" if exact_rows else " && row_first + m < ROWS"};
% else:
                    const int p = q_of[h];
                    const int inside = n < batch${"" if exact_rows else " && row_first + m < ROWS"};
% endif
% if backward:
                    odd |= sum != sum;
% endif
                    if (inside)
                        ${epilogue.finish("sum", "channel", "p", "1", "0", "0")}
</%gemm:results>\
% if backward:
            if (odd)  // rarely: what of this work-item's results is NaN
                NO_UNROLL for (int f = item; f < TILE_ROWS * TILE_COLUMNS; f += ITEMS) {
                    const int e = f % (LINES * TILE_COLUMNS), i = f / (LINES * TILE_COLUMNS);
                    const int m = i / 4 * (TILE_ROWS / 2) + e / TILE_COLUMNS * 4 + i % 4, q = q_first + e % TILE_COLUMNS;
                    const int n = n_first + q / positions;
                    const int channel = g * ROWS + row_first + m;
                    const int p = (q % positions + pad / STRIDE) * STRIDE + r - pad;
                    if (n < batch && p >= 0 && p < length${"" if exact_rows else " && row_first + m < ROWS"}) {
                        ${ends.store_again("x + x_offset + n * x_batch_stride + (long)g * CHANNELS * x_channel_stride", "weights - k0 + (row_first + m) * (WEIGHT_INDEX)KERNEL_SIZE")}
                    }
                }
% endif
        }
    }
}
