<%namespace name="ends" file="ends.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="window" file="window.cl.mako"/>\
## convolution_window, for GPUs, few channels a group; the forward pass:
##   y[n,o,q] = epilogue(sum_{c<GROUP_IN, k<KERNEL_SIZE}
##                       weight[o,c,k] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad])
## or (backward) the input gradient; with t = p + pad = STRIDE * u + r and the taps k = k0(r) + i*TAP_STEP:
##   y[n,c,p] = epilogue(sum_{o<GROUP_OUT, i<taps(r)}
##                       weight[g*GROUP_OUT + o, c, k] * x[n, g*GROUP_OUT + o, u + shift(r) - i*TAP_BACK])
##   n batch, o output channel, g its group, c input channel of g, k tap, p input position, q output
##   position
##
## A work-group owns POSITIONS consecutive q (or t, of all phases) of one n, and PART channels
## written of one group. It copies the part of x that they see to local memory, BLOCK channels at a
## time: every element of x is read from global memory once a work-group, and in the next one again
## where windows overlap; that is at most twice, since windows reach no further than POSITIONS.
## A work-item owns TILE channels times EACH positions, ITEM_STEP apart; or (sliding; stride and dilation
## 1) EACH consecutive ones, an odd number so that work-items read different banks: then one new
## element of the strip serves the next tap of all of them, and the others stay in registers.
## Coalescing: neighbouring work-items copy neighbouring positions of x, and store neighbouring ones.
## Dimension 0 is blocks of positions, 1 parts of the groups' channels, 2 batch; all loop.
<%
    rows, channels = (group_in, group_out) if backward else (group_out, group_in)
    exact = rows % tile == 0
    reach = (kernel_size - 1) * dilation
    steps = positions // each
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define ROWS ${rows}               // channels written a group
#define CHANNELS ${channels}           // channels read a group
#define TILE ${tile}               // channels written a work-item
#define PART ${part}               // … a work-group
#define PARTS ${-(-rows // part)}
#define BLOCK ${block}              // channels read at once
#define EACH ${each}               // positions a work-item
#define ITEMS ${items}
#define ITEM_STEP ${1 if sliding else steps}          // positions from one of a work-item's to its next
#define FIRST ${"item * EACH" if sliding else "item"}           // of a work-item
#define ACTIVE ${items if sliding else steps}            // work-items with positions
#define POSITIONS ${positions}
% if backward:
#define COMMON ${common}             // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${tap_step}           // STRIDE / COMMON
#define TAP_BACK ${dilation // common}           // DILATION / COMMON
#define TAP_INVERSE ${tap_inverse}        // of TAP_BACK modulo TAP_STEP
#define LEAD ${-(-reach // stride)}               // elements of the strip before the first position's own
#define SEGMENT ${(positions - 1) // stride + 1 + -(-reach // stride) + 1}        // elements of a channel's strip
#define LIMIT out_length
#define TAP_MOVE (-TAP_BACK)
#define ITEM_MOVE (ITEM_STEP / STRIDE)
% else:
#define SEGMENT ${(positions - 1) * stride + reach + 1}        // elements of a channel's strip
#define LIMIT length
#define TAP_STEP 1
#define TAP_MOVE DILATION
#define ITEM_MOVE (ITEM_STEP * STRIDE)
% endif

% if backward:
${ends.functions(group_out, group_in, stride)}

% endif
${epilogue.functions()}

<%def name="stage_taps()">\
// taps_of[i][c][k]; the last tile's missing channels repeat the last one.
for (int f = item; f < TILE * channel_count * KERNEL_SIZE; f += ITEMS) {
    const int k = f % KERNEL_SIZE, c = f / KERNEL_SIZE % channel_count, i = f / KERNEL_SIZE / channel_count;
    const long row = ${"row_first + i" if exact else "row_first + i < ROWS ? row_first + i : ROWS - 1"};
% if backward:
    const long index = (((long)g * GROUP_OUT + c_first + c) * GROUP_IN + row) * KERNEL_SIZE + k;
% else:
    const long index = (((long)g * GROUP_OUT + row) * GROUP_IN + c_first + c) * KERNEL_SIZE + k;
% endif
    taps_of[(i * BLOCK + c) * KERNEL_SIZE + k] = load(weight + weight_offset + index);
}
</%def>\
<%def name="sum_sliding()">\
// Taps in the order of the elements that they see; element u + j meets tap u.
int u = 0;
% if backward:
seen -= KERNEL_SIZE - 1;
% endif
SUM ${", ".join("v%d = seen[%d]" % (j, j) for j in range(each - 1))}, v${each - 1};
NO_UNROLL for (; u + EACH <= KERNEL_SIZE; u += EACH) {
% for b in range(each):
    v${(b + each - 1) % each} = seen[u + ${b + each - 1}];
% for m in range(tile):
    {
        const SUM w = w_at[${m} * BLOCK * KERNEL_SIZE + ${"KERNEL_SIZE - 1 - (u + %d)" % b if backward else "u + %d" % b}];
% for j in range(each):
        sums[${m}][${j}] = w * v${(b + j) % each} + sums[${m}][${j}];
% endfor
    }
% endfor
% endfor
}
for (; u < KERNEL_SIZE; ++u)
    UNROLL for (int m = 0; m < TILE; ++m) {
        const SUM w = w_at[m * BLOCK * KERNEL_SIZE + ${"KERNEL_SIZE - 1 - u" if backward else "u"}];
        UNROLL for (int j = 0; j < EACH; ++j) sums[m][j] = w * seen[u + j] + sums[m][j];
    }
