<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## rows: y[n,c,i] = activate(x[n,c,i] + z[n,c,i]), as far as there are z and an activation
## Rows may lie anywhere, their positions follow each other. One work-item owns `span` vectors of
## positions, side by side, of every global size-th row.
${epilogue.functions()}
__kernel ${attributes}
void rows(${signature})
{
    const long first_block = (long)get_global_id(0) * ${span};
    for (long row = get_global_id(1); row < count; row += get_global_size(1)) {
        const long n = row / channels, c = row % channels;
        __global const STORED *x_row = x + x_offset + n * x_batch_stride + c * x_channel_stride;
% if "z" in bound:
        __global const STORED *z_row = z + z_offset + n * z_batch_stride + c * z_channel_stride;
% endif
        __global STORED *y_row = y + y_offset + n * y_batch_stride + c * y_channel_stride;
        for (long block = first_block; block * LANES < positions; block += get_global_size(0) * ${span}) {
            NO_UNROLL for (int e = 0; e < ${span}; ++e) {
                const long i = (block + e) * LANES;
                if (i >= positions) break;
                const int inside = i + LANES <= positions, left = min(positions - i, (long)LANES);
                VECTOR v = load_positions(x_row + i, 0, 1, 0, left, inside);
% if "z" in bound:
                v += load_positions(z_row + i, 0, 1, 0, left, inside);
% endif
% if activation:
                v = activate(v, slope);
% endif
                store_positions(y_row + i, v, 0, 1, 0, left, inside);
            }
        }
    }
}
