## Transforms of real samples, LANES of them side by side, and what lies around them.
##
## `transform` says of which size, and in which passes: variants/spectral/transforms.py. Complex numbers
## are pairs of vectors, real parts first. POINTS complex numbers are SIZE real samples in turn.
##
## A transformed tile has POINTS pairs of vectors, `pitch` elements from one to the next:
##   point 0               the sums of all samples, and of samples with alternating signs
##   point k = 1 …         real and imaginary part of sum_i x[i] * exp(-2 pi i k / SIZE), twice
<%def name="constants(buffer='__local')"><%
    suffix = "" if dtype == "float64" else "f"
    def number(value):
        return repr(float(value)) + suffix
    rows = [transform.factors[i:i + 8] for i in range(0, len(transform.factors), 8)]
%>\
#define SIZE ${transform.size}
#define BUFFER ${buffer}  // where the passes have their arrays
#define POINTS ${transform.points}
#define SEPARATING ${transform.separating}  // where the factors that separate begin
#define HALF ${number(0.5)}
#define HALF_ROOT ${number(0.5 ** 0.5)}
#define SINE_THIRD ${number(0.75 ** 0.5)}
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));
__constant SUM FACTORS[${len(transform.factors)}] = {
% for row in rows:
    ${", ".join(number(value) for value in row)},
% endfor
};
</%def>\
## The transform of what is in `first`, between it and `second`; `result(first, second)` has it then.
<%def name="passes(first, second)"><%
    arrays = (first, second)
%>\
% for i, one in enumerate(transform.passes):
${one_pass(one, arrays[i % 2], arrays[(i + 1) % 2])}
% endfor
</%def>\
<%def name="result(first, second)"><%
    return (first, second)[len(transform.passes) % 2]
%></%def>\
<%def name="one_pass(one, source, target)"><%
    with_factors = one.after > 1
    around = one.before > 1
%>\
${"NO_UNROLL for (int p = 0; p < %d; ++p) " % one.after if with_factors else ""}{
% if with_factors:
    __constant SUM *factor = FACTORS + ${one.first} + p * ${2 * (one.radix - 1)};
% for j in range(1, one.radix):
    const SUM f${j}r = factor[${2 * j - 2}], f${j}i = factor[${2 * j - 1}];
% endfor
% endif
    ${"NO_UNROLL for (int q = 0; q < %d; ++q) " % one.before if around else ""}{
        BUFFER const VECTOR *from = ${source} + 2 * (${" + ".join((["q"] if around else []) + (["%d * p" % one.before] if with_factors else [])) or "0"});
        BUFFER VECTOR *to = ${target} + 2 * (${" + ".join((["q"] if around else []) + (["%d * p" % (one.before * one.radix)] if with_factors else [])) or "0"});
% for j in range(one.radix):
        const VECTOR x${j}r = from[${2 * j * one.before * one.after}], x${j}i = from[${2 * j * one.before * one.after + 1}];
% endfor
% for name, value in butterfly(one.radix):
        const VECTOR ${name} = ${value};
% endfor
        to[0] = y0r;
        to[1] = y0i;
% for j in range(1, one.radix):
% if with_factors:
        to[${2 * j * one.before}] = y${j}r * f${j}r - y${j}i * f${j}i;
        to[${2 * j * one.before + 1}] = y${j}r * f${j}i + y${j}i * f${j}r;
% else:
        to[${2 * j * one.before}] = y${j}r;
        to[${2 * j * one.before + 1}] = y${j}i;
% endif
% endfor
    }
}
</%def>\
## The complex transform of pairs becomes the transformed tile at `to`, imaginary parts `part` elements
## behind the real ones; `sign` "-" conjugates it.
<%def name="separate(source, to, pitch, sign='', part='LANES')"><%
    other = "" if sign else "-"
