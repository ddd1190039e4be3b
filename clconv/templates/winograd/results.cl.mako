<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="winograd" file="winograd.cl.mako"/>\
## How a tile of channels is transformed back and stored, and what is not finite made again.
##
<%!
    def results_of(phase, phases):
        """What the results of a phase are called, in front of their numbers."""
        return "r" if phases == 1 else "r%d_" % phase
%>\
## Results of a tile in the order of their positions: those of its phases in turn.
<%def name="in_order()"><%
    results = []
    for i in range(form.outputs):
        results += [results_of(phase, phases) + str(i) for phase in range(phases)]
%>\
${winograd.in_order(results)}
</%def>\
## Results of a vector of tiles that are all in one row.
<%def name="store_whole()">\
% if dilation > 1:
% for i in range(form.outputs):
${epilogue.finish("r%d" % i, "channel", "(int)(first + %d * DILATION)" % i, "1", "0", "positions")}
% endfor
% else:
${in_order()}
% for i in range(form.outputs * phases):
${epilogue.finish("o%d" % i, "channel", "(int)(first + %d * LANES)" % i, "1", "0", "positions")}
% endfor
% endif
</%def>\
## Result p of the row, if it is not finite, by the definition.
<%def name="mend(sum, p)">\
if (${sum} * 0 != 0)
    ${sum} = defined(x + x_offset + n * x_batch_stride + (long)g * channels * x_channel_stride, x_channel_stride,
        weight + weight_offset + ${"((long)g * channels * written + m + i) * TAPS" if backward else "((long)g * written + m + i) * channels * TAPS"},
        channels, written, TAPS, (int)(${p}), pad, length);
</%def>\
## A channel's results of any vector, each part of it that is in one row.
<%def name="store_parts()">\
% if dilation > 1:
% for i in range(form.outputs):
*(__local VECTOR *)(raw + ${i} * LANES) = r${i};
% endfor
NO_UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    const long begin = first + (long)o * DILATION;
    if (begin >= positions) break;
% if lines_side_by_side:
    // Behind the last line the next result's first one follows.
    const int limit = positions - begin < DILATION - line ? positions : (int)begin + (DILATION - line);
% else:
    const int limit = positions;
% endif
    const int inside = begin + (LANES - 1L) * STEP < limit;
    __local SUM *own = raw + o * LANES;
    if (mending)
        NO_UNROLL for (int e = 0; e < LANES && begin + (long)e * STEP < limit; ++e) {
            ${mend("own[e]", "begin + (long)e * STEP")}
        }
    const VECTOR sum = *(__local const VECTOR *)own;
    ${epilogue.finish("sum", "channel", "0", "STEP", "(int)begin", "limit")}
}
% else:
${in_order()}
% for i in range(form.outputs * phases):
*(__local VECTOR *)(raw + ${i} * LANES) = o${i};
% endfor
long n = place_row[v];
int t = place_tile[v];
NO_UNROLL for (int lane = 0, count; lane < LANES && n < batch; lane += count) {
    count = row_tiles - t < LANES - lane ? row_tiles - t : LANES - lane;
    // Of a tile's results some may be in front of the row.
    const int first = t * RESULTS - write_lead, begin = first < 0 ? 0 : first;
    const int limit = positions - first < count * RESULTS ? positions : first + count * RESULTS;
    __local SUM *own = raw + lane * RESULTS - first;
    if (mending)
        NO_UNROLL for (int u = begin; u < limit; ++u) {
            ${mend("own[u]", "u")}
        }
    NO_UNROLL for (int u = begin; u < limit; u += LANES) {
        const int inside = u + LANES <= limit;
        const VECTOR sum = *(__local const SUMS *)(own + u);
        ${epilogue.finish("sum", "channel", "u", "1", "0", "limit")}
    }
    t = 0, ++n;
}
% endif
</%def>\
## Where the first result of a vector of tiles is, and whether all of them are in its row.
<%def name="result_place()">\
% if dilation > 1:
const long n = place_row[v], first = (long)place_tile[v] * (OUTPUTS * DILATION) + place_line[v];
% if lines_side_by_side:
const int line = place_line[v];
const int whole = line + LANES <= DILATION && first + (OUTPUTS - 1L) * DILATION + LANES <= positions;
% else:
const int whole = 0;
% endif
% else:
const int write_lead = pad % PHASES;
const int whole = row_tiles - place_tile[v] >= LANES && place_tile[v] >= write_lead
    && place_tile[v] <= (positions + write_lead) / RESULTS - LANES;
% endif
</%def>\
## Lines of y that a tile of channels is stored to: these are there when its sums are made.
<%def name="prefetch_tile()">\
% if dilation == 1 or lines_side_by_side:
NO_UNROLL for (int v = 0; v < v_count; ++v) {
    ${result_place()}
    if (!whole) continue;
% if dilation == 1:
    const long n = place_row[v], first = place_tile[v] * RESULTS - write_lead;
% endif
    __global STORED *to = y + y_offset + n * y_batch_stride + ((long)g * written + m) * y_channel_stride + first;
    NO_UNROLL for (int i = 0; i < there; ++i, to += y_channel_stride) {
% if dilation == 1:
        for (int e = 0; e < RESULTS * LANES; e += ${line}) PREFETCH(to + e, 1);
% else:
        for (int o = 0; o < OUTPUTS; ++o) PREFETCH(to + (long)o * DILATION, 1);
% endif
    }
}
% endif
</%def>\
## The results of a tile of channels, of all vectors.
<%def name="store_tile()">\
NO_UNROLL for (int v = 0; v < v_count; ++v) {
    __local const VECTOR *from = (__local const VECTOR *)sums + v / VECTORS * (POINTS * CHANNEL_TILE * VECTORS) + v % VECTORS;
    ${result_place()}
    NO_UNROLL for (int mending = 0; mending < 2; ++mending) {
        // What is not finite stays so, times 0.
        VECTOR check = 0;
        NO_UNROLL for (int i = 0; i < there; ++i) {
            const long channel = (long)g * written + m + i;
% for phase in range(phases):
<% own = results_of(phase, phases) %>\
% for p in range(form.points):
            const VECTOR ${own}m${p} = from[(${p} * CHANNEL_TILE + i * PHASES + ${phase}) * VECTORS];
% endfor
            ${winograd.sums(form.inverse, own + "m", own)}
            check = (${" + ".join("%s%d" % (own, i) for i in range(form.outputs))}) * (SUM)0 + check;
% endfor
% if dilation == 1 or lines_side_by_side:
            if (whole && !mending) {
                const int inside = 1;
% if dilation == 1:
                const long n = place_row[v];
                const int first = place_tile[v] * RESULTS - write_lead;
% endif
                ${store_whole()}
                continue;
            }
% endif
            ${store_parts()}
        }
        if (sum_tree(check) == 0) break;
    }
}
</%def>\
