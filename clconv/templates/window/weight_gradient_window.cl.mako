<%namespace name="window" file="window.cl.mako"/>\
## weight_gradient_window, for GPUs, few channels a group:
##   partial[s,o,c,k] = sum of y[n,o,q] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad] over the
##                      share s of all (n,q); sum_partials adds the shares in order;
##                      a single share goes to result as sum_partials would add it
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position;
##   y is the output's gradient
##
## A unit is POSITIONS consecutive q of one n; share s owns consecutive units. A work-group owns
## OUT_PART channels o times IN_PART channels c of one group, with all taps, in one share. It copies
## what a unit needs of x and y to local memory. A lane, which is EACH consecutive taps of one (o,c), is
## shared by SLICES work-items, each with every SLICES-th position; their sums are added in order.
## Coalescing: neighbouring work-items copy neighbouring positions; each element of x is read once a
## unit, and again in the next one where windows overlap: at most twice.
## Dimension 0 is parts of the groups' weights, 1 shares; the first loops.
<%
    reach = (kernel_size - 1) * dilation
    segment = (positions - 1) * stride + reach + each * dilation
    tap_lanes = -(-kernel_size // each)
    lanes_used = out_part * in_part * tap_lanes
    staged = in_part * segment + out_part * (positions + 1)
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define OUT_PART ${out_part}
#define IN_PART ${in_part}
#define OUT_PARTS ${-(-group_out // out_part)}
#define IN_PARTS ${-(-group_in // in_part)}
#define ITEMS ${items}
#define EACH ${each}               // taps a lane
#define TAP_LANES ${tap_lanes}
#define USED ${lanes_used}               // lanes
#define SLICES ${slices}             // work-items a lane
#define POSITIONS ${positions}
#define SEGMENT ${segment}          // of a row of x, with what the last lane's missing taps see
#define Y_SEGMENT ${positions + 1}          // odd, for rows in different banks
#define SCRATCH ${max(staged, lanes_used * each * slices)}

__kernel ${attributes}
void weight_gradient_window(${signature})
{
    __local SUM scratch[SCRATCH];  // rows of x and y; in the end the sums of all work-items
    __local SUM *strip = scratch, *gradient = scratch + IN_PART * SEGMENT;
    const int item = get_local_id(0);
    // Work-items without a lane repeat the last one, and store nothing.
    const int lane = item / SLICES < USED ? item / SLICES : USED - 1, slice = item % SLICES;
    __local const SUM *x_at = strip + lane / TAP_LANES % IN_PART * SEGMENT + lane % TAP_LANES * (EACH * DILATION);
    __local const SUM *y_at = gradient + lane / TAP_LANES / IN_PART * Y_SEGMENT;
    const int share = get_group_id(1);
    const long unit_begin = units * share / shares, unit_end = units * (share + 1) / shares;
    for (long task = get_group_id(0); task < (long)GROUPS * OUT_PARTS * IN_PARTS; task += get_num_groups(0)) {
        const int g = (int)(task / (OUT_PARTS * IN_PARTS));
        const int o_first = (int)(task / IN_PARTS % OUT_PARTS) * OUT_PART;
        const int c_first = (int)(task % IN_PARTS) * IN_PART;
        const int o_count = GROUP_OUT - o_first < OUT_PART ? GROUP_OUT - o_first : OUT_PART;
        const int c_count = GROUP_IN - c_first < IN_PART ? GROUP_IN - c_first : IN_PART;
        SUM sums[EACH];
        UNROLL for (int e = 0; e < EACH; ++e) sums[e] = 0;
        for (long unit = unit_begin; unit < unit_end; ++unit) {
            const int n = (int)(unit / row_units);
            const int q_first = (int)(unit % row_units) * POSITIONS;
            const int count = out_length - q_first < POSITIONS ? out_length - q_first : POSITIONS;
            const int from = q_first * STRIDE - pad;
            __global const STORED *x_rows = x + x_offset + n * x_batch_stride + ((long)g * GROUP_IN + c_first) * x_channel_stride;
            __global const STORED *y_rows = y + y_offset + n * y_batch_stride + ((long)g * GROUP_OUT + o_first) * y_channel_stride;
            barrier(CLK_LOCAL_MEM_FENCE);
            ${window.stage("strip", "x_rows", "x_channel_stride", "SEGMENT", "c_count", "from", "length")}
            ${window.stage("gradient", "y_rows", "y_channel_stride", "Y_SEGMENT", "o_count", "q_first", "out_length")}
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int q = slice; q < count; q += SLICES) {
                const SUM v = y_at[q];
                UNROLL for (int e = 0; e < EACH; ++e) sums[e] = v * x_at[q * STRIDE + e * DILATION] + sums[e];
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < USED * SLICES)
            UNROLL for (int e = 0; e < EACH; ++e) scratch[(lane * EACH + e) * SLICES + slice] = sums[e];
        barrier(CLK_LOCAL_MEM_FENCE);
        const long first = ((long)g * GROUP_OUT + o_first) * (GROUP_IN * KERNEL_SIZE) + c_first * KERNEL_SIZE;
        __global SUM *mine = partial + partial_offset + (long)share * GROUPS * GROUP_OUT * (GROUP_IN * KERNEL_SIZE) + first;
        __global STORED *only = result + result_offset + first;
        for (int w = item; w < USED * EACH; w += ITEMS) {
            const int k = w % (TAP_LANES * EACH), c = w / (TAP_LANES * EACH) % IN_PART, o = w / (TAP_LANES * EACH) / IN_PART;
            SUM sum = 0;
            for (int s = 0; s < SLICES; ++s) sum += scratch[w * SLICES + s];
            const long at = (long)o * (GROUP_IN * KERNEL_SIZE) + c * KERNEL_SIZE + k;
            if (k < KERNEL_SIZE && o < o_count && c < c_count)
                store_share(mine + at, only + at, sum, shares, scale, momentum);
        }
    }
}
