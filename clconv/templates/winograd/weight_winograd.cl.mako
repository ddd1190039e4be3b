<%namespace name="winograd" file="winograd.cl.mako"/>\
## weight_winograd: transformed_weight[g][tile][p][c][i] = sum_{k<TAPS} G[p,k] * w[k],
##   w[k] = weight[m,c,k], or (BACKWARD) weight[c,m,(TAPS - 1 - k)*PHASES + phase], where
##   m*PHASES + phase = tile*CHANNEL_TILE + i; 0 where there is no such m or tap
##   g group, m channel written, c channel read, p point
##
## For CPUs: one work-item a work-group. It owns the channels of a tile. Dimension 0 is tasks, and loops.
#define KERNEL_SIZE ${kernel_size}
#define PHASES ${phases}
#define POINTS ${form.points}
#define CHANNEL_TILE ${channel_tile}
#define CHANNELS (CHANNEL_TILE / PHASES)

__kernel ${attributes}
void weight_winograd(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long g = task / tiles;
        const int m = (int)(task % tiles) * CHANNELS;
        const int there = written - m < CHANNELS ? written - m : CHANNELS;
        __global SUM *to = transformed_weight + transformed_weight_offset + task * ((long)POINTS * CHANNEL_TILE * channels);
        NO_UNROLL for (int i = 0; i < CHANNELS; ++i) {
% if backward:
            __global const STORED *from = weight + weight_offset + (g * channels * written + m + i) * KERNEL_SIZE;
            const long step = (long)written * KERNEL_SIZE;
% else:
            __global const STORED *from = weight + weight_offset + (g * written + m + i) * channels * KERNEL_SIZE;
            const long step = KERNEL_SIZE;
% endif
            NO_UNROLL for (int c = 0; c < channels; ++c) {
% for phase in range(phases):
                {
% for k in range(form.taps):
<% at = (form.taps - 1 - k) * phases + phase if backward else k %>\
                    const SUM w${k} = ${"i < there ? load(from + c * step + %d) : (SUM)0" % at if at < kernel_size else "0"};
% endfor
                    ${winograd.sums(form.weight, "w", "r", "SUM")}
% for p in range(form.points):
                    to[((long)${p} * channels + c) * CHANNEL_TILE + i * PHASES + ${phase}] = r${p};
% endfor
                }
% endfor
            }
        }
    }
}
