<%namespace name="fourier" file="fourier.cl.mako"/>\
## weight_spectral: transformed_weight[.][g][panel][c] = conjugate of the transform of the taps of
##   LANES channels written, times 1 / (4 SIZE):
##   tap i < TAPS of channel m written and c read: the weight k = i*STRIDE + phase, of taps in reverse
##   (BACKWARD) TAPS - 1 - i in place of i; 0 where there is no such weight
##   phase of the stride: of the channel read, c = phase*channels + … (forward), or written (backward)
##
## For CPUs: one work-item a work-group; lanes are channels written. A panel has VECTORS of these vectors:
## for each c first the real, then the imaginary parts. Dimension 0 is tasks, and loops.
${fourier.constants()}
#define READ_PHASES ${read_phases}
#define WRITE_PHASES ${write_phases}
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define VECTORS ${vectors}
#define SCALE ((SUM)${repr(0.25 / transform.size)})

<%
    rows = "" if backward else "channels * "
    padded_taps = -(-kernel_size // lanes) * lanes
%>\
## All KERNEL_SIZE weights of the vector's channels, channels side by side.
<%def name="turn_weights()">\
NO_UNROLL for (int begin = 0; begin < KERNEL_SIZE; begin += LANES) {
    // The last vector begins early, so that it reads no more than a channel's weights.
    const int k = ${"begin" if kernel_size < lanes else "begin + LANES <= KERNEL_SIZE ? begin : KERNEL_SIZE - LANES"};
    // Where a channel has fewer weights than a vector, those of the next follow, but not behind the last.
    if (there == LANES && from + (LANES - 1L) * ${rows}KERNEL_SIZE + k + LANES <= weight_end) {
% for e in range(lanes):
        VECTOR r${e} = load_vector(from + ${e}L * ${rows}KERNEL_SIZE + k);
% endfor
        ${fourier.turn()}
% for e in range(lanes):
        turned[k + ${e}] = r${e};
% endfor
        continue;
    }
    NO_UNROLL for (int e = k; e < k + LANES && e < KERNEL_SIZE; ++e) {
        __local SUM *to = (__local SUM *)(turned + e);
        NO_UNROLL for (int l = 0; l < LANES; ++l) to[l] = l < there ? load(from + (long)l * ${rows}KERNEL_SIZE + e) : (SUM)0;
    }
}
</%def>\
__kernel ${attributes}
void weight_spectral(${signature})
{
    __local VECTOR turned[${padded_taps}];
    __local VECTOR samples[SIZE];
    __local VECTOR other[SIZE];
    __global const STORED *weight_end = weight + weight_offset + (long)groups * channels * written * KERNEL_SIZE;
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int c = (int)(task % (READ_PHASES * channels));
        const int panel = (int)(task / (READ_PHASES * channels) % panels);
        const int g = (int)(task / (READ_PHASES * channels) / panels);
        for (int v = 0; v < VECTORS; ++v) {
            const int block = panel * VECTORS + v;
            const int phase = c / channels + block / line_blocks, m = block % line_blocks * LANES;
            // Behind the last vector of channels a panel has zeros.
            const int there = block >= line_blocks * WRITE_PHASES ? 0 : (written - m < LANES ? written - m : LANES);
            __global const STORED *from = weight + weight_offset
% if backward:
                + (((long)g * channels + c) * written + m) * KERNEL_SIZE;
% else:
                + (((long)g * written + m) * channels + c % channels) * KERNEL_SIZE;
% endif
            ${turn_weights()}
            NO_UNROLL for (int i = 0; i < TAPS; ++i) {
                const int k = ${"(TAPS - 1 - i)" if backward else "i"}${" * STRIDE + phase" if stride > 1 else ""};
                samples[i] = ${"k < KERNEL_SIZE ? SCALE * turned[k] : (VECTOR)0" if stride > 1 else "SCALE * turned[k]"};
            }
            NO_UNROLL for (int i = TAPS; i < SIZE; ++i) samples[i] = 0;
            ${fourier.passes("samples", "other")}
            __global SUM *to = transformed_weight + transformed_weight_offset
                + (((long)g * panels + panel) * (READ_PHASES * channels) + c) * (2 * VECTORS * LANES) + v * LANES;
            ${fourier.separate(fourier.result("samples", "other"), "to", "weight_pitch", "-", "VECTORS * LANES")}
        }
    }
}
