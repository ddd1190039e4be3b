## long_products: y[n][k][t] = sum_{q<parts} x[n][k][t + q] * conj(taps[k][q]), t < tiles, for each point k; the two
## parts of point 0 are real numbers of their own
##
## For CPUs: one work-item a work-group. Tiles t are the lanes of BLOCKS vectors of sums. A task is one
## point of one row. What it reads and writes behind the last tile is room between points. Dimension 0 is
## tasks, and loops.
#define BLOCKS ${blocks}
<%def name="products(real)">\
NO_UNROLL for (long t = 0; t < tiles; t += BLOCKS * LANES) {
% for b in range(blocks):
    VECTOR re${b} = 0, im${b} = 0;
% endfor
    NO_UNROLL for (int q = 0; q < parts; ++q) {
        const SUM hr = w[q], hi = w[w_pitch + q];
        __global const SUM *at = from + t + q;
% for b in range(blocks):
        {
            const VECTOR xr = *(__global const SUMS *)(at + ${b} * LANES), xi = *(__global const SUMS *)(at + x_pitch + ${b} * LANES);
% if real:
            re${b} = xr * hr + re${b};
            im${b} = xi * hi + im${b};
% else:
            re${b} = xi * hi + (xr * hr + re${b});
            im${b} = xi * hr + (im${b} - xr * hi);
% endif
        }
% endfor
    }
% for b in range(blocks):
    *(__global SUMS *)(to + t + ${b} * LANES) = re${b};
    *(__global SUMS *)(to + y_pitch + t + ${b} * LANES) = im${b};
% endfor
}
</%def>\
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

__kernel ${attributes}
void long_products(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long n = task / points, k = task % points;
        __global const SUM *from = spectrum + spectrum_offset + n * x_row_pitch + k * 2 * x_pitch;
        __global const SUM *w = taps + taps_offset + k * 2 * w_pitch;
        __global SUM *to = product + product_offset + n * y_row_pitch + k * 2 * y_pitch;
        if (k == 0) {
            ${products(True)}
        } else {
            ${products(False)}
        }
    }
}
