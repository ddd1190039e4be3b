<%namespace name="winograd" file="winograd.cl.mako"/>\
## weight_winograd: transformed_weight[g][tile][p][c][i] = sum_{k<TAPS} G[p,k] * w[k],
##   w[k] = weight[m,c,k], or (BACKWARD) weight[c,m,(TAPS - 1 - k)*PHASES + phase], where
##   m*PHASES + phase = tile*CHANNEL_TILE + i; the last m again where there is no such m, 0 where no such tap
##   g group, m channel written, c channel read, p point
##
## For CPUs: one work-item a work-group. It owns the channels of a tile, with the line behind each of its planes.
## The lanes of a vector are those channels, since they lie side by side. Dimension 0 is tasks, and loops.
<%
    side = 1
    while side < channel_tile:
        side *= 2
    sum_type = "double" if dtype == "float64" else "float"
    def lane(i, k):
        channel, phase = divmod(i, phases)
        at = (form.taps - 1 - k) * phases + phase if backward else k
        if i >= channel_tile or at >= kernel_size:
            return "0"
        return "load(from + at%d + %d)" % (channel, at)
%>\
#define KERNEL_SIZE ${kernel_size}
#define POINTS ${form.points}
#define CHANNEL_TILE ${channel_tile}
#define CHANNELS ${channel_tile // phases}

// A tile's channels side by side, anywhere in memory; for six of them a vector of eight.
typedef ${sum_type}${"" if side == 1 else side} SIDE;
typedef SIDE STORED_SIDE __attribute__((aligned(${8 if dtype == "float64" else 4})));

__kernel ${attributes}
void weight_winograd(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long g = task / tiles;
        const int m = (int)(task % tiles) * CHANNELS;
        const int last = written - 1 - m;
        __global SUM *to = transformed_weight + transformed_weight_offset + task * ((long)POINTS * weight_plane);
% if backward:
        __global const STORED *from = weight + weight_offset + (g * channels * written + m) * KERNEL_SIZE;
        const long step = KERNEL_SIZE, c_step = (long)written * KERNEL_SIZE;
% else:
        __global const STORED *from = weight + weight_offset + (g * written + m) * channels * KERNEL_SIZE;
        const long step = (long)channels * KERNEL_SIZE, c_step = KERNEL_SIZE;
% endif
% for i in range(channel_tile // phases):
        const long at${i} = (${i} < last ? ${i} : last) * step;
% endfor
        NO_UNROLL for (int c = 0; c < channels; ++c) {
% for k in range(form.taps):
            const SIDE w${k} = ${"(SIDE)(%s)" % ", ".join(lane(i, k) for i in range(side))};
% endfor
            ${winograd.sums(form.weight, "w", "r", "SIDE")}
            // In a tile of six the last two lanes are overwritten by the next c, or lie behind the plane.
% for p in range(form.points):
            *(__global STORED_SIDE *)(to + (long)${p} * weight_plane) = r${p};
% endfor
            to += CHANNEL_TILE, from += c_step;
        }
    }
}
