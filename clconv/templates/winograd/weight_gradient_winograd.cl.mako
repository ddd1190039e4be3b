<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="turn" file="turn.cl.mako"/>\
<%namespace name="winograd" file="winograd.cl.mako"/>\
## weight_gradient_winograd, by tiles of OUTPUTS positions of y, the output's gradient:
##   transformed_result[s][p][g][m][c] = sum over the share s of all tiles t of lines j, and of all n, of
##     (sum_i A[i,p] * y[n, g*written + m, (t*OUTPUTS + i)*DILATION + j])
##     * (sum_i B[p,i] * x[n, g*channels + c, (t*TILE_STEP + i)*DILATION + j - pad])
##   p point, g group, m channel of y, c channel of x
##
## For CPUs: one work-item a work-group. It owns block_m channels m times block_c channels c of one group, in
## one share. Chunks of tiles come one after the other: rows of x and of y are turned, so that LANES channels
## lie side by side, and transformed:
##   data_x[panel][p][tile][c]: panels of VECTORS vectors of channels c
##   data_y[p][tile][m]
## Then vectors of channels c are multiplied by single channels m, and summed in registers over the tiles of
## the chunk: CHANNEL_TILE times VECTORS vectors at a point. These are added to those of the chunks before.
## What lies outside a row is zero. Dimension 0 is tasks, and loops.
##
## A place is a tile t of all lines; where these are more than a chunk's tiles, of `block_lines` of them.
<%
    outputs = form.outputs
%>\
#define OUTPUTS ${outputs}
#define POINTS ${form.points}
#define DILATION ${dilation}
#define CHANNEL_TILE ${channel_tile}  // channels m a tile of sums
#define VECTORS ${vectors}  // vectors of channels c a tile of sums
#define TILE_STEP ${form.step}  // samples from a tile's first to the next tile's
#define PANEL LANES  // channels that are turned at a time

// A vector anywhere in memory.
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

${turn.functions()}

// turned[i * LANES + e] = rows[e][first + i] for i < count; 0 outside the row, and behind the last channel.
static inline void turn_inside(__local SUM *turned, __global const STORED *rows, const long channel_stride,
                               const int channels, const long first, const int count, const int length)
{
    const long inside_begin = -first, inside_end = length - first;
    const int begin = inside_begin < 0 ? 0 : inside_begin < count ? (int)inside_begin : count;
    const int end = inside_end < begin ? begin : inside_end < count ? (int)inside_end : count;
    NO_UNROLL for (int i = 0; i < begin; ++i) *(__local VECTOR *)(turned + i * LANES) = 0;
    NO_UNROLL for (int i = end; i < count; ++i) *(__local VECTOR *)(turned + i * LANES) = 0;
    if (begin < end) turn(turned + begin * LANES, rows + (first + begin), channel_stride, channels, end - begin);
}

## Vector v of channels of the place, and of those behind it in its row, transformed; `samples` of a tile,
## tiles `step` apart, the first of the row beginning at -`lead`.
<%def name="stage(array, matrix, samples, step, lead, length, first_channel, count)">\
__global const STORED *rows = ${array} + ${array}_offset + n * ${array}_batch_stride
    + ((long)g * ${count} + ${first_channel}) * ${array}_channel_stride;
const int there = ${count} - (${first_channel});
if (line_blocks == 1)
    turn_inside(raw, rows, ${array}_channel_stride, there, (long)t * ${step} * DILATION - ${lead},
                ((run - 1) * ${step} + ${samples}) * DILATION, ${length});
else
    NO_UNROLL for (int i = 0; i < ${samples}; ++i)
        turn_inside(raw + i * lines * LANES, rows, ${array}_channel_stride, there,
                    ((long)t * ${step} + i) * DILATION + line - ${lead}, lines, ${length});
NO_UNROLL for (int r = 0; r < run; ++r)
    NO_UNROLL for (int j = 0; j < lines; ++j) {
        __local const VECTOR *from = (__local const VECTOR *)raw + (r * ${step} * DILATION + j);
        const int tile = tiles + r * lines + j;
% for i in range(samples):
        const VECTOR x${i} = from[${i} * apart];
% endfor
        ${winograd.sums(matrix, "x", "d")}
% for p in range(form.points):
        ${caller.keep(p)}
% endfor
    }
