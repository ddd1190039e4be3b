<%namespace name="batched" file="batched.cl.mako"/>\
<%namespace name="definition" file="definition.cl.mako"/>\
## weight_inverse_batched: result[m,c,k] = momentum * result[m,c,k] + scale * sum, of the planes of products
##   planes_result[.][g][m][phase*channels + c]: result i for tap k = i*STRIDE + phase
##   g group, m channel of y, c channel of x
## Sums that are not finite are made again by the definition:
##   sum_{n,q} y[n,m,q] * x[n, g*channels + c, q*STRIDE + k*DILATION - pad]
##
## For GPUs: a work-item owns the taps of one m and c, neighbours the next c. They go through local
## memory, so that neighbours store neighbouring ones. Dimension 0 is blocks of c, 1 and 2 are rows of g, m
## and phase.
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define ITEMS ${items}
#define PITCH ${taps + 1 - taps % 2}  // odd, so that neighbours write to different banks
${batched.constants()}
${definition.weight_sum()}

__kernel ${attributes}
void weight_inverse_batched(${signature})
{
    __local SUM taps[ITEMS * PITCH];
    ${batched.row_of_group()}
    const int phase = row % STRIDE, channel = row / STRIDE, g = channel / written, m = channel % written;
    {
        const int own = block * ITEMS + item < channels ? item : 0;
        __global const SUM *from = planes_result + planes_result_offset
            + ((long)g * row_pitch + m) * term_pitch + phase * channels + block * ITEMS;
        __local SUM *to = taps + item * PITCH;
        ${batched.run("const SUM {0} = from[own]; from += plane_pitch;", "to[{1}] = {0};")}
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    NO_UNROLL for (int e = item; e < ITEMS * TAPS; e += ITEMS) {
        const int c = block * ITEMS + e / TAPS, k = e % TAPS * STRIDE + phase;
        if (c < channels && k < KERNEL_SIZE) {
            SUM sum = taps[e / TAPS * PITCH + e % TAPS];
            if (sum * 0 != 0)
                sum = defined(x + x_offset + ((long)g * channels + c) * x_channel_stride, x_batch_stride,
                              y + y_offset + channel * y_channel_stride, y_batch_stride,
                              k, batch, pad, length, out_length);
            accumulate(result + result_offset + ((long)channel * channels + c) * KERNEL_SIZE + k, sum, scale, momentum);
        }
    }
}
