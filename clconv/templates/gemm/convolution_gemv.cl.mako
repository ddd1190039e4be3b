<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## convolution_gemv, for GPUs: what convolution_gemm computes, where there are few columns (n, position).
## The forward pass:
##   y[n,o,q] = epilogue(sum_{c<GROUP_IN, k<KERNEL_SIZE}
##                       weight[o,c,k] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad])
## or (backward) the input gradient, with t = p + pad = STRIDE * u + r:
##   y[n,c,p] = epilogue(sum_{o<GROUP_OUT, k: k*DILATION mod STRIDE == r}
##                       weight[g*GROUP_OUT + o, c, k] * x[n, g*GROUP_OUT + o, u - k*DILATION / STRIDE])
##   x is the output's gradient, or what a transposed convolution is given
##   n batch, o output channel, g its group, c input channel of g, k tap, p input position, q output
##   position
##
## A work-group owns PART channels of one group times COLUMNS columns, which run on from one batch
## element to the next; backward with all phases r. It reads each of its weights once. A lane is a
## (c,k), and neighbouring lanes have neighbouring weights: coalesced. A work-item has EACH channels:
##   forward   o = row_first + i, summed over c = lane's, + CHANNEL_LANES, …, then over all lanes
##   backward  c = row_first + lane's + i*CHANNEL_LANES, summed over o = slice, + SLICES, …, then over
##             the slices and a phase's taps
## In local memory the sums are added in two steps, each in order: of those FOLD apart, of what is left.
## Missing channels and columns repeat others and are not stored. A lane's tap sees padding in all
## channels or in none: it reads some element inside, and its sum is replaced in the end.
## Dimension 0 is parts of the groups' channels, 1 blocks of columns; both loop.
<%
    rows, channels = (group_in, group_out) if backward else (group_out, group_in)
    part = each * channel_lanes if backward else each
    exact = rows % part == 0
    row_step, channel_step = kernel_size, group_in * kernel_size
    if not backward:
        row_step, channel_step = channel_step, row_step
%>\
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define ROWS ${rows}              // channels written a group
#define CHANNELS ${channels}          // channels read a group
#define GROUP_WEIGHTS ((long)ROWS * CHANNELS * KERNEL_SIZE)
#define COLUMNS ${columns}
#define EACH ${each}              // channels written a work-item
#define PART ${part}              // … a work-group
#define PARTS ${-(-rows // part)}
#define ITEMS ${items}
#define CHANNEL_LANES ${channel_lanes}
#define WEIGHT_LANES (CHANNEL_LANES * KERNEL_SIZE)
#define SLICES ${slices}
#define STEP ${"SLICES" if backward else "CHANNEL_LANES"}              // channels from one that a lane reads to the next
#define ROW_STEP ${row_step}          // weights from a channel written to the next
#define CHANNEL_STEP ${channel_step}          // … read
#define FOLD ${fold}              // sums left of a row and column in the first step
#define FOLDED ${slices if backward else items // fold}            // … and of how many each
% if backward:
#define COMMON ${common}            // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${tap_step}          // STRIDE / COMMON
#define TAP_INVERSE ${tap_inverse}       // of DILATION / COMMON modulo TAP_STEP
#define LIMIT out_length            // of the rows read
#define RESULTS (PART * COLUMNS * STRIDE)
% else:
#define LIMIT length
#define RESULTS (PART * COLUMNS)
% endif
typedef ${weight_index} WEIGHT_INDEX;

## The sums of so many columns, over the lane's channels; so many turns fetch at once.
<%def name="products(count, fetch_count)">\
_Pragma("unroll ${fetch_count}") for (int c = first; c < CHANNELS; c += STEP) {
    SUM seen[${count}];
    UNROLL for (int j = 0; j < ${count}; ++j) {
        seen[j] = load(x_of[j]);
        x_of[j] += x_step;
    }
    UNROLL for (int i = 0; i < EACH; ++i) {
        const SUM w = load(weights + row_of[i]);
        UNROLL for (int j = 0; j < ${count}; ++j) sums[i][j] = w * seen[j] + sums[i][j];
% if not backward:
        nothing[i] = w * 0 + nothing[i];
% endif
    }
    weights += (WEIGHT_INDEX)STEP * CHANNEL_STEP;
}
</%def>\
${epilogue.functions()}

