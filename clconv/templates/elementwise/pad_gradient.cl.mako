## pad_gradient: y[a,p] = x[a, p + left], plus the x of all padding that was taken from p, in order
## One work-item owns every global size-th element of y.
__kernel ${attributes}
void pad_gradient(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long row = i / length, p = i % length;
        __global const STORED *grad = x + x_offset + row * padded;
        SUM sum = load(grad + left + p);
% if mode == "reflect":
        if (p >= 1 && p <= left) sum += load(grad + left - p);
        if (p <= length - 2 && p >= length - 1 - right) sum += load(grad + left + 2 * (length - 1) - p);
% elif mode == "edge":
        if (p == 0) for (long q = 0; q < left; ++q) sum += load(grad + q);
        if (p == length - 1) for (long q = 0; q < right; ++q) sum += load(grad + left + length + q);
% elif mode == "wrap":
        if (p >= length - left) sum += load(grad + left + p - length);
        if (p < right) sum += load(grad + left + p + length);
% endif
        store(y + y_offset + i, sum);
    }
}
