## causal_final: y[n,c,j] = (states, then x)[n,c, length + j] for j < before, the last samples of both; without
## states zeros stand before x. Elements are moved as they are.
## One work-item owns every global size-th element, counted with c fastest.
__kernel ${attributes}
void causal_final(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long c = i % channels, j = i / channels % before, n = i / channels / before;
        const long p = length + j - before;
        STORED value = 0;
        if (p >= 0) value = x[x_offset + n * x_batch + c * x_channel + p * x_step];
% if "states" in bound:
        else value = states[states_offset + n * states_batch + c * states_channel + (before + p) * states_step];
% endif
        y[y_offset + n * y_batch + c * y_channel + j * y_step] = value;
    }
}
