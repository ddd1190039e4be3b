<%namespace name="channels_" file="channels.cl.mako"/>\
## What kernels that stage strips of rows in local memory share.
<%def name="functions(step)">\
// A vector of sums anywhere in local memory.
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

// Rows from the one that is copied to the one that is prefetched: pieces of rows are too short for a
// processor to foresee.
#define PREFETCH_ROWS 4

// to[t] = row[first + t * ${step}] for t < count, 0 where that lies outside 0 <= … < length.
// Behind it, unless it is 0, the same piece of row + next is copied soon.
static inline void stage(__local SUM *to, __global const STORED *row, const long first, const int count, const int length, const long next)
{
% if step == 1:
    const long inside_begin = -first, inside_end = length - first;
% else:
    const long inside_begin = first < 0 ? (${step - 1} - first) / ${step} : 0;
    const long inside_end = first < length ? (length - 1 - first) / ${step} + 1 : 0;
% endif
    const int begin = inside_begin < 0 ? 0 : inside_begin < count ? (int)inside_begin : count;
    const int end = inside_end < begin ? begin : inside_end < count ? (int)inside_end : count;
    __global const STORED *from = row + first;
    if (next)
        for (int t = begin; t < end; t += ${max(1, line // step)}) PREFETCH(from + next + (long)t * ${step}, 0);
    int t = 0;
    for (; t < begin; ++t) to[t] = 0;
% if step == 1:
    for (; t + LANES <= end; t += LANES) *(__local SUMS *)(to + t) = load_vector(from + t);
% elif step == 2 and lanes > 1:
    // As long as the odd element behind the last even one is there too.
    for (; t + LANES < end; t += LANES) {
        const VECTOR low = load_vector(from + 2 * t), high = load_vector(from + 2 * t + LANES);
        *(__local SUMS *)(to + t) = (VECTOR)(low.even, high.even);
    }
% endif
    for (; t < end; ++t) to[t] = load(from + (long)t * ${step});
    for (; t < count; ++t) to[t] = 0;
}
</%def>\

## Where positions are not contiguous.
<%def name="functions_apart(step)">\
% if "channels" in (lies["x"], lies["y"]):
${channels_.functions()}
% endif
% if lies["x"] == "channels":
${channels_.stage_functions(step)}
% elif lies["x"] == "strided":
${stage_apart(step)}
% endif
% if lies["y"] == "channels":
${channels_.four_functions()}
% endif
</%def>\
<%def name="stage_apart(step)">\
// to[t] = row[(first + t * ${step}) * apart] for t < count, 0 where first + t * ${step} lies outside 0 <= … < length.
static inline void stage_apart(__local SUM *to, __global const STORED *row, const long apart, const long first, const int count, const int length)
{
    for (int t = 0; t < count; ++t) {
        const long p = first + (long)t * ${step};
        to[t] = p >= 0 && p < length ? load(row + p * apart) : (SUM)0;
    }
}
</%def>\

## Where the taps of a stride have as many rows of the strip, these are copied at once.
<%def name="stage_rows(step)">\
// All ${step} rows at once, whose elements lie alternately: to[b * pitch + t] = row[first + ${step} * t + b],
// b < ${step}, t < count, or 0, as stage() does it for one.
static inline void stage_rows(__local SUM *to, const int pitch, __global const STORED *row, const long first, const int count, const int length, const long next)
{
    int t = 0;
    if (first >= 0) {
        __global const STORED *from = row + first;
        if (next)
            for (int e = 0; e < ${step} * count; e += ${line}) PREFETCH(from + next + e, 0);
        for (; t < count && first + ${step} * (t + LANES) <= length; t += LANES) {
% for i in range(step):
            const VECTOR v${i} = load_vector(from + (${step} * t + ${i} * LANES));
% endfor
% for b in range(step):
% for text in row_parts[b]:
            ${"VECTOR " if loop.first else ""}r${b} = ${text};
% endfor
            *(__local SUMS *)(to + ${b} * pitch + t) = r${b};
% endfor
        }
    }
    for (int b = 0; b < ${step}; ++b) stage(to + b * pitch + t, row, first + ${step} * t + b, count - t, length, 0);
}
</%def>\
