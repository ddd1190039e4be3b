## bfloat16 by integer arithmetic: it is the upper half of a float's bits. Storing rounds to nearest, ties
## to even. A NaN gets its quiet bit, since what told it from infinity may be in the lower half.
<%def name="conversions(n)"><%
    n = "" if n == 1 else n
%>\
typedef ushort${n} BFLOAT${n}_UNALIGNED __attribute__((aligned(2)));

static inline float${n} load_bfloat${n}(__global const ushort *at)
{
    return as_float${n}(convert_uint${n}(*(__global const BFLOAT${n}_UNALIGNED *)at) << 16);
}

static inline void store_bfloat${n}(__global ushort *at, const float${n} v)
{
    const uint${n} u = as_uint${n}(v);
    const uint${n} rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const uint${n} h = (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded;
    *(__global BFLOAT${n}_UNALIGNED *)at = convert_ushort${n}(h);
}
</%def>\
