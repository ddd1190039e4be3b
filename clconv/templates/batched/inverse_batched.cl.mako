<%namespace name="batched" file="batched.cl.mako"/>\
<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## inverse_batched: y[n,m,p] = epilogue(sum), of the planes of products:
##   result i < OUTPUTS of a tile: p = (place*OUTPUTS + i)*STEP + line + phase - lead
##   n batch, g group, m channel written, of phase m / written of a stride (BACKWARD)
## Sums that are not finite are made again by the definition: NaN and infinities are in whole tiles
## otherwise. The forward pass:
##   sum_{c<channels, k<kernel_size} weight[m,c,k] * x[n, g*channels + c, p*STRIDE + k*DILATION - pad]
## or (BACKWARD) the input gradient, of those k for which the division leaves no remainder:
##   sum_{c<channels, k<kernel_size} weight[c,m,k] * x[n, g*channels + c, (p + pad - k*DILATION) / STRIDE]
##
## For GPUs: a work-item owns a tile of one channel, in registers; neighbours own the tiles behind it.
## Results go through local memory, so that neighbours store neighbouring ones.
## Dimension 0 is blocks of tiles, 1 and 2 are channels of all groups and phases.
#define STRIDE ${stride}
#define DILATION ${dilation}
#define OUTPUTS ${outputs}
#define STEP ${step}
#define LINES ${lines}
#define ITEMS ${items}
#define PITCH ${outputs + 1 - outputs % 2}  // odd, so that neighbours write to different banks
${batched.constants()}
${definition.functions()}
${epilogue.functions()}

__kernel ${attributes}
void inverse_batched(${signature})
{
    __local SUM results[ITEMS * PITCH];
    __local long firsts[ITEMS];
    __local int elements[ITEMS];
    ${batched.row_of_group()}
    ${batched.begin()}
    const int g = row / rows_there, r = row % rows_there, phase = r / written, m = r % written;
    {
        __global const SUM *from = planes_y + planes_y_offset + ((long)g * row_pitch + r) * pitch + block * ITEMS;
        __local SUM *own = results + item * PITCH;
        ${batched.run("const SUM {0} = from[item]; from += plane_pitch;", "own[{1}] = {0};")}
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    NO_UNROLL for (int e = item; e < ITEMS * OUTPUTS; e += ITEMS) {
        const int tile = e / OUTPUTS, n = elements[tile];
        const long at = firsts[tile] + phase + (long)(e % OUTPUTS) * STEP;
        if (n >= 0 && at >= 0 && at < positions) {
            const int p = (int)at, channel = g * written + m, inside = 1;
            SUM sum = results[tile * PITCH + e % OUTPUTS];
            if (sum * 0 != 0)
                sum = defined(x + x_offset + n * x_batch_stride + (long)g * channels * x_channel_stride, x_channel_stride,
                              weight + weight_offset + ${"((long)g * channels * written + m) * kernel_size" if backward else "((long)g * written + m) * channels * kernel_size"},
                              channels, written, kernel_size, p, pad, length);
            ${epilogue.finish("sum", "channel", "p", "1", "0", "0")}
        }
    }
}
