## row_statistic: y[a] = the minimum, maximum or median of x[a,:], NaN where there is one
## The median is found bit by bit from the highest of an unsigned number with the order of the values.
## One work-item owns every global size-th row a.
<%
    wide = dtype == "float64"
    unsigned, floating, bits = ("ulong", "double", 64) if wide else ("uint", "float", 32)
%>\
static inline ${unsigned} key(const SUM v)
{
    const ${unsigned} bits = as_${unsigned}(v), sign = (${unsigned})1 << ${bits - 1};
    return bits & sign ? ~bits : bits | sign;
}

static inline SUM value(const ${unsigned} k)
{
    const ${unsigned} sign = (${unsigned})1 << ${bits - 1};
    return as_${floating}(k & sign ? k ^ sign : ~k);
}

// The value that has `rank` others before it in order.
static inline SUM ranked(__global const STORED *row, const long length, long rank)
{
    ${unsigned} found = 0;
    for (int bit = ${bits - 1}; bit >= 0; --bit) {
        long below = 0;
        for (long i = 0; i < length; ++i) below += key(load(row + i)) >> bit == found >> bit;
        if (rank >= below) {
            rank -= below;
            found |= (${unsigned})1 << bit;
        }
    }
    return value(found);
}

__kernel ${attributes}
void row_statistic(${signature})
{
    for (long a = get_global_id(0); a < count; a += get_global_size(0)) {
        __global const STORED *row = x + x_offset + a * length;
        SUM least = load(row), most = least;
        int has_nan = 0;
        for (long i = 0; i < length; ++i) {
            const SUM v = load(row + i);
            has_nan |= v != v;
            least = v < least ? v : least;
            most = v > most ? v : most;
        }
        SUM result = ${"most" if statistic == "maximum" else "least"};
% if statistic == "median":
        if (!has_nan) {
            result = ranked(row, length, length / 2);
            if (length % 2 == 0) result = (ranked(row, length, length / 2 - 1) + result) / 2;
        }
% endif
        store(y + y_offset + a, has_nan ? NAN : result);
    }
}
