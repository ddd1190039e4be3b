<%namespace name="winograd" file="winograd.cl.mako"/>\
## weight_winograd: transformed_weight[g][tile][p][c][i] = sum_{k<TAPS} G[p,k] * w[k],
##   w[k] = weight[m,c,k], or (BACKWARD) weight[c,m,TAPS - 1 - k], m = tile*CHANNEL_TILE + i; 0 where there
##   is no such m
##   g group, m channel written, c channel read, p point
##
## For CPUs: one work-item a work-group. It owns the channels of a tile. Dimension 0 is tasks, and loops.
#define TAPS ${form.taps}
#define POINTS ${form.points}
#define CHANNEL_TILE ${channel_tile}

__kernel ${attributes}
void weight_winograd(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int tile = (int)(task % tiles);
        const long g = task / tiles;
        const int there = written - tile * CHANNEL_TILE < CHANNEL_TILE ? written - tile * CHANNEL_TILE : CHANNEL_TILE;
        __global SUM *to = transformed_weight + transformed_weight_offset + task * ((long)POINTS * CHANNEL_TILE * channels);
        NO_UNROLL for (int i = 0; i < CHANNEL_TILE; ++i) {
            const long m = tile * CHANNEL_TILE + (i < there ? i : 0);
% if backward:
            __global const STORED *from = weight + weight_offset + (g * channels * written + m) * TAPS;
            const long step = (long)written * TAPS;
% else:
            __global const STORED *from = weight + weight_offset + (g * written + m) * channels * TAPS;
            const long step = TAPS;
% endif
            NO_UNROLL for (int c = 0; c < channels; ++c) {
% for k in range(form.taps):
                const SUM w${k} = i < there ? load(from + c * step + ${form.taps - 1 - k if backward else k}) : (SUM)0;
% endfor
                ${winograd.sums(form.weight, "w", "r", "SUM")}
% for p in range(form.points):
                to[((long)${p} * channels + c) * CHANNEL_TILE + i] = r${p};
% endfor
            }
        }
    }
}
