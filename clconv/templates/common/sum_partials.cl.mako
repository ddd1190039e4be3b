## sum_partials:
##   result[i] = momentum * result[i] + scale * sum_{s<shares} partial[s,i], in the order of s
## Behind `weights` sums may follow those of a bias gradient, which go to `bias`.
##
## One work-item owns one i.
__kernel ${attributes}
void sum_partials(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        SUM sum = 0;
        for (int s = 0; s < shares; ++s) sum += partial[partial_offset + s * count + i];
% if "bias" in bound:
        if (i >= weights) accumulate(bias + bias_offset + (i - weights), sum, scale, bias_momentum);
        else
% endif
        accumulate(result + result_offset + i, sum, scale, momentum);
    }
}