</%def>\
## The sums of a tile at a point, added to those of the chunks before.
<%def name="products()">\
% for i in range(channel_tile):
% for j in range(vectors):
VECTOR s${i}_${j} = 0;
% endfor
% endfor
_Pragma("unroll 4") for (int t = 0; t < tiles; ++t) {
% for j in range(vectors):
    const VECTOR x${j} = xs[t * VECTORS + ${j}];
% endfor
    __local const SUM *y_at = ys + t * y_pitch;
% for i in range(channel_tile):
    const SUM y${i} = y_at[${i}];
% for j in range(vectors):
    s${i}_${j} = y${i} * x${j} + s${i}_${j};
% endfor
% endfor
}
% for i in range(channel_tile):
if (${i} < there) {
    __global SUMS *to = (__global SUMS *)(sums + ${i} * c_pitch);
    if (adding) {
% for j in range(vectors):
        to[${j}] += s${i}_${j};
% endfor
    } else {
% for j in range(vectors):
        to[${j}] = s${i}_${j};
% endfor
    }
}
% endfor
</%def>\
<%kernel:of_groups name="weight_gradient_winograd" arrays="${arrays}">\
for (long task = group; task < tasks; task += groups) {
    const long share = task % shares, block = task / shares;
    const int c_first = (int)(block % c_blocks) * block_c, m_first = (int)(block / c_blocks % m_blocks) * block_m;
    const long g = block / c_blocks / m_blocks;
    const int c_count = channels - c_first < block_c ? channels - c_first : block_c;
    const int m_count = written - m_first < block_m ? written - m_first : block_m;
    const int panels = (c_count + VECTORS * LANES - 1) / (VECTORS * LANES);
    __local SUM *data_y = data, *data_x = data + POINTS * chunk_tiles * y_pitch;
    const long chunk_begin = chunks * share / shares, chunk_end = chunks * (share + 1) / shares;
    for (long chunk = chunk_begin; chunk < chunk_end; ++chunk) {
        const int adding = chunk > chunk_begin;
        const long last = (chunk + 1) * chunk_places < places ? (chunk + 1) * chunk_places : places;
        int tiles = 0;
        for (long place = chunk * chunk_places; place < last;) {
            const long which = place / line_blocks, n = which / row_tiles;
            const int t = (int)(which % row_tiles), line = (int)(place % line_blocks) * block_lines;
            const int lines = DILATION - line < block_lines ? DILATION - line : block_lines;
            const int run = line_blocks > 1 ? 1 : last - place < row_tiles - t ? (int)(last - place) : row_tiles - t;
            const int apart = line_blocks > 1 ? lines : DILATION;
            // Whole panels, the last of which may have vectors behind the last channel: zeros.
            NO_UNROLL for (int v = 0; v < panels * VECTORS; ++v) {
                __local VECTOR *to = (__local VECTOR *)data_x
                    + (long)(v / VECTORS) * (POINTS * VECTORS) * chunk_tiles + v % VECTORS;
                <%self:stage array="x" matrix="${form.data}" samples="${form.samples}" step="TILE_STEP" lead="pad"
                             length="length" first_channel="c_first + v * LANES" count="channels">\
<%def name="keep(p)">to[(${p} * chunk_tiles + tile) * VECTORS] = d${p};</%def>\
</%self:stage>\
            }
            NO_UNROLL for (int v = 0; v < y_pitch / LANES; ++v) {
                <%self:stage array="y" matrix="${transposed(form.inverse)}" samples="${outputs}" step="OUTPUTS" lead="0"
                             length="out_length" first_channel="m_first + v * LANES" count="written">\
<%def name="keep(p)">*(__local VECTOR *)(data_y + (${p} * chunk_tiles + tile) * y_pitch + v * LANES) = d${p};</%def>\
</%self:stage>\
            }
            tiles += run * lines;
            place += run;
        }
        NO_UNROLL for (int p = 0; p < POINTS; ++p)
            NO_UNROLL for (int panel = 0; panel < panels; ++panel) {
                __local const VECTOR *xs = (__local const VECTOR *)data_x
                    + ((long)panel * POINTS + p) * (chunk_tiles * VECTORS);
                NO_UNROLL for (int m = 0; m < m_count; m += CHANNEL_TILE) {
                    const int there = m_count - m;
                    __local const SUM *ys = data_y + p * chunk_tiles * y_pitch + m;
                    __global SUM *sums = transformed_result + transformed_result_offset
                        + (((share * POINTS + p) * group_count + g) * written + m_first + m) * c_pitch
                        + (c_first + panel * (VECTORS * LANES));
                    ${products()}
                }
            }
    }
}
</%kernel:of_groups>\