</%def>\
<%def name="sum_taps()">\
_Pragma("unroll 2") for (int i = 0; i < taps; ++i) {
    UNROLL for (int m = 0; m < TILE; ++m) {
        const SUM w = w_at[m * BLOCK * KERNEL_SIZE + i * TAP_STEP];
        UNROLL for (int j = 0; j < EACH; ++j)
            sums[m][j] = w * seen[i * TAP_MOVE + j * ITEM_MOVE] + sums[m][j];
    }
}
</%def>\
<%def name="sum_block()">\
const int channel_count = CHANNELS - c_first < BLOCK ? CHANNELS - c_first : BLOCK;
barrier(CLK_LOCAL_MEM_FENCE);
% if block < channels:
${window.stage("strip", "(x_group + c_first * x_channel_stride)", "x_channel_stride", "SEGMENT", "channel_count", "from", "LIMIT")}
% else:
if (row_first == part_first) {
    ${window.stage("strip", "x_group", "x_channel_stride", "SEGMENT", "channel_count", "from", "LIMIT")}
}
% endif
${stage_taps()}
barrier(CLK_LOCAL_MEM_FENCE);
for (int c = 0; c < channel_count; ++c) {
    __local const SUM *seen = strip + c * SEGMENT + at;
    __local const SUM *w_at = taps_of + c * KERNEL_SIZE + k0;
% if sliding:
    ${sum_sliding()}
% else:
    ${sum_taps()}
% endif
}
</%def>\
<%def name="store()">\
% if backward:
int odd = 0;
% endif
UNROLL for (int i = 0; i < TILE; ++i) {
    const int channel = g * ROWS + row_first + i;
    UNROLL for (int j = 0; j < EACH; ++j) {
% if backward:
        const int p = t + j * ITEM_STEP - pad;
        const int inside = item < ACTIVE && p >= 0 && p < length${"" if exact else " && row_first + i < ROWS"};
% else:
        const int p = q_first + FIRST + j * ITEM_STEP;
        const int inside = item < ACTIVE && p < out_length${"" if exact else " && row_first + i < ROWS"};
% endif
% if backward:
        odd |= sums[i][j] != sums[i][j];
% endif
        if (inside)
            ${epilogue.finish("sums[i][j]", "channel", "p", "1", "0", "0")}
    }
}
% if backward:
if (odd)  // rarely: what of this work-item's results is NaN
    NO_UNROLL for (int f = 0; f < TILE * EACH; ++f) {
        const int row = row_first + f / EACH, channel = g * ROWS + row;
        const int p = t + f % EACH * ITEM_STEP - pad;
        if (item < ACTIVE && p >= 0 && p < length${"" if exact else " && row < ROWS"}) {
            ${ends.store_again("x_group", "weight + weight_offset + ((long)g * GROUP_OUT * GROUP_IN + row) * KERNEL_SIZE")}
        }
    }
% endif
</%def>\
__kernel ${attributes}
void convolution_window(${signature})
{
    __local SUM strip[BLOCK * SEGMENT];
    __local SUM taps_of[TILE * BLOCK * KERNEL_SIZE];
    const int item = get_local_id(0);
    for (int n = get_group_id(2); n < batch; n += get_num_groups(2))
    for (long task = get_group_id(1); task < (long)PARTS * GROUPS; task += get_num_groups(1))
    for (int position_block = get_group_id(0); position_block < blocks; position_block += get_num_groups(0)) {
        const int g = (int)(task / PARTS);
        const int part_first = (int)(task % PARTS) * PART;
        const int part_end = part_first + PART < ROWS ? part_first + PART : ROWS;
        __global const STORED *x_group = x + x_offset + n * x_batch_stride + (long)g * CHANNELS * x_channel_stride;
% if backward:
        const int t_first = pad / STRIDE * STRIDE + position_block * POSITIONS;
        const int from = t_first / STRIDE - LEAD;
        const int t = t_first + FIRST;
        const int r = t % STRIDE;
        const int k0 = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP);
        const int taps = item < ACTIVE && r % COMMON == 0 && k0 < KERNEL_SIZE ? (KERNEL_SIZE - 1 - k0) / TAP_STEP + 1 : 0;
        // Exact, and of numbers that may be negative, for which / would round to zero.
        const int at = FIRST / STRIDE + LEAD + (taps ? (r - k0 * DILATION) / STRIDE : 0);
% else:
        const int q_first = position_block * POSITIONS;
        const int from = q_first * STRIDE - pad;
        const int k0 = 0, taps = KERNEL_SIZE;
        const int at = FIRST * STRIDE;
% endif
        for (int row_first = part_first; row_first < part_end; row_first += TILE) {
            SUM sums[TILE][EACH];
            UNROLL for (int i = 0; i < TILE; ++i)
                UNROLL for (int j = 0; j < EACH; ++j) sums[i][j] = 0;
            for (int c_first = 0; c_first < CHANNELS; c_first += BLOCK) {
                ${sum_block()}
            }
            ${store()}
        }
    }
}
