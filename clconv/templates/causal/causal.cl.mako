## What the kernels of causal convolutions share. Before the first position of a row lie its states, the
## last WIDTH - 1 samples of what came before, or zeros.
##
## Gradients are read as STORED, or as SUM where `grad_sums` says so, and `y` is written as SUM where
## `y_sums` does: between two kernels nothing is rounded to half precision.
<%def name="declarations()"><%
    n = "" if lanes == 1 else lanes
%>\
#define WIDTH ${width}
#define BEFORE (WIDTH - 1)  // samples that an output reads before its own position
#define GROUP ${group}  // work-items of a work-group
typedef VECTOR SUMS_UNALIGNED __attribute__((aligned(sizeof(SUM))));
typedef ${"SUM" if grad_sums else "STORED"} GRADIENT;
typedef ${"SUM" if y_sums else "STORED"} RESULT;

// The first `left` of LANES elements, zeros behind them.
${loading("load_some", "STORED", "load", "load_vector(at)")}
% if grad_sums:
static inline SUM load_gradient(__global const SUM *at) { return *at; }
static inline VECTOR load_gradient_vector(__global const SUM *at) { return *(__global const SUMS_UNALIGNED *)at; }
${loading("load_gradients", "SUM", "load_gradient", "load_gradient_vector(at)")}
% else:
#define load_gradient load
#define load_gradient_vector load_vector
#define load_gradients load_some
% endif

static inline void store_whole(__global RESULT *at, const VECTOR value)
{
    ${"*(__global SUMS_UNALIGNED *)at = value" if y_sums else "store_vector(at, value)"};
}

// Stores the first `left` lanes of a vector.
${kind()} void store_some(__global RESULT *at, const VECTOR value, const long left)
{
    if (left >= LANES) {
        store_whole(at, value);
        return;
    }
    LANE_ARRAY v;
    v.vector = value;
    NO_UNROLL for (int e = 0; e < left; ++e)
        ${"at[e] = v.lane[e]" if y_sums else "store(at + e, v.lane[e])"};
}
</%def>\
## How functions are declared that are called in several places: taken in there, code for half precision
## takes some compilers seconds to build.
<%def name="kind()">${"__attribute__((noinline))" if dtype == "float16" and lanes > 1 else "static inline"}</%def>\
<%def name="loading(name, element, one, vector)">\
${kind()} VECTOR ${name}(__global const ${element} *at, const long left)
{
    if (left >= LANES) return ${vector};
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = e < left ? ${one}(at + e) : (SUM)0;
    return v.vector;
}
</%def>\
## Of small arrays, whose elements may lie anywhere.
<%def name="loading_apart()">\
// The first `left` of LANES elements, `step` apart, zeros behind them.
${kind()} VECTOR load_apart(__global const STORED *at, const long step, const long left)
{
    if (step == 1 && left >= LANES) return load_vector(at);
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = e < left ? load(at + e * step) : (SUM)0;
    return v.vector;
}
</%def>\
## What follows the sums: nothing, silu, or, `through` it, the gradient of what is before it.
<%def name="finishing(through, silu)"><%
    f = "" if dtype == "float64" else "f"
%>\
% if through:
static inline VECTOR finish(const VECTOR v, const VECTOR gradient)
{
    const VECTOR sigmoid = 1.0${f} / (1.0${f} + exp(-v));
    return gradient * (sigmoid * (1.0${f} + v * (1.0${f} - sigmoid)));
}
% else:
static inline VECTOR finish(const VECTOR v)
{
    return ${"v / (1.0%s + exp(-v))" % f if silu else "v"};
}
% endif
</%def>\
## The numbers of sequences. Those of padding are negative.
<%def name="sequences()"><%
    n = "" if lanes == 1 else lanes
%>\
typedef int${n} INDICES;
typedef INDICES INDICES_UNALIGNED __attribute__((aligned(4)));

// Those of LANES positions, -1 outside the row.
static inline INDICES load_indices(__global const int *row, const long p, const long length)
{
% if lanes == 1:
    return p >= 0 && p < length ? row[p] : -1;
% else:
    if (p >= 0 && p + LANES <= length) return *(__global const INDICES_UNALIGNED *)(row + p);
    union {
        INDICES vector;
        int lane[LANES];
    } v;
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        v.lane[e] = p + e >= 0 && p + e < length ? row[p + e] : -1;
    return v.vector;
% endif
}

// A product where `chosen` is true, else 0, whatever the product is.
static inline VECTOR where(const INDICES chosen, const VECTOR product)
{
    return select((VECTOR)0, product, ${"convert_long%s(chosen)" % n if dtype == "float64" else "chosen"});
}

// Whether all of `count` positions have one number.
static inline int one_sequence(__global const int *row, const long p, const int count)
{
    int same = 1;
    for (int i = 1; i < count; ++i) same &= row[p + i] == row[p];
    return same;
}
</%def>\