__kernel ${attributes}
void convolution_gemv(${signature})
{
    __local SUM scratch[COLUMNS * ITEMS];
    __local SUM folded[EACH * COLUMNS * FOLD];
    const int item = get_local_id(0);
    const int lane = item % WEIGHT_LANES;
% if backward:
    const int first = item / WEIGHT_LANES < SLICES ? item / WEIGHT_LANES : CHANNELS;
% else:
    const int first = item < WEIGHT_LANES ? lane / KERNEL_SIZE : CHANNELS;
% endif
    for (int column = get_group_id(1) * COLUMNS; column < all_columns; column += get_num_groups(1) * COLUMNS)
    for (uint task = get_group_id(0); task < (uint)PARTS * GROUPS; task += get_num_groups(0)) {
        const int count = all_columns - column < COLUMNS ? all_columns - column : COLUMNS;
        const int row_first = (int)(task % PARTS) * PART;
        const int g = (int)(task / PARTS);
        const int k = lane % KERNEL_SIZE;
        __global const STORED *weights = weight + weight_offset + g * GROUP_WEIGHTS + k + (WEIGHT_INDEX)first * CHANNEL_STEP;
        WEIGHT_INDEX row_of[EACH];
        UNROLL for (int i = 0; i < EACH; ++i) {
            const int row = row_first + ${"lane / KERNEL_SIZE + i * CHANNEL_LANES" if backward else "i"};
            row_of[i] = (WEIGHT_INDEX)${"row" if exact else "(row < ROWS ? row : ROWS - 1)"} * ROW_STEP;
        }
        __global const STORED *x_first = x + x_offset + ((long)g * CHANNELS + first) * x_channel_stride;
        const long x_step = STEP * x_channel_stride;
        __global const STORED *x_of[COLUMNS];
        int ok = 0;  // a bit a column
        int n = column / positions, q = column % positions;
        UNROLL for (int j = 0; j < COLUMNS; ++j) {
% if backward:
            const int p = q + pad / STRIDE - k * DILATION / STRIDE;
% else:
            const int p = q * STRIDE - pad + k * DILATION;
% endif
            const int is_ok = j < count && (uint)p < (uint)LIMIT;
            ok |= is_ok << j;
            x_of[j] = x_first + (is_ok ? n * x_batch_stride + p : 0);
            const int next = q + 1 < positions;
            n += next ? 0 : 1;
            q = next ? q + 1 : 0;
        }
        SUM sums[EACH][COLUMNS];
        UNROLL for (int i = 0; i < EACH; ++i)
            UNROLL for (int j = 0; j < COLUMNS; ++j) sums[i][j] = 0;
% if not backward:
        SUM nothing[EACH];  // what padding gives: 0, or NaN of weights that are not finite
        UNROLL for (int i = 0; i < EACH; ++i) nothing[i] = 0;
% endif
        if (count == 1) {
            ${products("1", fetch_count)}
        } else {
            ${products("COLUMNS", 1)}
        }
        UNROLL for (int i = 0; i < EACH; ++i) {
            UNROLL for (int j = 0; j < COLUMNS; ++j) scratch[j * ITEMS + item] = ok >> j & 1 ? sums[i][j] : ${"(SUM)0" if backward else "nothing[i]"};
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int f = item; f < count * FOLD; f += ITEMS) {
                SUM sum = 0;
                _Pragma("unroll 8") for (int s = 0; s < FOLDED; ++s) sum += scratch[f / FOLD * ITEMS + s * FOLD + f % FOLD];
                folded[i * COLUMNS * FOLD + f] = sum;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        NO_UNROLL for (int f = item; f < RESULTS; f += ITEMS) {
% if backward:
            const int r = f % STRIDE, j = f / STRIDE % COLUMNS, m = f / STRIDE / COLUMNS;
% else:
            const int j = f % COLUMNS, m = f / COLUMNS;
% endif
            const int n = (column + j) / positions, q = (column + j) % positions;
            const int channel = g * ROWS + row_first + m;
% if backward:
            const int p = (q + pad / STRIDE) * STRIDE + r - pad;
            const int inside = j < count && p >= 0 && p < length${"" if exact else " && row_first + m < ROWS"};
            __local const SUM *left = folded + (m / CHANNEL_LANES * COLUMNS + j) * FOLD + m % CHANNEL_LANES * KERNEL_SIZE;
            SUM sum = 0;
            if (inside && r % COMMON == 0)
                for (int k = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP); k < KERNEL_SIZE; k += TAP_STEP) sum += left[k];
% else:
            const int p = q;
            const int inside = j < count${"" if exact else " && row_first + m < ROWS"};
            __local const SUM *left = folded + (m * COLUMNS + j) * FOLD;
            SUM sum = 0;
            _Pragma("unroll 4") for (int i = 0; i < FOLD; ++i) sum += left[i];
% endif
            if (inside)
                ${epilogue.finish("sum", "channel", "p", "1", "0", "0")}
        }
    }
}
