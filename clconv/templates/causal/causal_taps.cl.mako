## causal_taps: taps[k,c] = weight[c,k] for k < width, then taps[width,c] = bias[c] or 0; 0 for c >= channels
## One work-item owns every global size-th element of `row` x (width + 1), counted with c fastest.
__kernel ${attributes}
void causal_taps(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long c = i % row, k = i / row;
        SUM value = 0;
        if (c < channels) {
            if (k < width) value = load(weight + weight_offset + c * width + k);
% if "bias" in bound:
            else value = load(bias + bias_offset + c);
% endif
        }
        taps[taps_offset + i] = value;
    }
}
