## Types, loads and stores that every kernel shares; rendered in front of each kernel's template.
##
## STORED is an element in memory, SUM what sums are kept in, VECTOR LANES sums side by side.
<%
    double = dtype == "float64"
    half = dtype == "float16"
    sum_type = "double" if double else "float"
    uint = "uint" if lanes == 1 else "uint%d" % lanes
    f = "" if double else "f"
    span = range(lanes)
    def lane(v, e):
        return v if lanes == 1 else "%s.s%x" % (v, e)
    def vector(values):
        return values[0] if lanes == 1 else "(VECTOR)(%s)" % ", ".join(values)
%>\
#pragma OPENCL FP_CONTRACT ON
% if double:
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
% endif
#define UNROLL _Pragma("unroll")
#define LANES ${lanes}

typedef ${sum_type} SUM;
typedef ${sum_type}${"" if lanes == 1 else lanes} VECTOR;
% if half:
typedef ushort STORED;

% if half_builtins:
static inline SUM load(__global const STORED *at) { return vload_half(0, (__global const half *)at); }
static inline void store(__global STORED *at, SUM v) { vstore_half_rte(v, 0, (__global half *)at); }

static inline VECTOR load_vector(__global const STORED *at)
{
    return ${vector(["load(at + %d)" % e for e in span])};
}
% else:
// float16 by integer arithmetic, which vectorises where vload_half is a call. The subtraction makes
// a half's denormals into normal floats, so that flushing denormals to zero does no harm.
static inline VECTOR widen(${uint} h)
{
    const ${uint} magnitude = (h & 0x7fffu) << 13;
    const ${uint} exponent = magnitude & 0x0f800000u;
    const ${uint} normal = magnitude + 0x38000000u;
    const ${uint} tiny = as_${uint}(as_${sum_type}${"" if lanes == 1 else lanes}(magnitude + 0x38800000u) - as_float(0x38800000u));
    const ${uint} special = magnitude + 0x70000000u;
    const ${uint} bits = exponent == 0x0f800000u ? special : (exponent == 0u ? tiny : normal);
    return as_${sum_type}${"" if lanes == 1 else lanes}(bits | ((h & 0x8000u) << 16));
}

static inline SUM load(__global const STORED *at)
{
    const uint h = *at;
    const uint magnitude = (h & 0x7fffu) << 13;
    const uint exponent = magnitude & 0x0f800000u;
    const uint tiny = as_uint(as_float(magnitude + 0x38800000u) - as_float(0x38800000u));
    const uint bits = exponent == 0x0f800000u ? magnitude + 0x70000000u
                    : exponent == 0u ? tiny : magnitude + 0x38000000u;
    return as_float(bits | ((h & 0x8000u) << 16));
}

// Rounds to nearest, ties to even.
static inline void store(__global STORED *at, SUM v)
{
    const uint sign = as_uint(v) & 0x80000000u;
    const uint u = as_uint(v) ^ sign;
    const uint large = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint tiny = as_uint(as_float(u) + 0.5f) - as_uint(0.5f);
    const uint normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    *at = (ushort)((u >= 0x47800000u ? large : u < 0x38800000u ? tiny : normal) | (sign >> 16));
}

static inline VECTOR load_vector(__global const STORED *at)
{
    return widen(${"(uint)at[0]" if lanes == 1 else "(%s)(%s)" % (uint, ", ".join("at[%d]" % e for e in span))});
}
% endif

static inline void store_vector(__global STORED *at, VECTOR v)
{
% for e in span:
    store(at + ${e}, ${lane("v", e)});
% endfor
}
% else:
typedef ${sum_type} STORED;
// Vector accesses need no more than an element's alignment.
typedef VECTOR VECTOR_UNALIGNED __attribute__((aligned(${8 if double else 4})));

static inline SUM load(__global const STORED *at) { return *at; }
static inline void store(__global STORED *at, SUM v) { *at = v; }
static inline VECTOR load_vector(__global const STORED *at)
{
    return *(__global const VECTOR_UNALIGNED *)at;
}
static inline void store_vector(__global STORED *at, VECTOR v)
{
    *(__global VECTOR_UNALIGNED *)at = v;
}
% endif

// LANES elements, `step` apart.
static inline VECTOR load_strided(__global const STORED *at, const int step)
{
    return ${vector(["load(at + %d * step)" % e for e in span])};
}

// Lane e is row[(first + e) * step + shift], or 0 where that lies outside 0 <= … < length or where
// first + e lies outside 0 … last. Nothing outside the row is read.
static inline VECTOR load_checked(__global const STORED *row, const int first, const int last,
                           const int step, const int shift, const int length)
{
% if lanes > 1:
    const long p_first = (long)first * step + shift;
    if (first >= 0 && first <= last - (LANES - 1) && p_first >= 0 && p_first + (long)(LANES - 1) * step < length)
        return step == 1 ? load_vector(row + p_first) : load_strided(row + p_first, step);
% endif
    VECTOR v;
% for e in span:
    {
        const int i = first + ${e};
        const long p = (long)i * step + shift;
        const int ok = i >= 0 && i <= last && p >= 0 && p < length;
        const SUM value = load(row + (ok ? p : 0));
        ${lane("v", e)} = ok ? value : (SUM)0;
    }
% endfor
    return v;
}

// LANES positions of a row, lane e being row[(first + e) * step + shift]; `inside` says that all
// lie in 0 <= … < limit, else those that don't are not touched (read as 0).
static inline VECTOR load_positions(__global const STORED *row, const int first, const int step,
                             const int shift, const int limit, const int inside)
{
    if (inside) {
        __global const STORED *at = row + (first * step + shift);
        return step == 1 ? load_vector(at) : load_strided(at, step);
    }
    VECTOR v;
% for e in span:
    {
        const long p = (long)(first + ${e}) * step + shift;
        const int ok = p >= 0 && p < limit;
        const SUM value = load(row + (ok ? p : 0));
        ${lane("v", e)} = ok ? value : (SUM)0;
    }
% endfor
    return v;
}

static inline void store_positions(__global STORED *row, VECTOR v, const int first, const int step,
                            const int shift, const int limit, const int inside)
{
    if (inside && step == 1) {
        store_vector(row + (first + shift), v);
        return;
    }
% for e in span:
    {
        const long p = (long)(first + ${e}) * step + shift;
        if (inside || (p >= 0 && p < limit)) store(row + p, ${lane("v", e)});
    }
% endfor
}

// The lanes of v in order.
static inline SUM sum_lanes(VECTOR v)
{
    return ${" + ".join(lane("v", e) for e in span)};
}
