<%namespace name="window" file="window.cl.mako"/>\
## weight_gradient_window, for GPUs, few channels a group:
##   partial[s,o,c,k] = sum of y[n,o,q] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad] over the
##                      share s of all (n,q); sum_partials adds the shares in order
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position;
##   y is the output's gradient
##
## A unit is POSITIONS consecutive q of one n; share s owns consecutive units. A work-group owns
## OUT_PART channels o times IN_PART channels c of one group, with all taps, in one share. It copies
## what a unit needs of x and y to local memory. Its WEIGHTS sums lie on the work-items: EACH of
## them a work-item where there are many; where there are few, SLICES work-items share one, each
## with every SLICES-th position, and are added in order at the end.
## Coalescing: neighbouring work-items copy neighbouring positions; each element of x is read once a
## unit, and again in the next one where windows overlap: at most twice.
## Dimension 0 is parts of the groups' weights, 1 shares; the first loops.
<%
    reach = (kernel_size - 1) * dilation
    weights = out_part * in_part * kernel_size
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
#define WEIGHTS (OUT_PART * IN_PART * KERNEL_SIZE)
#define ITEMS ${items}
#define EACH ${each}               // weights a work-item
#define SLICES ${slices}             // work-items a weight
#define POSITIONS ${positions}
#define SEGMENT ${(positions - 1) * stride + reach + 1}
#define Y_SEGMENT ${positions + 1}          // odd, for rows in different banks

__kernel ${attributes}
void weight_gradient_window(${signature})
{
    __local SUM strip[IN_PART * SEGMENT];
    __local SUM gradient[OUT_PART * Y_SEGMENT];
% if slices > 1:
    __local SUM slice_sums[SLICES * WEIGHTS];
% endif
    const int item = get_local_id(0);
    const int share = get_group_id(1);
    const long unit_begin = units * share / shares, unit_end = units * (share + 1) / shares;
    for (long task = get_group_id(0); task < (long)GROUPS * OUT_PARTS * IN_PARTS; task += get_num_groups(0)) {
        const int g = (int)(task / (OUT_PARTS * IN_PARTS));
        const int o_first = (int)(task / IN_PARTS % OUT_PARTS) * OUT_PART;
        const int c_first = (int)(task % IN_PARTS) * IN_PART;
        const int o_held = GROUP_OUT - o_first < OUT_PART ? GROUP_OUT - o_first : OUT_PART;
        const int c_held = GROUP_IN - c_first < IN_PART ? GROUP_IN - c_first : IN_PART;
        SUM sums[EACH];
        int x_at[EACH], y_at[EACH];
        UNROLL for (int e = 0; e < EACH; ++e) {
            // Weight (o,c,k) of the part; work-items without one repeat the last.
            const int w = item / SLICES + e * (ITEMS / SLICES);
            const int there = w < WEIGHTS ? w : WEIGHTS - 1;
            x_at[e] = there / KERNEL_SIZE % IN_PART * SEGMENT + there % KERNEL_SIZE * DILATION;
            y_at[e] = there / KERNEL_SIZE / IN_PART * Y_SEGMENT;
            sums[e] = 0;
        }
        for (long unit = unit_begin; unit < unit_end; ++unit) {
            const int n = (int)(unit / row_units);
            const int q_first = (int)(unit % row_units) * POSITIONS;
            const int count = out_length - q_first < POSITIONS ? out_length - q_first : POSITIONS;
            const int from = q_first * STRIDE - pad;
            __global const STORED *x_rows = x + x_offset + n * x_batch_stride + ((long)g * GROUP_IN + c_first) * x_channel_stride;
            __global const STORED *y_rows = y + y_offset + n * y_batch_stride + ((long)g * GROUP_OUT + o_first) * y_channel_stride;
            barrier(CLK_LOCAL_MEM_FENCE);
${window.stage("strip", "x_rows", "x_channel_stride", "SEGMENT", "c_held", "from", "length")}\
${window.stage("gradient", "y_rows", "y_channel_stride", "Y_SEGMENT", "o_held", "q_first", "out_length")}\
            barrier(CLK_LOCAL_MEM_FENCE);
            for (int q = item % SLICES; q < count; q += SLICES)
                UNROLL for (int e = 0; e < EACH; ++e)
                    sums[e] = gradient[y_at[e] + q] * strip[x_at[e] + q * STRIDE] + sums[e];
        }
        __global SUM *mine = partial + partial_offset
            + (((long)share * GROUPS + g) * GROUP_OUT + o_first) * (GROUP_IN * KERNEL_SIZE) + c_first * KERNEL_SIZE;
% if slices > 1:
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item / SLICES < WEIGHTS) slice_sums[item] = sums[0];
        barrier(CLK_LOCAL_MEM_FENCE);
        const int w = item;
        SUM sum = 0;
        if (w < WEIGHTS)
            for (int s = 0; s < SLICES; ++s) sum += slice_sums[w * SLICES + s];
% else:
        UNROLL for (int e = 0; e < EACH; ++e) {
        const int w = item + e * ITEMS;
        const SUM sum = sums[e];
% endif
        const int k = w % KERNEL_SIZE, c = w / KERNEL_SIZE % IN_PART, o = w / KERNEL_SIZE / IN_PART;
        if (w < WEIGHTS && o < o_held && c < c_held)
            mine[(long)o * (GROUP_IN * KERNEL_SIZE) + c * KERNEL_SIZE + k] = sum;
% if slices == 1:
        }
% endif
    }
}
