## normalise: y[r,i] = (x[r,i] - mean) / sqrt(variance + epsilon) * scale + shift, of row r
## Scale and shift are those of element i, or of the channel r % groups * channels + i / positions.
## One work-item owns every global size-th row, of `length` elements.
<%namespace name="rows" file="sums_of_rows.cl.mako"/>\
${rows.sums()}
static inline void write(__global STORED *to, __global const STORED *from, const long length,
                         const SUM mean, const SUM factor, const SUM shift)
{
    long i = 0;
    for (; i + LANES <= length; i += LANES)
        store_vector(to + i, (load_vector(from + i) - mean) * factor + shift);
    for (; i < length; ++i) store(to + i, (load(from + i) - mean) * factor + shift);
}

__kernel ${attributes}
void normalise(${signature})
{
    for (long row = get_global_id(0); row < count; row += get_global_size(0)) {
        __global const STORED *from = x + x_offset + row * length;
        __global STORED *to = y + y_offset + row * length;
        const SUM mean = sum_of(from, length, 0, 0) / length;
        const SUM variance = sum_of(from, length, mean, 1) / length;
        const SUM factor = 1 / sqrt(variance + epsilon);
% if by == "channel":
        for (long c = 0; c < channels; ++c) {
            const long channel = row % groups * channels + c, start = c * positions;
            const SUM scaled = factor * load(scale + scale_offset + channel);
            const SUM shifted = load(shift + shift_offset + channel);
            write(to + start, from + start, positions, mean, scaled, shifted);
        }
% else:
        __global const STORED *scales = scale + scale_offset;
        long i = 0;
        for (; i + LANES <= length; i += LANES) {
            VECTOR v = (load_vector(from + i) - mean) * factor * load_vector(scales + i);
% if "shift" in bound:
            v += load_vector(shift + shift_offset + i);
% endif
            store_vector(to + i, v);
        }
        for (; i < length; ++i) {
            SUM v = (load(from + i) - mean) * factor * load(scales + i);
% if "shift" in bound:
            v += load(shift + shift_offset + i);
% endif
            store(to + i, v);
        }
% endif
    }
}
