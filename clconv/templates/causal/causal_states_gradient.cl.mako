## causal_states_gradient: the gradient of the states before x, of the outputs that read them
##   y[n,c,j] = sum_{k<=j, j-k<length} weight[c,k] * grad[n,c, j-k] + grad_final[n,c, j - length], where that
##   is not negative
## One work-item owns every global size-th element, counted with c fastest.
typedef ${"SUM" if grad_sums else "STORED"} GRADIENT;
#define load_gradient(at) ${"(*(at))" if grad_sums else "load(at)"}

__kernel ${attributes}
void causal_states_gradient(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long c = i % channels, j = i / channels % before, n = i / channels / before;
        __global const GRADIENT *from = grad + grad_offset + n * grad_batch + c * grad_channel;
        __global const STORED *w = weight + weight_offset + c * (before + 1);
        SUM sum = 0;
        for (long k = j < length ? 0 : j - length + 1; k <= j; ++k)
            sum = load(w + k) * load_gradient(from + (j - k) * grad_step) + sum;
% if "grad_final" in bound:
        if (j >= length)
            sum += load(grad_final + grad_final_offset + n * final_batch + c * final_channel + (j - length) * final_step);
% endif
        store(y + y_offset + n * y_batch + c * y_channel + j * y_step, sum);
    }
}
