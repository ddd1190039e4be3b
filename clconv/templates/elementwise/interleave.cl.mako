## interleave: y[n, first + c + i every] = x[n,c,i], as far as that is less than length
## One work-item owns all channels c of every global size-th chunk of positions i of a row n: it writes
## them side by side. Elements are moved as they are.
__kernel ${attributes}
void interleave(${signature})
{
    for (long task = get_global_id(0); task < count; task += get_global_size(0)) {
        const long n = task / chunks, start = task % chunks * ${chunk};
        const long stop = min(start + ${chunk}, positions);
        for (long i = start; i < stop; ++i) {
            const long p = first + i * every;
            const long here = min(channels, length - p);
            for (long c = 0; c < here; ++c)
                y[y_offset + n * y_batch + p + c] = x[x_offset + n * x_batch + c * x_channel + i];
        }
    }
}
