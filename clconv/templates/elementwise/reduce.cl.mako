## reduce: y[r] = the sum, mean, maximum, … of x[r,i] over i; or y[r,q] of x[r,i,q]
## One work-item owns every global size-th row r; of a sum over a middle axis every global size-th task,
## `block` positions q of one r.
<%
    extreme = operation in ("maximum", "minimum")
    sign = "<" if operation == "minimum" else ">"
    squared = operation in ("squares", "norm")
    ends = {"mean": "v / length", "norm": "sqrt(v)"}
    end = ends.get(operation, "v")
%>\
<%namespace name="rows" file="sums_of_rows.cl.mako"/>\
% if not middle and extreme:
${rows.extremes(sign)}
% elif not middle:
${rows.sums()}
% endif
% if middle:
static inline VECTOR extended(const VECTOR v, const VECTOR w)
{
% if extreme:
    return (w ${sign} v) | (w != w) ? w : v;
% else:
    return v + ${"w * w" if squared else "w"};
% endif
}

% endif
__kernel ${attributes}
void reduce(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
% if not middle:
        __global const STORED *from = x + x_offset + task * length;
% if extreme:
        const SUM v = extreme_of(from, length);
% else:
        const SUM v = sum_of(from, length, 0, ${int(squared)});
% endif
        store(y + y_offset + task, ${end});
% else:
        const long row = task / blocks, first = task % blocks * block;
        const long stop = min(first + block, inner);
        __global const STORED *from = x + x_offset + row * length * inner;
        __global STORED *to = y + y_offset + row * inner;
        for (long q = first; q < stop; q += LANES) {
            const int here = (int)min((long)LANES, stop - q);
            LANE_ARRAY lanes;
            VECTOR v = ${{"maximum": "-INFINITY", "minimum": "INFINITY"}.get(operation, "0")};
            for (long i = 0; i < length; ++i) {
                __global const STORED *at = from + i * inner + q;
                if (here == LANES) {
                    lanes.vector = load_vector(at);
                } else {
                    NO_UNROLL for (int e = 0; e < LANES; ++e) lanes.lane[e] = load(at + (e < here ? e : 0));
                }
                v = extended(v, lanes.vector);
            }
            lanes.vector = ${end};
            NO_UNROLL for (int e = 0; e < here; ++e) store(to + q + e, lanes.lane[e]);
        }
% endif
    }
}
