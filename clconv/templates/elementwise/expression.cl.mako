## expression: y[r,q] = the last of `statements`, of x_k[r,q]; every array has strides of its own
## Rows r = (a, b, c) lie anywhere; along a row elements lie `step` apart, 0 of one that is repeated.
## One work-item owns every global size-th task, `block` positions of one row.
<%
    inputs = range(operand_count)
    named = ["x%d" % k for k in inputs]
%>\
static inline VECTOR evaluate(${", ".join("const VECTOR " + name for name in named)})
{
% for k, statement in enumerate(statements):
    const VECTOR v${k} = ${statement};
% endfor
    return v${len(statements) - 1};
}

static inline VECTOR load_row(__global const STORED *at, const long step)
{
    if (step == 1) return load_vector(at);
    if (step == 0) return (VECTOR)load(at);
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = load(at + e * step);
    return v.vector;
}

// As above of the first `some` elements; the others are the first one again.
static inline VECTOR load_some(__global const STORED *at, const long step, const long some)
{
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = load(at + (e < some ? e : 0) * step);
    return v.vector;
}

__kernel ${attributes}
void expression(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long row = task / blocks, first = task % blocks * block;
        const long stop = min(first + block, length);
        const long c = row % size_2, ab = row / size_2, b = ab % size_1, a = ab / size_1;
% for k in inputs:
        __global const STORED *row_${k} = x${k} + x${k}_offset
            + a * x${k}_stride_0 + b * x${k}_stride_1 + c * x${k}_stride_2;
% endfor
        __global STORED *out = y + y_offset + a * y_stride_0 + b * y_stride_1 + c * y_stride_2;
        long q = first;
        while (q < stop) {
            // The last vector begins early, so that it is whole.
            if (q > stop - LANES && stop - first >= LANES) q = stop - LANES;
            const long some = stop - q;
            if (some >= LANES) {
% for k in inputs:
                const VECTOR x_${k} = load_row(row_${k} + q * x${k}_step, x${k}_step);
% endfor
                store_vector(out + q, evaluate(${", ".join("x_%d" % k for k in inputs)}));
            } else {
% for k in inputs:
                const VECTOR x_${k} = load_some(row_${k} + q * x${k}_step, x${k}_step, some);
% endfor
                LANE_ARRAY v;
                v.vector = evaluate(${", ".join("x_%d" % k for k in inputs)});
                NO_UNROLL for (int e = 0; e < some; ++e) store(out + q + e, v.lane[e]);
            }
            q += LANES;
        }
    }
}
