<%namespace name="bfloat16" file="bfloat16.cl.mako"/>\
## convert: y[i] = x[i] in another dtype, rounded to nearest even, or the last bits of a whole number
## One work-item owns every global size-th i.
<%
    element = {"float16": "load(x + x_offset + i)", "bfloat16": "load_bfloat(x + x_offset + i)"}
    element = element.get(source, "x[x_offset + i]")
    whole = {"int32": "int", "int64": "long", "uint32": "uint", "uint64": "ulong"}.get(source)
    # Integers beyond float's precision are beyond float16.
    to_odd = target in ("float16", "bfloat16") and source == "float64" or target == "bfloat16" and whole
    narrowed = "to_sum(%s)" % element if to_odd else element
%>\
% if "float64" in (source, target):
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
% endif
% if dtype != "bfloat16" and "bfloat16" in (source, target):
${bfloat16.conversions(1)}
% endif
% if to_odd and whole:
// To float by rounding to odd, so that the rounding that follows is the only one that counts.
static inline float to_sum(const ${whole} value)
{
    const ulong size = ${"(ulong)value" if source[0] == "u" else "value < 0 ? 0 - (ulong)value : (ulong)value"};
    const int bits = 64 - (int)clz(size);
    const ulong lost = bits > 24 ? ((ulong)1 << (bits - 24)) - 1 : 0;
    const float kept = (float)((size & ~lost) | ((size & lost) != 0 ? lost + 1 : 0));
    return ${"kept" if source[0] == "u" else "value < 0 ? -kept : kept"};
}
% elif to_odd:
// To float by rounding to odd, so that the rounding that follows is the only one that counts.
static inline float to_sum(const double d)
{
    const float f = (float)d;
    const uint bits = as_uint(f);
    const double error = f - d;
    if (error == 0 || error != error || (bits & 0x7fffffffu) >= 0x7f800000u) return f;
    const int away = (error > 0) == (d > 0);  // |f| > |d|
    return as_float((bits - (away ? 1u : 0u)) | 1u);
}
% endif

__kernel ${attributes}
void convert(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
% if target == "float16":
        store(y + y_offset + i, ${narrowed});
% elif target == "bfloat16":
        store_bfloat(y + y_offset + i, ${narrowed});
% elif target == "bool":
        y[y_offset + i] = ${element} != 0;
% elif target not in ("float32", "float64"):
        y[y_offset + i] = (long)${element};
% else:
        y[y_offset + i] = ${element};
% endif
    }
}
