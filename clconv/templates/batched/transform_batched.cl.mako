<%namespace name="batched" file="batched.cl.mako"/>\
## transform_batched: planes_x[v][g][c][column] = number v of the tile of samples
##   sample i < TAKEN: x[n, g*channels + c % channels, (place*OUTPUTS + i)*STEP + line + c / channels - lead]
##   x may be another array (SOURCE); n batch, g group, c channel of all phases of a stride, c < terms
##
## For GPUs: a work-item owns a tile of one channel, in registers; neighbours own the tiles behind it.
## Their samples come through local memory, so that neighbours read neighbouring samples, and write
## neighbouring columns. Rows of channels from terms to row_pitch, which fill tiles of products, are zeros.
## Dimension 0 is blocks of tiles, 1 rows; both loop.
#define TAKEN ${taken}
#define OUTPUTS ${outputs}
#define STEP ${step}
#define LINES ${lines}
#define ITEMS ${items}
#define PITCH ${taken + 1 - taken % 2}  // odd, so that neighbours read different banks
${batched.constants()}

__kernel ${attributes}
void transform_batched(${signature})
{
    __local SUM samples[ITEMS * PITCH];
    __local long firsts[ITEMS];
    __local int elements[ITEMS];
    const int item = get_local_id(0);
    for (long block = get_group_id(0); block < blocks; block += get_num_groups(0)) {
        ${batched.begin("lead")}
        for (long row = get_group_id(1); row < rows; row += get_num_groups(1)) {
            const int g = (int)(row / row_pitch), c = (int)(row % row_pitch), phase = c / channels;
            __global const STORED *from = ${source} + ${source}_offset;
            const long channel = ((long)g * channels + c % channels) * ${source}_channel_stride;
            NO_UNROLL for (int e = item; e < ITEMS * TAKEN; e += ITEMS) {
                const int tile = e / TAKEN, i = e % TAKEN;
                const long p = firsts[tile] + phase + (long)i * STEP;
                const int ok = c < terms && elements[tile] >= 0 && p >= 0 && p < length;
                const SUM value = load(from + (ok ? elements[tile] * ${source}_batch_stride + channel + p : 0));
                samples[tile * PITCH + i] = ok ? value : (SUM)0;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
% for i in range(taken):
            const SUM s${i} = samples[item * PITCH + ${i}];
% endfor
            ${batched.run()}
            __global SUM *to = planes_${source} + planes_${source}_offset + row * pitch + block * ITEMS + item;
% for v in range(planes):
            to[${v} * (rows * pitch)] = v${v};
% endfor
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }
}
