<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## What the kernels of the input gradient share: their sums near the ends of what they read. Beyond an
## end they multiply a zero, and 0 * infinity is NaN where the definition has no product at all. So a
## sum that is NaN is made again, of the products that there are. A single loop, which is soon built.
<%def name="functions(terms, channels, stride)"><%
    products = terms * kernel_size
    index = "int" if lanes * products < 2**31 else "long"
%>\
// v with those of its first `count` lanes that are NaN made again. Lane e is y at t = p + pad =
// first + e; rows are those of the ${terms} channels read, taps the weights of the channel written.
static inline VECTOR sums_inside(const VECTOR v, const int count, __global const STORED *rows, const long channel_stride,${"" if lies["x"] == "rows" else " const long position_stride,"}
                                 __global const STORED *taps, const int first, const int out_length)
{
    LANE_ARRAY sums;
    sums.vector = v;
    NO_UNROLL for (${index} f = 0; f < (${index})${products} * count; ++f) {
        const int e = ${"0" if lanes == 1 else "(int)(f / %d)" % products};
        const ${index} product = ${"f" if lanes == 1 else "f %% %d" % products}, c = product / KERNEL_SIZE, k = product % KERNEL_SIZE;
        const int at = first + e - (int)k * DILATION;
        SUM sum = sums.lane[e];
        int wanted = sum == sum;
        if (product == 0) sum = 0, wanted = !wanted;
        if (!wanted) {  // the lane was right, or another NaN is in it than the zeros'
            f += ${products - 1} - product;
            continue;
        }
        if (at >= 0 && at % ${stride} == 0 && at / ${stride} < out_length)
            sum = load(taps + ((long)c * ${channels * kernel_size} + k)) * load(rows + c * channel_stride + at / ${stride}${"" if lies["x"] == "rows" else " * position_stride"}) + sum;
        sums.lane[e] = sum;
    }
    return sums.vector;
}
</%def>\
## Result p of a channel again if it was stored as NaN, by the work-item that did.
<%def name="store_again(rows, taps)">\
const SUM stored = load(y + y_offset + n * y_batch_stride + channel * y_channel_stride + p);
if (stored != stored) {
    const int inside = 0;  // for the vector: only its first lane is
    ${epilogue.finish("sums_inside((VECTOR)stored, 1, %s, x_channel_stride, %s, p + pad, out_length)" % (rows, taps), "channel", "p", "1", "0", "p + 1")}
}
</%def>\
