<%namespace name="channels_" file="channels.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="sums" file="sums.cl.mako"/>\
## How a tile's sums become a piece of y.
##
## What is stored of a sum where nothing is read beside it but a bias.
<%def name="stored(i, j, bias_name)"><%
    value = "s%d_%d" % (i, j)
    if "bias" in bound:
        value += " + (VECTOR)" + bias_name
    if activation:
        value = "activate(%s, slope)" % value
    return value
%></%def>\
## Most tiles are whole and in one row: they are stored without a test, if nothing but a bias and a
## plain activation is done to them. Declares start and plain, and y_tile, where the tile's piece of y begins.
<%def name="prefetch()">\
// Most tiles are whole and in one row: stores without a test.
const int start = first + vector_at[0] + out_shift;
const int plain = whole && start >= 0 && start + VECTORS * LANES <= out_limit;
% if lies["y"] == "channels":
__global STORED *y_tile = y + y_offset + (long)(n_first + vector_row[0]) * y_batch_stride
    + (long)start * y_position_stride + ((long)g * CHANNELS + m);
% else:
__global STORED *y_tile = y + y_offset + (long)(n_first + vector_row[0]) * y_batch_stride
    + ((long)g * CHANNELS + m) * y_channel_stride + start;
% endif
% if lies["y"] == "channels":
// Positions that are a multiple of half a page apart share few lines of the first-level cache.
if (plain${" && last_block" if spill_elements else ""} && y_position_stride % ${32 * line} == 0) {
    NO_UNROLL for (int e = 0; e < VECTORS * LANES; ++e) PREFETCH(y_tile + e * y_position_stride, 1);
}
% endif
% if prefetch_distance is not None:
// Lines that are there when they are written keep nobody waiting.
if (plain${" && last_block" if spill_elements else ""}) {
    __global STORED *next_tile = y_tile${" + (start + %d * VECTORS * LANES <= out_limit ? %d * VECTORS * LANES : 0)" % (prefetch_distance + 1, prefetch_distance) if prefetch_distance else ""};
% for i in range(channel_tile):
    for (int t = 0; t < VECTORS * LANES; t += ${line}) PREFETCH(next_tile + ${i} * y_channel_stride + t, 1);
% endfor
}
% endif
</%def>\
<%def name="store_plain()">\
% if lies["y"] == "channels":
${store_plain_channels()}
% else:
${store_plain_rows()}
% endif
</%def>\
## Four channels at a time, which lie side by side; those that the tile before stores are left out.
<%def name="store_plain_channels()">\
% for i in range(0, channel_tile, 4):
<%
    last = min(i + 4, channel_tile) - 1
    part = last - i < 3
%>\
{
% if "bias" in bound:
% for e in range(i, last + 1):
    const SUM b${e} = load(bias + bias_offset + ((long)g * CHANNELS + m + ${e}));
% endfor
% endif
% for j in range(vectors):
    ${store_channels(i, last, j)}
% endfor
}
% endfor
</%def>\
<%def name="store_channels(first, last, j)">\
% if last - first == 3:
${"if (m + %d >= wanted) " % first if channels % channel_tile else ""}store_four(y_tile + (${j * lanes} * y_position_stride + ${first}), y_position_stride,
    ${", ".join(stored(e, j, "b%d" % e) for e in range(first, last + 1))});
% endif
% if last - first < 3 or channels % channel_tile:
${"else {" if last - first == 3 else "{"}
% for e in range(first, last + 1):
    ${"if (m + %d >= wanted) " % e if channels % channel_tile else ""}store_apart(y_tile + (${j * lanes} * y_position_stride + ${e}), y_position_stride, ${stored(e, j, "b%d" % e)});
