## What is done to sums before they are stored: activation(sum + bias + residual).
<%def name="functions()"><%
    f = "" if dtype == "float64" else "f"
%>\
% if activation:
static inline VECTOR activate(VECTOR v, SUM slope)
{
% if activation == "relu":
    return v < (VECTOR)0.0${f} ? (VECTOR)0.0${f} : v;  // NaN stays
% elif activation == "leaky_relu":
    return v < (VECTOR)0.0${f} ? slope * v : v;
% elif activation == "sigmoid":
    return 1.0${f} / (1.0${f} + exp(-v));
% elif activation == "tanh":
    return tanh(v);
% elif activation == "gelu":
    return 0.5${f} * v * erfc(v * -0.70710678118654752440${f});
% elif activation == "silu":
    return v / (1.0${f} + exp(-v));
% elif activation == "elu":
    return v < (VECTOR)0.0${f} ? slope * expm1(v) : v;
% endif
}
% endif
</%def>\
<%def name="finish(sums, channel, first, step, shift, limit)">\
{  // lane e belongs at (${first} + e) * ${step} + ${shift}
    VECTOR v = ${sums};
% if "bias" in bound:
    v += (VECTOR)load(bias + bias_offset + ${channel});
% endif
% if "residual" in bound:
    v += load_positions(residual + residual_offset + n * residual_batch_stride + ${channel} * residual_channel_stride,
                        ${first}, ${step}, ${shift}, ${limit}, inside);
% endif
% if "pre_activation" in bound:
    store_positions(pre_activation + pre_activation_offset + n * pre_activation_batch_stride + ${channel} * pre_activation_channel_stride,
                    v, ${first}, ${step}, ${shift}, ${limit}, inside);
% endif
% if activation:
    v = activate(v, slope);
% endif
    store_positions(y + y_offset + n * y_batch_stride + ${channel} * y_channel_stride,
                    v, ${first}, ${step}, ${shift}, ${limit}, inside);
}
</%def>\
