<%namespace name="fourier" file="fourier.cl.mako"/>\
## weight_spectral: transformed_weight[.][g][panel][c] = conjugate of the transform of the taps of
##   LANES channels written, times 1 / (4 SIZE):
##   tap i < TAPS of channel m written and c read: the weight k = i*STRIDE + phase, of taps in reverse
##   (BACKWARD) TAPS - 1 - i in place of i; 0 where there is no such weight
##   phase of the stride: of the channel read, c = phase*CHANNELS + … (forward), or written (backward)
##
## For CPUs: one work-item a work-group; lanes are channels written. A panel has VECTORS of these vectors:
## for each c first the real, then the imaginary parts. Dimension 0 is tasks, and loops.
${fourier.constants()}
#define CHANNELS ${channels}  // read, of a group and phase
#define WRITTEN ${written}  // channels written, of a group and phase
#define READ_PHASES ${read_phases}
#define WRITE_PHASES ${write_phases}
#define GROUPS ${groups}
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define BLOCKS ${-(-written // lanes)}  // vectors of channels written, of a group and phase
#define VECTORS ${vectors}
#define PANELS ${panels}  // of a group
#define POINT_PITCH ${point_pitch}L
#define SCALE ((SUM)${repr(0.25 / transform.size)})

<%
    rows = "" if backward else "CHANNELS * "
    padded_taps = -(-kernel_size // lanes) * lanes
%>\
## All KERNEL_SIZE weights of the vector's channels, channels side by side.
<%def name="turn_weights()">\
NO_UNROLL for (int begin = 0; begin < KERNEL_SIZE; begin += LANES) {
    // The last vector begins early, so that it reads no more than a channel's weights.
    const int k = begin + LANES <= KERNEL_SIZE || KERNEL_SIZE < LANES ? begin : KERNEL_SIZE - LANES;
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
    __global const STORED *weight_end = weight + weight_offset + (long)GROUPS * CHANNELS * WRITTEN * KERNEL_SIZE;
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int c = (int)(task % (READ_PHASES * CHANNELS));
        const int panel = (int)(task / (READ_PHASES * CHANNELS) % PANELS);
        const int g = (int)(task / (READ_PHASES * CHANNELS) / PANELS);
        for (int v = 0; v < VECTORS; ++v) {
            const int block = panel * VECTORS + v;
            const int phase = c / CHANNELS + block / BLOCKS, m = block % BLOCKS * LANES;
            // Behind the last vector of channels a panel has zeros.
            const int there = block >= BLOCKS * WRITE_PHASES ? 0 : (WRITTEN - m < LANES ? WRITTEN - m : LANES);
            __global const STORED *from = weight + weight_offset
% if backward:
                + (((long)g * CHANNELS + c) * WRITTEN + m) * KERNEL_SIZE;
% else:
                + (((long)g * WRITTEN + m) * CHANNELS + c % CHANNELS) * KERNEL_SIZE;
% endif
            ${turn_weights()}
            NO_UNROLL for (int i = 0; i < TAPS; ++i) {
                const int k = ${"(TAPS - 1 - i)" if backward else "i"}${" * STRIDE + phase" if stride > 1 else ""};
                samples[i] = ${"k < KERNEL_SIZE ? SCALE * turned[k] : (VECTOR)0" if stride > 1 else "SCALE * turned[k]"};
            }
            NO_UNROLL for (int i = TAPS; i < SIZE; ++i) samples[i] = 0;
            ${fourier.passes("samples", "other")}
            __global SUM *to = transformed_weight + transformed_weight_offset
                + (((long)g * PANELS + panel) * (READ_PHASES * CHANNELS) + c) * (2 * VECTORS * LANES) + v * LANES;
            ${fourier.separate(fourier.result("samples", "other"), "to", "POINT_PITCH", "-", "VECTORS * LANES")}
        }
    }
}
