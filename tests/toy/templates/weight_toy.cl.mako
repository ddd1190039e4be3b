## weight_toy: transformed_weight[p][o,c] = (G weight[o,c])[p], p < 4
##   n batch, o output channel, c input channel, p point
##
## One work-item owns one (o,c).
__kernel ${attributes}
void weight_toy(${signature})
{
    const long count = (long)${out_channels} * ${in_channels};
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        __global const STORED *taps = weight + weight_offset + 3 * i;
        __global SUM *to = transformed_weight + transformed_weight_offset + i;
        const SUM w0 = load(taps), w1 = load(taps + 1), w2 = load(taps + 2);
        to[0] = w0;
        to[count] = (w0 + w1 + w2) / 2;
        to[2 * count] = (w0 - w1 + w2) / 2;
        to[3 * count] = w2;
    }
}
