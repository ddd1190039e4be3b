## What Winograd's transforms are written with: sums by steps, and vectors of tiles.
##
## A matrix's product as statements. `given` are the sources' names with their numbers behind them,
## `found` those of the results.
<%def name="sums(matrix, given, found, type='VECTOR')">\
% for step in steps(matrix, given, found, found + "_shared"):
const ${type} ${step.name} = ${step.expression(number)};
% endfor
</%def>\
<%!
    def number(factor):
        """A coefficient in the type of sums."""
        return "((SUM)%r)" % float(factor)
%>\
## Lanes from one vector, or from two.
<%def name="lanes_of(places)"><%
    parts = []
    for vector, lane in places:
        parts.append("%s.s%x" % (vector, lane))
    return "(VECTOR)(%s)" % ", ".join(parts)
%></%def>\
<%def name="lanes_of_both(a, b, first)"><%
    places = []
    for vector in (a, b):
        for lane in range(first, lanes, 2):
            places.append((vector, lane))
    return lanes_of(places)
%></%def>\
<%def name="alternately(a, b, high)"><%
    places = []
    for lane in range(lanes // 2):
        places += [(a, lane + high * lanes // 2), (b, lane + high * lanes // 2)]
    return lanes_of(places)
%></%def>\
## Samples x0, x1, … of LANES neighbouring tiles, of all samples in their order; `vector(j)` and
## `element(j)` read them.
<%def name="samples(vector, element)">\
% for j in range(form.step):
const VECTOR v${j} = ${vector(j)};
% endfor
% for name, a, b, first in every_second(form.step):
const VECTOR ${name} = ${lanes_of_both(a, b, first)};
% endfor
% for j in range(form.samples - form.step):
const VECTOR x${form.step + j} = (VECTOR)(${", ".join("x%d.s%x" % (j, e) for e in range(1, lanes))}, ${element(j)});
% endfor
</%def>\
## The way back: results o0, o1, … in the order of positions, of those of LANES neighbouring tiles.
<%def name="in_order(results)">\
% for name, a, b, high in in_turn(results):
const VECTOR ${name} = ${alternately(a, b, high)};
% endfor
</%def>\
## The lanes' sum, a half of them at a time.
<%def name="sum_tree()">\
static inline SUM sum_tree(const VECTOR v)
{
<%
    kind = "double" if dtype == "float64" else "float"
    last = "v"
%>\
% for h in (8, 4, 2):
% if h < lanes:
    const ${kind}${h} v${h} = ${last}.lo + ${last}.hi;
<% last = "v%d" % h %>\
% endif
% endfor
    return ${last}.x + ${last}.y;
}
</%def>\
## Copies a piece of a row to local memory. It needs the type SUMS, a vector anywhere there.
<%def name="copy()">\
// to[t] = row[first + t * step] for t < count, 0 where that lies outside 0 <= … < length; what follows up
// to a whole vector is overwritten.
static inline void copy(__local SUM *to, __global const STORED *row, const long first, const int step, const int count, const int length)
{
    const long inside_begin = first < 0 ? (step - 1 - first) / step : 0;
    const long inside_end = first < length ? (length - 1 - first) / step + 1 : 0;
    const int begin = inside_begin < count ? (int)inside_begin : count;
    const int end = inside_end < begin ? begin : inside_end < count ? (int)inside_end : count;
    __global const STORED *from = row + first;
    if (end - begin < count)
        for (int t = 0; t < count; t += LANES) *(__local VECTOR *)(to + t) = 0;
    int t = begin;
    if (step == 1 && end - begin >= LANES) {
        for (; t + LANES <= end; t += LANES) *(__local SUMS *)(to + t) = load_vector(from + t);
        *(__local SUMS *)(to + end - LANES) = load_vector(from + end - LANES);
        return;
    }
    NO_UNROLL for (; t < end; ++t) to[t] = load(from + (long)t * step);
}
</%def>\
