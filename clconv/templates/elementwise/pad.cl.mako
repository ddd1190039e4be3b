## pad: y[a,p] = x[a, p - left] inside, else the fill value or what `mode` mirrors there
## One work-item owns every global size-th element of y.
__kernel ${attributes}
void pad(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long row = i / padded, q = i % padded - left;
        const int inside = q >= 0 && q < length;
% if mode == "constant":
        const SUM value = inside ? load(x + x_offset + row * length + q) : fill;
% else:
% if mode == "reflect":
        const long p = q < 0 ? -q : q < length ? q : 2 * (length - 1) - q;
% elif mode == "edge":
        const long p = q < 0 ? 0 : q < length ? q : length - 1;
% elif mode == "wrap":
        const long p = q < 0 ? q + length : q < length ? q : q - length;
% endif
        const SUM value = load(x + x_offset + row * length + (inside ? q : p));
% endif
        store(y + y_offset + i, value);
    }
}
