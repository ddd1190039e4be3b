## activation_gradient: y[i] = x[i] * the activation's derivative, found from saved[i]
## x is the gradient of the activation's result; saved is that result, or for gelu and silu the
## value before the activation. relu passes nothing on where it was 0, whatever x is, and all where it
## was NaN. One work-item owns every global size-th i.
<%
    f = "" if dtype == "float64" else "f"
%>\
static inline SUM through(const SUM x, const SUM v, const SUM slope)
{
% if activation == "relu":
    return v <= 0 ? 0.0${f} : x;
% elif activation == "leaky_relu":
    return v > 0 ? x : x * slope;
% elif activation == "elu":
    return v > 0 ? x : x * (v + slope);
% elif activation == "sigmoid":
    return x * (v * (1.0${f} - v));
% elif activation == "tanh":
    return x * (1.0${f} - v * v);
% elif activation == "gelu":
    const SUM cdf = 0.5${f} * erfc(v * -0.70710678118654752440${f});
    return x * (cdf + v * (0.39894228040143267794${f} * exp(-0.5${f} * v * v)));
% elif activation == "silu":
    const SUM sigmoid = 1.0${f} / (1.0${f} + exp(-v));
    return x * (sigmoid * (1.0${f} + v * (1.0${f} - sigmoid)));
% endif
}

__kernel ${attributes}
void activation_gradient(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0))
        store(y + y_offset + i, through(load(x + x_offset + i), load(saved + saved_offset + i), slope));
}
