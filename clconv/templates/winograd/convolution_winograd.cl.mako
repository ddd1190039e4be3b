<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="results" file="results.cl.mako"/>\
<%namespace name="winograd" file="winograd.cl.mako"/>\
## convolution_winograd, by tiles of OUTPUTS results; the forward pass:
##   y[n,m,q] = epilogue(sum_{c<channels, k<TAPS} weight[m,c,k] * x[n, g*channels + c, q*STRIDE + k*DILATION - pad])
## or (BACKWARD) the input gradient:
##   y[n,m,q] = epilogue(sum_{c<channels, k<TAPS} weight[c,m,k] * x[n, g*channels + c, (q + pad - k*DILATION) / STRIDE])
##   of those k for which that is whole
##   n batch, g group, m channel written, c channel of g summed over, q position
## Result i of tile t of line j is q = (t*OUTPUTS + i)*DILATION + j; sample i is x at
## (t*TILE_STEP + i)*DILATION + j - lead. With PHASES of the input gradient, which has STRIDE of them and
## no lines then, result i of phase r is q = (t*OUTPUTS + i)*PHASES + r - pad % PHASES.
##
## For CPUs: one work-item a work-group. It owns some vectors of tiles, and some channels m. It transforms
## the tiles' samples, of all channels c:
##   data[vector][p][c] = sum_i B[p,i] * sample i
## in planes of a point p, which are a line longer than c needs: at a distance of pages all points of a c
## would share few lines of the first-level cache;
## then sums, in registers, CHANNEL_TILE channels m times VECTORS vectors at a point p, over all channels c;
## phases of a channel are as many channels here, since they are summed from the same samples:
##   sums[vector][p][m] = sum_c transformed_weight[p][c][m] * data[vector][p][c]
## and then the results are A[i,p] times these. Sums that are not finite are made again by the definition:
## NaN and infinities are in whole tiles otherwise.
% if lines_side_by_side:
## The lanes of a vector are lines j of one tile t, which lie side by side.
% elif dilation > 1:
## The lanes of a vector are tiles t of one line j.
% else:
## The lanes of a vector are tiles t, counted through all rows: those of a row lie side by side.
% endif
## Dimension 0 is tasks, and loops.
<%
    outputs = form.outputs
    apart = dilation > 1
    mask = "%s%d" % ("long" if dtype == "float64" else "int", lanes)
%>\
#define TAPS ${kernel_size}
#define OUTPUTS ${outputs}  // results of a tile, of each phase
#define PHASES ${phases}
#define RESULTS (OUTPUTS * PHASES)
#define POINTS ${form.points}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define CHANNEL_TILE ${channel_tile}  // channels a tile of sums, times phases
#define CHANNELS (CHANNEL_TILE / PHASES)
#define VECTORS ${vectors}  // vectors of positions a tile of sums
#define TILE_STEP ${form.step}  // samples from a tile's first to the next tile's
#define SPAN (TILE_STEP * (LANES - 1) + ${form.samples})  // samples of LANES neighbouring tiles
#define DATA ${"__global" if scratch else "__local"}  // where transformed samples are
% if apart:
#define STEP ${1 if lines_side_by_side else outputs * dilation}  // from a lane's position to the next lane's
% endif

#define PREFETCH_ROWS 4  // from the row that is read to the one that is prefetched

// A vector anywhere in local memory.
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

${definition.functions()}

${epilogue.functions()}

${winograd.sum_tree()}

${winograd.copy()}

## The transform of x0, x1, … at all points, to the place of channel c.
<%def name="store_data(blend=False)">\
${winograd.sums(form.data, "x", "d")}
% for p in range(form.points):
% if blend:
to[${p} * plane + c * VECTORS] = lane ? (others ? to[${p} * plane + c * VECTORS] : d${p}) : d${p};
% else:
to[${p} * plane + c * VECTORS] = d${p};
% endif
% endfor
</%def>\
<%def name="row_vector(j)">load_vector(from + ${j} * LANES)</%def>\
<%def name="row_element(j)">load(from + (TILE_STEP * LANES + ${j}))</%def>\
<%def name="raw_vector(j)">*(__local const VECTOR *)(raw + ${j} * LANES)</%def>\
<%def name="raw_element(j)">raw[TILE_STEP * LANES + ${j}]</%def>\
## Where a vector of tiles is.
<%def name="place()">\
% if lines_side_by_side:
const long which = vector / row_vectors;
const int line = (int)(vector % row_vectors) * LANES, t = (int)(which % row_tiles);
const long n = which / row_tiles;
% elif apart:
const long which = vector / DILATION;
const int line = (int)(vector % DILATION), t = (int)(which % row_vectors) * LANES;
const long n = which / row_vectors;
% else:
long n = vector * LANES / row_tiles;
int t = (int)(vector * LANES % row_tiles);
% endif
</%def>\
## From a row to the one that is asked for meanwhile: pieces of rows are too short to be foreseen.
<%def name="next_row()">\
const long next = c + PREFETCH_ROWS < channels ? PREFETCH_ROWS * x_channel_stride : 0;
</%def>\
## The samples of a vector of lines that lie side by side.
<%def name="stage_lines()">\
if (first >= 0 && first + (${form.samples} - 1L) * DILATION + LANES <= length) {
    NO_UNROLL for (int c = 0; c < channels; ++c) {
        __global const STORED *from = rows + c * x_channel_stride + first;
        ${next_row()}
% for i in range(form.samples):
        PREFETCH(from + next + ${i}L * DILATION, 0);
        const VECTOR x${i} = load_vector(from + ${i}L * DILATION);
% endfor
        ${store_data()}
    }
} else
    NO_UNROLL for (int c = 0; c < channels; ++c) {
        __global const STORED *row = rows + c * x_channel_stride;
        ${next_row()}
        NO_UNROLL for (int i = 0; i < ${form.samples}; ++i) {
            const long at = first + (long)i * DILATION;
            if (at >= 0 && at + LANES <= length) {
                PREFETCH(row + next + at, 0);
                *(__local VECTOR *)(raw + i * LANES) = load_vector(row + at);
            } else
                copy(raw + i * LANES, row, at, 1, LANES, length);
        }
% for i in range(form.samples):
        const VECTOR x${i} = ${raw_vector(i)};
% endfor
        ${store_data()}
    }
