## product: y[m,i,j] = the sum over k of a[m,i,k] b[m,k,j]
## Matrices m = (m_0, m_1) of a and b lie anywhere, some again and again; columns of b follow each other.
## One work-item owns every global size-th task, `rows_at_once` rows i and `block` columns j of a matrix.
<%
    rows = range(rows_at_once)
%>\
<%def name="sums(b_loaded)">\
                ${" ".join(["VECTOR v%d = 0;" % r for r in rows])}
                for (long k = 0; k < terms; ++k) {
                    const VECTOR w = ${b_loaded};
% for r in rows:
                    v${r} = load(row_${r} + k * a_k_stride) * w + v${r};
% endfor
                }
</%def>\
static inline VECTOR load_some(__global const STORED *at, const long some)
{
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = load(at + (e < some ? e : 0));
    return v.vector;
}

static inline void store_some(__global STORED *at, const VECTOR v, const long some)
{
    LANE_ARRAY lanes;
    lanes.vector = v;
    NO_UNROLL for (int e = 0; e < some; ++e) store(at + e, lanes.lane[e]);
}

__kernel ${attributes}
void product(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long first = task % blocks * block, matrix_and_rows = task / blocks;
        const long i = matrix_and_rows % row_blocks * ${rows_at_once}, m = matrix_and_rows / row_blocks;
        const long m_0 = m / size_1, m_1 = m % size_1;
        const long stop = min(first + block, columns), here = min((long)${rows_at_once}, rows - i);
        __global const STORED *from = a + a_offset + m_0 * a_stride_0 + m_1 * a_stride_1;
        __global const STORED *by = b + b_offset + m_0 * b_stride_0 + m_1 * b_stride_1;
        __global STORED *to = y + y_offset + (m * rows + i) * columns;
        // Rows beyond the last are the last again, and are not stored.
% for r in rows:
        __global const STORED *row_${r} = from + min(i + ${r}, rows - 1) * a_i_stride;
% endfor
        long q = first;
        while (q < stop) {
            // The last vector begins early, so that it is whole.
            if (q > stop - LANES && stop - first >= LANES) q = stop - LANES;
            const long some = stop - q;
            if (some >= LANES) {
${sums("load_vector(by + k * b_k_stride + q)")}\
% for r in rows:
                ${"" if r == 0 else "if (here > %d) " % r}store_vector(to + ${r} * columns + q, v${r});
% endfor
            } else {
${sums("load_some(by + k * b_k_stride + q, some)")}\
% for r in rows:
                ${"" if r == 0 else "if (here > %d) " % r}store_some(to + ${r} * columns + q, v${r}, some);
% endfor
            }
            q += LANES;
        }
    }
}
