<%namespace name="batched" file="batched.cl.mako"/>\
## transform_batched: planes_x[v][g][c][column] = number v of the tile of samples
##   sample i < TAKEN: x[n, g*channels + c % channels, (place*OUTPUTS + i)*STEP + line + c / channels - lead]
##   x may be another array (SOURCE); n batch, g group, c channel of all phases of a stride, c < terms
##
## For GPUs: a work-item owns a tile of one channel, in registers; neighbours own the tiles behind it.
## Their samples come through local memory, so that neighbours read neighbouring samples, and write
## neighbouring columns. Rows of channels from terms to row_pitch, which fill tiles of products, are zeros.
## Dimension 0 is blocks of tiles, 1 and 2 are rows.
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
    ${batched.row_of_group()}
    ${batched.begin()}
    const int g = row / row_pitch, c = row % row_pitch, phase = c / channels;
    const long channel = ((long)g * channels + c % channels) * ${source}_channel_stride;
    // Several at once, so that one waits for memory beside the next.
    _Pragma("unroll ${fetch_count}") for (int e = item; e < ITEMS * TAKEN; e += ITEMS) {
        const int tile = e / TAKEN, i = e % TAKEN;
        const long p = firsts[tile] + phase + (long)i * STEP;
        const int ok = c < terms && elements[tile] >= 0 && p >= 0 && p < length;
        const SUM value = load(${source} + ${source}_offset + (ok ? elements[tile] * ${source}_batch_stride + channel + p : 0));
        samples[tile * PITCH + i] = ok ? value : (SUM)0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    __local const SUM *own = samples + item * PITCH;
    __global SUM *to = planes_${source} + planes_${source}_offset + (long)row * pitch + block * ITEMS;
    ${batched.run("const SUM {0} = own[{1}];", "to[item] = {0}, to += (long)rows * pitch;")}
}
