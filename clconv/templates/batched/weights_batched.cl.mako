<%namespace name="batched" file="batched.cl.mako"/>\
## weights_batched: planes_weight[v][g][c][m] = number v of the taps of channel m written and c read,
##   both of all phases of a stride:
##   tap i < TAPS: the weight k = i*STRIDE + phase, of taps in reverse (BACKWARD) TAPS - 1 - i in place of i;
##   0 where there is no such weight; phase: of the channel read (forward), or written (backward)
##
## For GPUs: a work-item owns the taps of one m and c, neighbours the next m. Channels that fill tiles of
## products are zeros. Dimension 0 is blocks of m, 1 rows of g and c; both loop.
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
${batched.constants()}

__kernel ${attributes}
void weights_batched(${signature})
{
    for (long block = get_group_id(0); block < blocks; block += get_num_groups(0)) {
        const int m = (int)(block * get_local_size(0) + get_local_id(0));
        for (long row = get_group_id(1); m < row_pitch && row < rows; row += get_num_groups(1)) {
            const int g = (int)(row / term_pitch), c = (int)(row % term_pitch);
            const int there = m < rows_there && c < terms, phase = ${"m / written" if backward else "c / channels"};
            __global const STORED *from = weight + weight_offset;
            const long first = ${"(((long)g * channels + c) * written + m % written)" if backward else "(((long)g * written + m) * channels + c % channels)"} * KERNEL_SIZE + phase;
% for i in range(taps):
            const int k${i} = ${taps - 1 - i if backward else i} * STRIDE;
            const SUM t${i} = load(from + (there && k${i} + phase < KERNEL_SIZE ? first + k${i} : 0));
            const SUM s${i} = there && k${i} + phase < KERNEL_SIZE ? t${i} : (SUM)0;
% endfor
            ${batched.run()}
            __global SUM *to = planes_weight + planes_weight_offset + row * row_pitch + m;
% for v in range(planes):
            to[${v} * (rows * row_pitch)] = v${v};
% endfor
        }
    }
}
