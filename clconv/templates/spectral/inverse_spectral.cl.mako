<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="fourier" file="fourier.cl.mako"/>\
## inverse_spectral: y[n,m,p] = epilogue(sum), of the transformed tiles' inverse transforms:
##   result i < outputs of tile (n,t), line j: p = (t*outputs + i)*STEP + j - lead
##   n batch, g group, m channel written
## Sums that are not finite are made again by the definition: NaN and infinities are in whole tiles
## otherwise. The forward pass:
##   sum_{c<channels, k<kernel_size} weight[m,c,k] * x[n, g*channels + c, p*STRIDE + k*DILATION - pad]
## or (BACKWARD) the input gradient, of those k for which the division leaves no remainder:
##   sum_{c<channels, k<kernel_size} weight[c,m,k] * x[n, g*channels + c, (p + pad - k*DILATION) / STRIDE]
##
## For CPUs: one work-item a work-group; lanes are channels written, until the results of LANES positions
## are turned. Lines j are tiles of their own (a dilation), or channels of their own (a stride, BACKWARD);
## all lines of a place are written together where TOGETHER is STEP. Dimension 0 is tasks, and loops.
${fourier.constants()}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define STEP ${step}
#define TOGETHER ${together}
#define LINES ${lines}  // of tiles
#define SPACING ${step // together}  // of results that are stored one after the other
#define PLACE(u) (${"((u) ^ 1)" if together == 1 else "((u) % TOGETHER * SIZE + ((u) / TOGETHER ^ 1))"})

${definition.functions()}

${fourier.sum_tree()}
${epilogue.functions()}
<%
    even = len(transform.passes) % 2 == 0
    arrays = ("own", "other") if even else ("other", "own")
%>\
## Results i … of all channels of the block.
<%def name="store()">\
% for e in range(lanes):
VECTOR r${e} = results[PLACE(i + ${e})];
% endfor
const SUM all = sum_tree(${fourier.tree(["r%d" % e for e in range(lanes)])});
if (all * 0 != 0) {  // or all are large
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        NO_UNROLL for (int l = 0; l < there; ++l) {
            __local SUM *sum = (__local SUM *)(results + PLACE(i + e)) + l;
            const long p = first + (long)(i + e) * SPACING;
            if (*sum * 0 != 0 && p >= 0 && p < limit)
                *sum = defined(x + x_offset + n * x_batch_stride + (long)g * channels * x_channel_stride, x_channel_stride,
                               weight + weight_offset + ${"(long)g * channels * written * kernel_size + (m + l) * (long)kernel_size" if backward else "((long)g * written + m + l) * channels * kernel_size"},
                               channels, written, kernel_size, (int)p, pad, length);
        }
% for e in range(lanes):
    r${e} = results[PLACE(i + ${e})];
% endfor
}
${fourier.turn()}
% for e in range(lanes):
turned[${e}] = r${e};
% endfor
const int inside = SPACING == 1 && first + i >= 0 && i + LANES <= span;
NO_UNROLL for (int l = 0; l < there; ++l) {
    const long channel = (long)g * written + m + l;
    ${epilogue.finish("turned[l]", "channel", "i", "SPACING", "first", "limit")}
}
</%def>\
__kernel ${attributes}
void inverse_spectral(${signature})
{
    __local VECTOR results[TOGETHER * SIZE];
    __local VECTOR other[SIZE];
    __local VECTOR turned[LANES];
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int block = (int)(task % line_blocks), g = (int)(task / line_blocks % groups);
        const long which = task / line_blocks / groups;
        const int line = (int)(which % ${lines if together == 1 else 1});
        const long tile = which / ${lines if together == 1 else 1};
        const long n = (tile_first + tile) / row_tiles;
        const int first = (int)((tile_first + tile) % row_tiles * outputs * STEP) + line - lead;
        const int m = block * LANES, there = written - m < LANES ? written - m : LANES;
        // Results of all lines together, and the position behind the last one.
        const int rest = (positions - first + SPACING - 1) / SPACING;
        const int span = rest < TOGETHER * outputs ? rest : TOGETHER * outputs;
        const int limit = rest < TOGETHER * outputs ? positions : first + span * SPACING;
        // Lines that are there when they are written keep nobody waiting.
        NO_UNROLL for (int l = 0; l < there; ++l)
            for (int e = 0; e < span * SPACING; e += ${line})
                PREFETCH(y + y_offset + n * y_batch_stride + ((long)g * written + m + l) * y_channel_stride + first + e, 1);
        NO_UNROLL for (int j = 0; j < TOGETHER; ++j) {
            __local VECTOR *own = results + j * SIZE;
            __global const SUM *from = transformed_y + transformed_y_offset
                + (((long)g * tiles + tile * LINES + ${"line + j" if lines > 1 else "0"}) * blocks + ${"block" if lines > 1 else "j * line_blocks + block"}) * (2 * LANES);
            ${fourier.join("from", arrays[0], "point_pitch")}
            ${fourier.passes(*arrays)}
        }
        for (int turn = 0; turn < span; turn += LANES) {
            // The last vector begins early, so that it is whole: some results are stored twice.
            const int i = turn + LANES <= span || span < LANES ? turn : span - LANES;
            ${store()}
        }
    }
}
