<%namespace name="fourier" file="fourier.cl.mako"/>\
## transform_spectral: transformed_x[.][g][tile][block] = the transform of SIZE samples of LANES channels,
##   sample i < TAKEN of tile (n,t), line j: x[n, g*channels + c, (t*outputs + i)*STEP + j - lead]; then zeros
##   x may be another array (SOURCE), and the result conjugate
##   n batch, g group, c channel of g; a tile's SIZE samples give outputs results
##
## For CPUs: one work-item a work-group; lanes are channels. Where STEP samples lie between those of a
## tile, the lines j between them are tiles of their own (a dilation), or channels of their own (a
## stride: block j * line_blocks + c / LANES). All lines of a place are read together where TOGETHER is STEP.
## Samples outside the row are zeros; those of missing channels may be anything. Dimension 0 is tasks, and loops.
${fourier.constants()}
#define TAKEN ${taken}
#define STEP ${step}
#define TOGETHER ${together}
#define LINES ${lines}  // of tiles
#define SPACING ${step // together}  // of samples that are staged one after the other
#define PLACE(i) (${"i" if together == 1 else "((i) % TOGETHER * SIZE + (i) / TOGETHER)"})

<%def name="stage()">\
for (int i = 0; i < TOGETHER * SIZE; i += LANES) {
    const long p = first + (long)i * SPACING;
% if together == step:
    if (length >= LANES && p > -LANES && p < length) {
        // Vectors inside the row, of which those samples are taken that are wanted.
        const long from = p < 0 ? 0 : p > length - LANES ? length - LANES : p;
        // The next tile's: pieces of rows are too short for a processor to foresee.
        if (from + (TOGETHER * SIZE + LANES) <= length) {
% for e in range(lanes):
            PREFETCH(row + ${row(e)} * ${source}_channel_stride + from + TOGETHER * SIZE, 0);
% endfor
        }
% for e in range(lanes):
        VECTOR r${e} = load_vector(row + ${row(e)} * ${source}_channel_stride + from);
% endfor
        ${fourier.turn()}
        if (from == p) {
% for e in range(lanes):
            samples[PLACE(i + ${e})] = r${e};
% endfor
            continue;
        }
        const int shift = (int)(from - p);
% for e in range(lanes):
        if (${e} + shift >= 0 && ${e} + shift < LANES) samples[PLACE(i + ${e} + shift)] = r${e};
% endfor
        NO_UNROLL for (int e = 0; e < shift; ++e) samples[PLACE(i + e)] = 0;
        NO_UNROLL for (int e = LANES + shift; e < LANES; ++e) samples[PLACE(i + e)] = 0;
        continue;
    }
% endif
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const long at = p + e * SPACING;
        const int inside = at >= 0 && at < length;
        __local SUM *to = (__local SUM *)(samples + PLACE(i + e));
        NO_UNROLL for (int l = 0; l < LANES; ++l) to[l] = inside && l < there ? load(row + l * ${source}_channel_stride + at) : (SUM)0;
    }
}
</%def>\
## Channel e of the block; where there is none, one whose transform nobody reads.
<%def name="row(e)"><%
    return "(%d < there ? %d : 0)" % (e, e)
%></%def>\
__kernel ${attributes}
void transform_spectral(${signature})
{
    __local VECTOR samples[TOGETHER * SIZE];
    __local VECTOR other[SIZE];
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int block = (int)(task % line_blocks), g = (int)(task / line_blocks % groups);
        const long which = task / line_blocks / groups;
        const int line = (int)(which % ${lines if together == 1 else 1});
        const long tile = which / ${lines if together == 1 else 1};
        const long n = (tile_first + tile) / row_tiles;
        const long first = (tile_first + tile) % row_tiles * outputs * STEP + line - lead;
        const int there = channels - block * LANES < LANES ? channels - block * LANES : LANES;
        __global const STORED *row = ${source} + ${source}_offset + n * ${source}_batch_stride + ((long)g * channels + block * LANES) * ${source}_channel_stride;
        ${stage()}
        NO_UNROLL for (int j = 0; j < TOGETHER; ++j) {
            __local VECTOR *own = samples + j * SIZE;
% if taken < transform.size:
            NO_UNROLL for (int i = TAKEN; i < SIZE; ++i) own[i] = 0;
% endif
            ${fourier.passes("own", "other")}
            __global SUM *to = transformed_${source} + transformed_${source}_offset
                + (((long)g * tiles + tile * LINES + ${"line + j" if lines > 1 else "0"}) * blocks + ${"block" if lines > 1 else "j * line_blocks + block"}) * (2 * LANES);
            ${fourier.separate(fourier.result("own", "other"), "to", "point_pitch", "-" if conjugate else "")}
        }
    }
}