%>\
{
    BUFFER const VECTOR *z = ${source};
    const VECTOR even = z[0] + z[0], odd = z[1] + z[1];
    *(__global SUMS *)(${to}) = even + odd;
    *(__global SUMS *)(${to} + ${part}) = even - odd;
    NO_UNROLL for (int k = 1; k <= POINTS / 2; ++k) {
        const SUM c = FACTORS[SEPARATING + 2 * k - 2], s = FACTORS[SEPARATING + 2 * k - 1];
        const VECTOR ar = z[2 * k], ai = z[2 * k + 1], br = z[2 * (POINTS - k)], bi = z[2 * (POINTS - k) + 1];
        const VECTOR er = ar + br, ei = ai - bi, dr = ai + bi, di = br - ar;
        const VECTOR tr = c * dr + s * di, ti = c * di - s * dr;
        __global SUM *near = ${to} + k * ${pitch}, *far = ${to} + (POINTS - k) * ${pitch};
        *(__global SUMS *)near = er + tr;
        *(__global SUMS *)(near + ${part}) = ${sign}(ei + ti);
        *(__global SUMS *)far = er - tr;
        *(__global SUMS *)(far + ${part}) = ${other}(ei - ti);
    }
}
</%def>\
## From a transformed tile at `from` back to pairs whose parts are exchanged, so that their transform,
## parts exchanged, is the inverse one: sample i is then at i ^ 1, times 4 SIZE where nothing was scaled.
<%def name="join(source, target, pitch, part='LANES')">\
{
    BUFFER VECTOR *z = ${target};
    const VECTOR all = *(__global const SUMS *)(${source}), signs = *(__global const SUMS *)(${source} + ${part});
    z[0] = all - signs;
    z[1] = all + signs;
    NO_UNROLL for (int k = 1; k <= POINTS / 2; ++k) {
        const SUM c = FACTORS[SEPARATING + 2 * k - 2], s = FACTORS[SEPARATING + 2 * k - 1];
        __global const SUM *near = ${source} + k * ${pitch}, *far = ${source} + (POINTS - k) * ${pitch};
        const VECTOR ar = *(__global const SUMS *)near, ai = *(__global const SUMS *)(near + ${part});
        const VECTOR br = *(__global const SUMS *)far, bi = *(__global const SUMS *)(far + ${part});
        const VECTOR er = ar + br, ei = ai - bi, dr = ar - br, di = ai + bi;
        const VECTOR tr = c * dr - s * di, ti = c * di + s * dr;
        z[2 * k] = ei + tr;
        z[2 * k + 1] = er - ti;
        z[2 * (POINTS - k)] = tr - ei;
        z[2 * (POINTS - k) + 1] = er + ti;
    }
}
</%def>\
## Vectors r0, r1, … are the rows of a square; afterwards they are its columns.
<%def name="turn()"><%
    half = 1
    stages = []
    while half < lanes:
        stages.append(half)
        half *= 2
    def lane(v, e):
        return "%s.s%x" % (v, e)
%>\
% for stage, h in enumerate(stages):
% for i in range(lanes):
% if not i & h:
<%
    low = [lane("r%d" % (i if not e & h else i + h), e if not e & h else e - h) for e in range(lanes)]
    high = [lane("r%d" % (i if not e & h else i + h), e + h if not e & h else e) for e in range(lanes)]
%>\
{
    const VECTOR low = (VECTOR)(${", ".join(low)});
    r${i + h} = (VECTOR)(${", ".join(high)});
    r${i} = low;
}
% endif
% endfor
% endfor
</%def>\
## The sum of values as a tree, whose parts do not wait for each other.
<%def name="tree(values)"><%
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return "(%s + %s)" % (tree(values[:half]), tree(values[half:]))
%></%def>\
## The same of the lanes of a vector.
<%def name="sum_tree()"><%
    halves = [h for h in (8, 4, 2) if h < lanes]
    kind = "double" if dtype == "float64" else "float"
%>\
static inline SUM sum_tree(const VECTOR v)
{
% for i, h in enumerate(halves):
    const ${kind}${h} v${h} = ${"v" if i == 0 else "v%d" % (2 * h)}.lo + ${"v" if i == 0 else "v%d" % (2 * h)}.hi;
% endfor
    return ${"v" if lanes == 1 else "v.x + v.y" if lanes == 2 else "v2.x + v2.y"};
}
</%def>\
