## Sums and extremes of rows, which kernels of whole rows share.
<%def name="sums()">\
// The sum of v - centre, or of its square, over a row: vectors of lanes, added now and then so that no
// chain of additions is long.
static inline SUM sum_of(__global const STORED *row, const long length, const SUM centre, const int squared)
{
    SUM total = 0;
    long i = 0;
    while (i + LANES <= length) {
        VECTOR sum = 0;
        for (int s = 0; s < 64 && i + LANES <= length; ++s, i += LANES) {
            const VECTOR v = load_vector(row + i) - centre;
            sum += squared ? v * v : v;
        }
        total += sum_lanes(sum);
    }
    for (; i < length; ++i) {
        const SUM v = load(row + i) - centre;
        total += squared ? v * v : v;
    }
    return total;
}
</%def>\
<%def name="extremes(sign)">\
// The extreme of a row; NaN where there is one.
static inline SUM extreme_of(__global const STORED *row, const long length)
{
    SUM found = load(row);
    long i = 0;
    if (LANES <= length) {
        LANE_ARRAY most;
        most.vector = load_vector(row);
        for (i = LANES; i + LANES <= length; i += LANES) {
            const VECTOR v = load_vector(row + i);
            most.vector = (v ${sign} most.vector) | (v != v) ? v : most.vector;
        }
        NO_UNROLL for (int e = 0; e < LANES; ++e) {
            const SUM v = most.lane[e];
            found = v ${sign} found || v != v ? v : found;
        }
    }
    for (; i < length; ++i) {
        const SUM v = load(row + i);
        found = v ${sign} found || v != v ? v : found;
    }
    return found;
}
</%def>\
