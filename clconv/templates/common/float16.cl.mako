## float16 between memory and sums, for compilers without conversion instructions.
<%def name="conversions(n)"><%
    n = "" if n == 1 else n
%>\
static inline float${n} widen${n}(const uint${n} h)
{
    const uint${n} magnitude = (h & 0x7fffu) << 13;
    const uint${n} exponent = magnitude & 0x0f800000u;
    const uint${n} tiny = as_uint${n}(as_float${n}(magnitude + 0x38800000u) - as_float(0x38800000u));
    const uint${n} bits = exponent == 0x0f800000u ? magnitude + 0x70000000u
                        : (exponent == 0u ? tiny : magnitude + 0x38000000u);
    return as_float${n}(bits | ((h & 0x8000u) << 16));
}

static inline uint${n} narrow${n}(const float${n} v)
{
    const uint${n} sign = as_uint${n}(v) & 0x80000000u;
    const uint${n} u = as_uint${n}(v) ^ sign;
    const uint${n} large = u > 0x7f800000u ? (uint${n})0x7e00u : (uint${n})0x7c00u;
    const uint${n} tiny = as_uint${n}(as_float${n}(u) + 0.5f) - 0x3f000000u;
    const uint${n} normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    return (u >= 0x47800000u ? large : (u < 0x38800000u ? tiny : normal)) | (sign >> 16);
}
</%def>\
