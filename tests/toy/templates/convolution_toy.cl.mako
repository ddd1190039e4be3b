<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## convolution_toy: y[n,o,2t..2t+1] = epilogue(A sum_c transformed_weight[.][o,c] * transformed_x[.][n,c,t])
##   n batch, o output channel, c input channel, t tile of two outputs
##
## One work-item owns one (n,o,t).
${epilogue.functions()}\
__kernel ${attributes}
void convolution_toy(${signature})
{
    const long weights = (long)${out_channels} * ${in_channels}, inputs = (long)batch * ${in_channels} * tiles;
    const long count = (long)batch * ${out_channels} * tiles;
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long n = i / tiles / ${out_channels};
        const int channel = (int)(i / tiles % ${out_channels}), t = (int)(i % tiles), inside = 0;
        SUM m[4];
        for (int p = 0; p < 4; ++p) {
            __global const SUM *u = transformed_weight + transformed_weight_offset + p * weights + (long)channel * ${in_channels};
            __global const SUM *v = transformed_x + transformed_x_offset + p * inputs + n * ${in_channels} * tiles + t;
            m[p] = 0;
            for (int c = 0; c < ${in_channels}; ++c) m[p] = u[c] * v[(long)c * tiles] + m[p];
        }
        const SUM first = m[0] + m[1] + m[2], second = m[1] - m[2] - m[3];
${epilogue.finish("first", "channel", "2 * t", "1", "0", "out_length")}\
${epilogue.finish("second", "channel", "2 * t + 1", "1", "0", "out_length")}\
    }
}
