<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="fourier" file="fourier.cl.mako"/>\
## weight_inverse_spectral: result[m,c,k] = momentum * result[m,c,k] + scale * sum, of the inverse transforms
##   of transformed_result[.][g][panel][phase*channels + c], sample i / (4 SIZE) for tap k = i*STRIDE + phase
##   g group, m channel of y, c channel of x
## Sums that are not finite are made again by the definition:
##   sum_{n,q} y[n,m,q] * x[n, g*channels + c, q*STRIDE + k*DILATION - pad]
##
## For CPUs: one work-item a work-group; lanes are channels m, until the samples of LANES taps are turned. It
## owns a panel of VECTORS vectors of these, for all phases of one c. Dimension 0 is tasks, and loops.
${fourier.constants()}
#define READ_PHASES ${read_phases}
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define VECTORS ${vectors}
#define SCALE ((SUM)${repr(0.25 / transform.size)})

${definition.weight_sum()}

${fourier.sum_tree()}
<%
    even = len(transform.passes) % 2 == 0
    arrays = ("own", "other") if even else ("other", "own")
    padded_taps = -(-kernel_size // lanes) * lanes
%>\
## Taps k … of all channels of the vector.
<%def name="store()">\
% for e in range(lanes):
VECTOR r${e} = taps[k + ${e}];
% endfor
const SUM all = sum_tree(${fourier.tree(["r%d" % e for e in range(lanes)])});
if (all * 0 != 0) {  // or all are large
    NO_UNROLL for (int e = k; e < k + LANES && e < KERNEL_SIZE; ++e)
        NO_UNROLL for (int l = 0; l < there; ++l) {
            __local SUM *sum = (__local SUM *)(taps + e) + l;
            if (*sum * 0 != 0)
                *sum = defined(x + x_offset + ((long)g * channels + c) * x_channel_stride, x_batch_stride,
                               y + y_offset + ((long)g * written + m + l) * y_channel_stride, y_batch_stride,
                               e, batch, pad, length, out_length);
        }
% for e in range(lanes):
    r${e} = taps[k + ${e}];
% endfor
}
${fourier.turn()}
% for e in range(lanes):
turned[${e}] = r${e};
% endfor
NO_UNROLL for (int l = 0; l < there; ++l) {
    __global STORED *to = result + result_offset + (((long)g * written + m + l) * channels + c) * KERNEL_SIZE + k;
    if (k + LANES <= KERNEL_SIZE) {
        VECTOR v = scale * turned[l];
        if (momentum != 0) v = momentum * load_vector(to) + v;
        store_vector(to, v);
        continue;
    }
    __local const SUM *from = (__local const SUM *)(turned + l);
    NO_UNROLL for (int e = 0; e < KERNEL_SIZE - k; ++e) accumulate(to + e, from[e], scale, momentum);
}
</%def>\
__kernel ${attributes}
void weight_inverse_spectral(${signature})
{
    __local VECTOR taps[${padded_taps}];
    __local VECTOR own[SIZE];
    __local VECTOR other[SIZE];
    __local VECTOR turned[LANES];
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int c = (int)(task % channels), panel = (int)(task / channels % panels), g = (int)(task / channels / panels);
        for (int v = 0; v < VECTORS; ++v) {
            const int m = (panel * VECTORS + v) * LANES;
            const int there = written - m < LANES ? written - m : LANES;
            if (there <= 0) break;  // what is behind the last channel of a panel
            for (int i = KERNEL_SIZE; i < ${padded_taps}; ++i) taps[i] = 0;
            NO_UNROLL for (int phase = 0; phase < READ_PHASES; ++phase) {
                __global const SUM *from = transformed_result + transformed_result_offset
                    + (((long)g * panels + panel) * (READ_PHASES * channels) + phase * channels + c) * (2 * VECTORS * LANES) + v * LANES;
                ${fourier.join("from", arrays[0], "weight_pitch", "VECTORS * LANES")}
                ${fourier.passes(*arrays)}
                NO_UNROLL for (int i = 0; i < TAPS && i * STRIDE + phase < KERNEL_SIZE; ++i) taps[i * STRIDE + phase] = SCALE * own[i ^ 1];
            }
            NO_UNROLL for (int k = 0; k < KERNEL_SIZE; k += LANES) {
                ${store()}
            }
        }
    }
}
