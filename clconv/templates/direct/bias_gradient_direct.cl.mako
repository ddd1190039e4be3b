## bias_gradient_direct:
##   partial[s,o] = sum of y[n,o,q] over the share s of all (n, q); sum_partials adds the shares
##   n batch, o output channel, q output position; y is the output's gradient
##
## A unit is `unit_length` consecutive q of one n. The work-items of a group share its units: item
## i takes every LOCAL-th vector of LANES positions, so that neighbours read neighbouring y, and
## writes share group * LOCAL + i. Dimension 0 is shares, 1 channels; the second loops where there
## are more than groups.
#define LOCAL ${items}

__kernel ${attributes}
void bias_gradient_direct(${signature})
{
    const int item = get_local_id(0);
    const long part = get_group_id(0), parts = get_num_groups(0);
    const long unit_begin = units * part / parts, unit_end = units * (part + 1) / parts;
    for (int o = get_group_id(1); o < channels; o += get_num_groups(1)) {
        VECTOR sums = (SUM)0;
        for (long unit = unit_begin; unit < unit_end; ++unit) {
            const long n = unit / row_units;
            const int q_begin = (int)(unit % row_units) * unit_length;
            const int q_end = out_length - q_begin < unit_length ? out_length : q_begin + unit_length;
            __global const STORED *y_row = y + y_offset + n * y_batch_stride + o * y_channel_stride;
            for (int q = q_begin + item * LANES; q < q_end; q += LOCAL * LANES) {
                if (q + LANES <= q_end) sums += load_vector(y_row + q);
                else sums += load_checked(y_row, q, q_end - 1, 1, 0, q_end);
            }
        }
        partial[partial_offset + (part * LOCAL + item) * channels + o] = sum_lanes(sums);
    }
}
