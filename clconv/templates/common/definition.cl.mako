## Sums as they are defined, one at a time, for those that transforms do not make. The kernel has
## STRIDE and DILATION; `channels` are those read, `written` those written, of a group.
<%def name="functions()">\
// The sum at p by the definition; rows are those of the channels read, taps the weights of the one written.
static inline SUM defined(__global const STORED *rows, const long channel_stride, __global const STORED *taps,
                          const int channels, const int written, const int kernel_size,
                          const int p, const int pad, const int length)
{
    SUM sum = 0;
    NO_UNROLL for (int c = 0; c < channels; ++c)
        NO_UNROLL for (int k = 0; k < kernel_size; ++k) {
% if backward:
            const long t = (long)p + pad - (long)k * DILATION, at = t / STRIDE;
            if (t >= 0 && t % STRIDE == 0 && at < length)
                sum = load(taps + (long)c * (written * kernel_size) + k) * load(rows + c * channel_stride + at) + sum;
% else:
            const long at = (long)p * STRIDE + (long)k * DILATION - pad;
            const int inside = at >= 0 && at < length;
            const SUM value = load(rows + c * channel_stride + (inside ? at : 0));
            sum = load(taps + (long)c * kernel_size + k) * (inside ? value : (SUM)0) + sum;
% endif
        }
    return sum;
}
</%def>\
## The same of a weight gradient.
<%def name="weight_sum()">\
// The sum for tap k by the definition, of rows of all batch elements.
static inline SUM defined(__global const STORED *x_rows, const long x_step, __global const STORED *y_rows, const long y_step,
                          const int k, const int batch, const int pad, const int length, const int out_length)
{
    SUM sum = 0;
    NO_UNROLL for (int n = 0; n < batch; ++n)
        NO_UNROLL for (int q = 0; q < out_length; ++q) {
            const long at = (long)q * STRIDE + (long)k * DILATION - pad;
            const int inside = at >= 0 && at < length;
            const SUM value = load(x_rows + n * x_step + (inside ? at : 0));
            sum = load(y_rows + n * y_step + q) * (inside ? value : (SUM)0) + sum;
        }
    return sum;
}
</%def>\
