## bfloat16 by integer arithmetic: it is the upper half of a float's bits. Storing rounds to nearest, ties
## to even. A NaN gets its quiet bit, since what told it from infinity may be in the lower half.
##
## OpenCL's conversions are calls of functions on some drivers: those of single elements take Intel's
## compiler many seconds, and those of vectors are none for wider ones than PoCL 3.0 takes by itself.
<%def name="conversions(n)"><%
    single = n == 1
    n = "" if single else n
    narrowed = "*at = (ushort)h" if single else "*(__global BFLOAT%d *)at = TO_USHORT%d(h)" % (n, n)
%>\
% if not single:
typedef ushort${n} BFLOAT${n} __attribute__((aligned(2)));
#if defined(__clang__)
#define TO_UINT${n}(v) __builtin_convertvector(v, uint${n})
#define TO_USHORT${n}(v) __builtin_convertvector(v, ushort${n})
#else
#define TO_UINT${n}(v) convert_uint${n}(v)
#define TO_USHORT${n}(v) convert_ushort${n}(v)
#endif

% endif
static inline float${n} widen_bfloat${n}(const ushort${n} h) { return as_float${n}(${"(uint)h" if single else "TO_UINT%d(h)" % n} << 16); }

static inline float${n} load_bfloat${n}(__global const ushort *at)
{
    return widen_bfloat${n}(*${"at" if single else "(__global const BFLOAT%d *)at" % n});
}

static inline void store_bfloat${n}(__global ushort *at, const float${n} v)
{
    const uint${n} u = as_uint${n}(v);
    const uint${n} rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const uint${n} h = (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded;
    ${narrowed};
}
</%def>\
