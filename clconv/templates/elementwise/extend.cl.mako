## extend: y[a,i] = x[a, i - left] inside, else what `mode` makes of the row there, however far away
## From the nearer end of the row, at(0) is its last sample, at(1) the one before it, and d, at least 1,
## is how far beyond it the wanted sample lies; less than the row's length in mode odd, which rounds once
## where antireflect rounds twice. One work-item owns every global size-th element of y.
static inline SUM at(__global const STORED *row, const long length, const int before, const long i)
{
    return load(row + (before ? i : length - 1 - i));
}

static inline SUM beyond(__global const STORED *row, const long length, const int before,
                         const long d, const SUM fill)
{
% if mode == "constant":
    return fill;
% elif mode == "edge":
    return at(row, length, before, 0);
% elif mode == "wrap":
    return at(row, length, before, length - 1 - (d - 1) % length);
% elif mode == "symmetric":
    const long j = (d - 1) % (2 * length);
    return at(row, length, before, j < length ? j : 2 * length - 1 - j);
% elif mode == "antisymmetric":
    const long j = (d - 1) % (2 * length);
    return j < length ? -at(row, length, before, j) : at(row, length, before, 2 * length - 1 - j);
% else:
    const SUM end = at(row, length, before, 0);
    if (length == 1) return end;
% if mode == "odd":
    return 2 * end - at(row, length, before, d);
% elif mode == "reflect":
    const long j = d % (2 * (length - 1));
    return at(row, length, before, j < length ? j : 2 * (length - 1) - j);
% elif mode == "smooth":
    return end + (SUM)d * (end - at(row, length, before, 1));
% elif mode == "line":
    return end + (SUM)d * ((end - at(row, length, before, length - 1)) / (SUM)(length - 1));
% elif mode == "antireflect":
    // Each time an end is passed, the row goes on from there turned by half a circle.
    const SUM other = at(row, length, before, length - 1);
    const SUM passed = end + (SUM)((d - 1) / (length - 1)) * (end - other);
    const long j = (d - 1) % (2 * (length - 1));
    if (j < length - 1) return passed + (end - at(row, length, before, j + 1));
    return passed - (other - at(row, length, before, 2 * length - 3 - j));
% endif
% endif
}

__kernel ${attributes}
void extend(${signature})
{
    for (long i = get_global_id(0); i < count; i += get_global_size(0)) {
        const long p = i % padded - left;
        __global const STORED *row = x + x_offset + i / padded * length;
        const int before = p < 0;
        const SUM value = p >= 0 && p < length ? load(row + p)
                        : beyond(row, length, before, before ? -p : p - length + 1, fill);
        store(y + y_offset + i, value);
    }
}
