## input_toy: transformed_x[p][n,c,t] = (B x[n, c, 2t - pad ...])[p], p < 4
##   n batch, c input channel, t tile of two outputs, p point
##
## One work-item owns one (n,c,t). Zeros beyond the row's ends.
__kernel ${attributes}
void input_toy(${signature})
{
    const long count = (long)batch * ${in_channels} * tiles;
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long n = i / tiles / ${in_channels}, c = i / tiles % ${in_channels};
        __global const STORED *row = x + x_offset + n * x_batch_stride + c * x_channel_stride;
        __global SUM *to = transformed_x + transformed_x_offset + i;
        SUM d[4];
        for (int e = 0; e < 4; ++e) {
            const long at = i % tiles * 2 - pad + e;
            d[e] = at >= 0 && at < length ? load(row + at) : (SUM)0;
        }
        to[0] = d[0] - d[2];
        to[count] = d[1] + d[2];
        to[2 * count] = d[2] - d[1];
        to[3 * count] = d[1] - d[3];
    }
}
