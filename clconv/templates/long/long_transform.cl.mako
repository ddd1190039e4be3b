<%namespace name="fourier" file="fourier.cl.mako"/>\
## long_transform: spectrum[n][.][tile] = the transform of the samples i < taken of a tile, times scale, then
## zeros: x[n, tile*step + i - lead], and 0 where the row has none
##
## For CPUs: one work-item a work-group. It owns LANES tiles of one row, which are its lanes, and two
## arrays of `scratch`. Point k of the row's tiles is at spectrum + n*row_pitch + k*2*pitch: the real parts
## of all tiles, then, `pitch` further on, the imaginary ones. Dimension 0 is tasks, and loops.
${fourier.constants("__global")}
## Samples i … of all tiles.
<%def name="stage()">\
NO_UNROLL for (int l = 0; l < LANES; ++l) {
    const long begin = (tile + l) * step - lead;
    turned[l] = load_checked(row, i, taken - 1, 1, begin < length ? (int)begin : length, length);
}
% for e in range(lanes):
VECTOR r${e} = turned[${e}];
% endfor
${fourier.turn()}
% for e in range(lanes):
own[i + ${e}] = scale * r${e};
% endfor
</%def>\
__kernel ${attributes}
void long_transform(${signature})
{
    __local VECTOR turned[LANES];
    __global VECTOR *own = (__global VECTOR *)(scratch + scratch_offset + get_group_id(0) * (4L * POINTS * LANES));
    __global VECTOR *other = own + SIZE;
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long n = task / blocks, tile = task % blocks * LANES;
        __global const STORED *row = x + x_offset + n * x_batch;
        NO_UNROLL for (int i = 0; i < SIZE; i += LANES) {
            ${stage()}
        }
        ${fourier.passes("own", "other")}
        __global SUM *to = spectrum + spectrum_offset + n * row_pitch + tile;
        ${fourier.separate(fourier.result("own", "other"), "to", "(2 * pitch)", "", "pitch")}
    }
}