</%def>\
## The samples of a vector of tiles, transformed.
<%def name="stage()">\
DATA VECTOR *to = (DATA VECTOR *)data + (long)(v / VECTORS) * POINTS * plane + v % VECTORS;
${place()}
% if apart:
const long first = (long)t * (TILE_STEP * DILATION) + line - lead;
__global const STORED *rows = x + x_offset + n * x_batch_stride + (long)g * channels * x_channel_stride;
% if lines_side_by_side:
${stage_lines()}
% else:
NO_UNROLL for (int c = 0; c < channels; ++c) {
    copy(raw, rows + c * x_channel_stride, first, DILATION, SPAN, length);
    ${winograd.samples(raw_vector, raw_element)}
    ${store_data()}
}
% endif
% else:
NO_UNROLL for (int lane = 0, count; lane < LANES && n < batch; lane += count) {
    // Of the lanes from `lane` on, or of all of them, where the row had tiles in front of its first.
    const long first = ((long)t - lane) * TILE_STEP - lead;
    __global const STORED *rows = x + x_offset + n * x_batch_stride + (long)g * channels * x_channel_stride;
    const ${mask} others = (${mask})(${", ".join(str(e) for e in range(lanes))}) < (${mask})lane;
    if (lane == 0 && first >= 0 && first + SPAN <= length)
        NO_UNROLL for (int c = 0; c < channels; ++c) {
            __global const STORED *from = rows + c * x_channel_stride + first;
            ${next_row()}
            for (int e = 0; e < SPAN; e += ${line}) PREFETCH(from + next + e, 0);
            ${winograd.samples(row_vector, row_element)}
            ${store_data()}
        }
    else
        NO_UNROLL for (int c = 0; c < channels; ++c) {
            copy(raw, rows + c * x_channel_stride, first, 1, SPAN, length);
            ${winograd.samples(raw_vector, raw_element)}
            ${store_data(True)}
        }
    count = row_tiles - t, t = 0, ++n;
}
% endif
</%def>\
## The sums of a tile of channels at a point, for VECTORS vectors.
<%def name="products()">\
% for i in range(channel_tile):
% for j in range(vectors):
VECTOR s${i}_${j} = 0;
% endfor
% endfor
_Pragma("unroll 4") for (int c = 0; c < channels; ++c) {
% for j in range(vectors):
    const VECTOR x${j} = xs[c * VECTORS + ${j}];
% endfor
    __global const SUM *w = ws + (long)c * CHANNEL_TILE;
% for i in range(channel_tile):
    const SUM w${i} = w[${i}];
% for j in range(vectors):
    s${i}_${j} = w${i} * x${j} + s${i}_${j};
% endfor
% endfor
}
% for i in range(channel_tile):
% for j in range(vectors):
to[${i * vectors + j}] = s${i}_${j};
% endfor
% endfor
</%def>\
<%kernel:of_groups name="convolution_winograd" arrays="${arrays}">\
% if scratch:
__global SUM *data = scratch + scratch_offset + group * data_elements;
% endif
for (long task = group; task < tasks; task += groups) {
    const long block = task % position_blocks;
    const int part = (int)(task / position_blocks % parts), g = (int)(task / position_blocks / parts);
    const int tile_begin = part * part_tiles;
    const int tile_end = tile_begin + part_tiles < tiles ? tile_begin + part_tiles : tiles;
    const long vector_first = block * block_vectors;
    const int v_count = all_vectors - vector_first < block_vectors ? (int)(all_vectors - vector_first) : block_vectors;
    // Behind the last vector it is repeated.
    NO_UNROLL for (int v = 0; v < (v_count + VECTORS - 1) / VECTORS * VECTORS; ++v) {
        const long vector = vector_first + (v < v_count ? v : v_count - 1);
        {
            ${place()}
            place_row[v] = (int)n, place_tile[v] = t;
% if apart:
            place_line[v] = line;
% endif
        }
        ${stage()}
    }
    NO_UNROLL for (int tile = tile_begin; tile < tile_end; ++tile) {
        const int m = tile * CHANNELS;
        const int there = written - m < CHANNELS ? written - m : CHANNELS;
        __global const SUM *tile_weights = transformed_weight + transformed_weight_offset
            + ((long)g * tiles + tile) * ((long)POINTS * weight_plane);
        ${results.prefetch_tile()}
        NO_UNROLL for (int p = 0; p < POINTS; ++p) {
            __global const SUM *ws = tile_weights + (long)p * weight_plane;
            NO_UNROLL for (int v = 0; v < v_count; v += VECTORS) {
                DATA const VECTOR *xs = (DATA const VECTOR *)data + ((long)(v / VECTORS) * POINTS + p) * plane;
                __local VECTOR *to = (__local VECTOR *)sums + (v * POINTS + p * VECTORS) * CHANNEL_TILE;
                ${products()}
            }
        }
        ${results.store_tile()}
    }
}
</%kernel:of_groups>\
