## convert: y[i] = x[i] in another dtype, rounded to nearest even, or the last bits of a whole number
## One work-item owns every global size-th i.
<%
    value = "load(x + x_offset + i)" if source == "float16" else "x[x_offset + i]"
%>\
% if "float64" in (source, target):
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
% endif
% if source == "float64" and target == "float16":
// To float by rounding to odd, so that the rounding to half that follows is the only one that counts.
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
        store(y + y_offset + i, ${"to_sum(x[x_offset + i])" if source == "float64" else "x[x_offset + i]"});
% elif target == "bool":
        y[y_offset + i] = ${value} != 0;
% elif target not in ("float32", "float64"):
        y[y_offset + i] = (long)${value};
% elif source == "float16":
        y[y_offset + i] = load(x + x_offset + i);
% else:
        y[y_offset + i] = x[x_offset + i];
% endif
    }
}
