<%namespace name="bfloat16" file="bfloat16.cl.mako"/>\
<%namespace name="float16" file="float16.cl.mako"/>\
## Types, loads and stores that every kernel shares; rendered in front of each kernel's template.
##
## STORED is an element in memory, SUM what sums are kept in, VECTOR LANES sums side by side.
<%
    double = dtype == "float64"
    half = dtype == "float16"
    sum_type = "double" if double else "float"
    wide = "" if lanes == 1 else lanes
    uint = "uint%s" % wide
    span = range(lanes)
    def lane(v, e):
        return v if lanes == 1 else "%s.s%x" % (v, e)
    def vector(values):
        return values[0] if lanes == 1 else "(VECTOR)(%s)" % ", ".join(values)
%>\
#pragma OPENCL FP_CONTRACT ON
% if instruction_sets:
#pragma clang attribute push(__attribute__((target("${instruction_sets}"))), apply_to = function)
% endif
% if double:
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
% endif
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define LANES ${lanes}

// Asks the caches for an element's line, to read or to write it. Some compilers for CPUs make nothing
// of prefetch.
#if defined(__clang__) && !defined(__SPIR__)
#define PREFETCH(at, writing) __builtin_prefetch((const void *)(size_t)(at), writing)
#else
#define PREFETCH(at, writing) prefetch(at, 1)
#endif

typedef ${sum_type} SUM;
typedef ${sum_type}${"" if lanes == 1 else lanes} VECTOR;
// For the edges of rows, where loops over lanes are short code: unrolled they take seconds to build.
typedef union {
    VECTOR vector;
    SUM lane[LANES];
} LANE_ARRAY;
% if is_short:
typedef ushort STORED;

% endif
% if dtype == "bfloat16":
${bfloat16.conversions(1)}
% if lanes > 1:
${bfloat16.conversions(lanes)}
% endif
static inline SUM load(__global const STORED *at) { return load_bfloat(at); }
static inline void store(__global STORED *at, SUM v) { store_bfloat(at, v); }
static inline VECTOR load_vector(__global const STORED *at) { return load_bfloat${wide}(at); }
static inline void store_vector(__global STORED *at, VECTOR v) { store_bfloat${wide}(at, v); }
% elif half:
% if half_builtins:
static inline SUM load(__global const STORED *at) { return vload_half(0, (__global const half *)at); }
static inline void store(__global STORED *at, SUM v) { vstore_half_rte(v, 0, (__global half *)at); }

static inline VECTOR load_vector(__global const STORED *at)
{
    return ${vector(["load(at + %d)" % e for e in span])};
}

static inline void store_vector(__global STORED *at, VECTOR v)
{
% for e in span:
    store(at + ${e}, ${lane("v", e)});
% endfor
}
% else:
// Where the compiler has conversion instructions and no call stands between, they are used.
#if defined(__clang__) && defined(__F16C__)
static inline SUM load(__global const STORED *at)
{
    const ushort h = *at;
    return __builtin_load_halff((const half *)&h);
}

static inline void store(__global STORED *at, SUM v)
{
    ushort h;
    __builtin_store_halff(v, (half *)&h);
    *at = h;
}

static inline VECTOR load_vector(__global const STORED *at)
{
    return ${vector(["load(at + %d)" % e for e in span])};
}

static inline void store_vector(__global STORED *at, VECTOR v)
{
% for e in span:
    store(at + ${e}, ${lane("v", e)});
% endfor
}
#else
// float16 by integer arithmetic, which vectorises where vload_half is a call. What lies between a
// half's denormals and floats is done by addition and subtraction of floats, so that flushing
// denormals to zero does no harm. Storing rounds to nearest, ties to even.
${float16.conversions(1)}
% if lanes > 1:
${float16.conversions(lanes)}
% endif
static inline SUM load(__global const STORED *at) { return widen(*at); }
static inline void store(__global STORED *at, SUM v) { *at = (ushort)narrow(v); }

static inline VECTOR load_vector(__global const STORED *at)
{
% if lanes == 1:
    return load(at);
% else:
    return widen${lanes}((${uint})(${", ".join("at[%d]" % e for e in span)}));
% endif
}

static inline void store_vector(__global STORED *at, VECTOR v)
{
    const ${uint} h = narrow${"" if lanes == 1 else lanes}(v);
% for e in span:
    at[${e}] = (ushort)${lane("h", e)};
% endfor
}
#endif
% endif
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

// at[0] = momentum * at[0] + scale * sum. With momentum 0 the old value is not read, so that NaN in
// it is gone.
static inline void accumulate(__global STORED *at, SUM sum, const SUM scale, const SUM momentum)
{
    sum *= scale;
    if (momentum != 0) sum = momentum * load(at) + sum;
    store(at, sum);
}

// A share's sum of a gradient; the only share's is the result.
static inline void store_share(__global SUM *partial, __global STORED *result, const SUM sum,
                               const int shares, const SUM scale, const SUM momentum)
{
    if (shares > 1) *partial = sum;
    else accumulate(result, sum, scale, momentum);
}

// LANES elements, `step` apart.
static inline VECTOR load_strided(__global const STORED *at, const int step)
{
% if dtype == "bfloat16" and lanes > 1:
    // Converted together, since one by one they take Intel's compiler many seconds.
    return widen_bfloat${lanes}((ushort${lanes})(${", ".join("at[%d * step]" % e for e in span)}));
% else:
    return ${vector(["load(at + %d * step)" % e for e in span])};
% endif
}

// Lane e is row[(first + e) * step + shift], or 0 where that lies outside 0 <= … < length or where
// first + e lies outside 0 … last. Nothing outside the row is read.
## Taken in everywhere, that of bfloat16 takes Intel's compiler many seconds.
${"__attribute__((noinline))" if dtype == "bfloat16" and lanes > 1 else "static inline"} VECTOR load_checked(
    __global const STORED *row, const int first, const int last, const int step, const int shift, const int length)
{
% if lanes > 1:
    const long p_first = (long)first * step + shift;
    if (first >= 0 && first <= last - (LANES - 1) && p_first >= 0 && p_first + (long)(LANES - 1) * step < length)
        return step == 1 ? load_vector(row + p_first) : load_strided(row + p_first, step);
% endif
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const int i = first + e;
        const long p = (long)i * step + shift;
        const int ok = i >= 0 && i <= last && p >= 0 && p < length;
        const SUM value = load(row + (ok ? p : 0));
        v.lane[e] = ok ? value : (SUM)0;
    }
    return v.vector;
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
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const long p = (long)(first + e) * step + shift;
        const int ok = p >= 0 && p < limit;
        const SUM value = load(row + (ok ? p : 0));
        v.lane[e] = ok ? value : (SUM)0;
    }
    return v.vector;
}

static inline void store_positions(__global STORED *row, VECTOR v, const int first, const int step,
                            const int shift, const int limit, const int inside)
{
    if (inside && step == 1) {
        store_vector(row + (first + shift), v);
        return;
    }
    LANE_ARRAY lanes;
    lanes.vector = v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) {
        const long p = (long)(first + e) * step + shift;
        if (inside || (p >= 0 && p < limit)) store(row + p, lanes.lane[e]);
    }
}

// The lanes of v in order.
static inline SUM sum_lanes(VECTOR v)
{
    return ${" + ".join(lane("v", e) for e in span)};
}