% endfor
}
% endif
</%def>\
<%def name="store_plain_rows()">\
% for i in range(channel_tile):
${"if (m + %d >= wanted) " % i if channels % channel_tile else ""}{
    ${store_row(i)}
}
% endfor
</%def>\
<%def name="store_row(i)">\
% if "bias" in bound:
const SUM b = load(bias + bias_offset + ((long)g * CHANNELS + m + ${i}));
% endif
% for j in range(vectors):
store_vector(y_tile + ${i} * y_channel_stride + ${j} * LANES, ${stored(i, j, "b")});
% endfor
</%def>\
## All others: vector by vector, each with a test. `mend` is done to a sum before.
<%def name="store_checked(mend=None)">\
% if lies["y"] == "channels":
${store_checked_channels(mend)}
% else:
${store_checked_rows(mend)}
% endif
</%def>\
## Four channels at a time where there are so many, which lie side by side.
<%def name="store_checked_channels(mend)">\
${sums.in_array()}
NO_UNROLL for (int i = wanted - m, step; i < CHANNEL_TILE; i += step) {
    step = i + 4 <= CHANNEL_TILE ? 4 : 1;
    const long channel = (long)g * CHANNELS + m + i;
    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
        const long n = n_first + vector_row[j];
        const int at = first + vector_at[j];
        const int inside = at + out_shift >= 0 && at + LANES + out_shift <= out_limit;
% if mend:
        NO_UNROLL for (int e = 0; e < step; ++e) {
            ${mend("sums[(i + e) * VECTORS + j]", "at", "i + e")}
        }
% endif
        if (inside && step == 4) {
            VECTOR v[4] = {sums[i * VECTORS + j], sums[(i + 1) * VECTORS + j], sums[(i + 2) * VECTORS + j], sums[(i + 3) * VECTORS + j]};
            ${channels_.finish_four("channel", "at + out_shift")}
        } else
            NO_UNROLL for (int e = 0; e < step; ++e) {
                ${epilogue.finish("sums[(i + e) * VECTORS + j]", "(channel + e)", "at", "1", "out_shift", "out_limit")}
            }
    }
}
</%def>\
<%def name="store_checked_rows(mend)">\
${sums.in_array()}
NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
        const long n = n_first + vector_row[j];
        const long channel = (long)g * CHANNELS + m + i;
        const int at = first + vector_at[j];
        const int inside = at + out_shift >= 0 && at + LANES + out_shift <= out_limit;
% if mend:
        ${mend("sums[i * VECTORS + j]", "at")}
% endif
        ${epilogue.finish("sums[i * VECTORS + j]", "channel", "at", "1", "out_shift", "out_limit")}
    }
</%def>\
## A phase's sums, each STRIDE positions from the next.
<%def name="interleave()">\
${sums.in_array()}
NO_UNROLL for (int i = 0; i < CHANNEL_TILE * VECTORS; ++i) {
    __local SUM *to = interleaved + i * (LANES * STRIDE) + r;
    const VECTOR v = sums[i];
% for e in range(lanes):
    to[${e} * STRIDE] = ${"v.s%x" % e if lanes > 1 else "v"};
% endfor
}
</%def>\
## The sums of all phases, in the order of positions.
<%def name="store_interleaved(mend)">\
% if lies["y"] == "channels":
${store_interleaved_channels(mend)}
% else:
${store_interleaved_rows(mend)}
% endif
</%def>\
<%def name="store_interleaved_channels(mend)">\
NO_UNROLL for (int i = wanted - m, step; i < CHANNEL_TILE; i += step) {
    step = i + 4 <= CHANNEL_TILE ? 4 : 1;
    const long channel = (long)g * CHANNELS + m + i;
    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
        const long n = n_first + vector_row[j];
        const int begin = (first + vector_at[j]) * STRIDE - pad;
        NO_UNROLL for (int t = 0; t < STRIDE; ++t) {
            const int at = begin + t * LANES;
            if (at >= length) break;
            const int inside = at >= 0 && at + LANES <= length;
            VECTOR v[4];
            NO_UNROLL for (int e = 0; e < step; ++e) {
                v[e] = *(__local const VECTOR *)(interleaved + (((i + e) * VECTORS + j) * STRIDE + t) * LANES);
                ${mend("v[e]", "at + pad", "i + e")}
            }
            if (inside && step == 4) {
                ${channels_.finish_four("channel", "at")}
            } else
                NO_UNROLL for (int e = 0; e < step; ++e) {
                    const VECTOR sum = v[e];
                    ${epilogue.finish("sum", "(channel + e)", "at", "1", "0", "length")}
                }
        }
    }
}
</%def>\
<%def name="store_interleaved_rows(mend)">\
NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
        const long n = n_first + vector_row[j];
        const long channel = (long)g * CHANNELS + m + i;
        const int begin = (first + vector_at[j]) * STRIDE - pad;
        NO_UNROLL for (int t = 0; t < STRIDE; ++t) {
            const int at = begin + t * LANES;
            if (at >= length) break;
            const int inside = at >= 0 && at + LANES <= length;
            VECTOR sum = *(__local const VECTOR *)(interleaved + ((i * VECTORS + j) * STRIDE + t) * LANES);
            ${mend("sum", "at + pad")}
            ${epilogue.finish("sum", "channel", "at", "1", "0", "length")}
        }
    }
</%def>\
