## weight_gradient_direct:
##   partial[s,o,c,k] = sum of y[n,o,q] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad] over the
##                      share s of all (n, q); sum_partials adds the shares. A single share goes
##                      to result as sum_partials would add it.
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position;
##   y is the output's gradient
##
## A unit is `unit_length` consecutive q of one n; share s owns consecutive units. One work-item
## owns OUT_TILE channels o of one group times TAP_TILE consecutive of that group's (c,k), in one
## share; LANES sums of each weight run side by side over neighbouring q and are added at the end.
## Dimension 0 is weight tiles, 1 shares; the first loops where there are more than groups.
<%
    exact_out = group_out % out_tile == 0
    exact_taps = group_in * kernel_size % tap_tile == 0
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define TAPS (GROUP_IN * KERNEL_SIZE)  // (c,k) of a group
#define OUT_TILE ${out_tile}           // output channels a work-item
#define TAP_TILE ${tap_tile}           // consecutive (c,k) a work-item
#define OUT_TILES ${-(-group_out // out_tile)}
#define TAP_TILES ${-(-group_in * kernel_size // tap_tile)}
#define GROUPS ${groups}

<%def name="accumulate(checked)">
                    VECTOR seen[TAP_TILE];
                    UNROLL for (int j = 0; j < TAP_TILE; ++j)
% if checked:
                        seen[j] = load_checked(x_row[j], q, q_end - 1, STRIDE, shift[j], length);
% elif stride == 1:
                        seen[j] = load_vector(x_row[j] + (q + shift[j]));
% else:
                        seen[j] = load_strided(x_row[j] + (q * STRIDE + shift[j]), STRIDE);
% endif
                    UNROLL for (int i = 0; i < OUT_TILE; ++i) {
                        __global const STORED *y_row = y_unit + OUT_ROW(i) * y_channel_stride;
% if checked:
                        const VECTOR gradient = load_checked(y_row, q, q_end - 1, 1, 0, q_end);
% else:
                        const VECTOR gradient = load_vector(y_row + q);
% endif
                        UNROLL for (int j = 0; j < TAP_TILE; ++j)
                            sums[i][j] = gradient * seen[j] + sums[i][j];
                    }
</%def>\
// The last tiles' missing channels and taps repeat the last one and are not stored.
% if exact_out:
#define OUT_ROW(i) (i)
% else:
#define OUT_ROW(i) (o + (i) < GROUP_OUT ? (i) : GROUP_OUT - 1 - o)
% endif
% if exact_taps:
#define TAP(j) (tap + (j))
% else:
#define TAP(j) (tap + (j) < TAPS ? tap + (j) : TAPS - 1)
% endif

__kernel ${attributes}
void weight_gradient_direct(${signature})
{
    const int share = get_global_id(1);
    if (share >= shares) return;
    const long unit_begin = units * share / shares, unit_end = units * (share + 1) / shares;
    for (long tile = get_global_id(0); tile < (long)OUT_TILES * TAP_TILES * GROUPS; tile += get_global_size(0)) {
        const int tap = (int)(tile % TAP_TILES) * TAP_TILE;
        const int o = (int)(tile / TAP_TILES % OUT_TILES) * OUT_TILE;  // within the group
        const int g = (int)(tile / TAP_TILES / OUT_TILES);

        int shift[TAP_TILE];
        long x_channel[TAP_TILE];
        int shift_min = ${2**31 - 1}, shift_max = ${-2**31 + 1};
        UNROLL for (int j = 0; j < TAP_TILE; ++j) {
            shift[j] = TAP(j) % KERNEL_SIZE * DILATION - pad;
            x_channel[j] = ((long)g * GROUP_IN + TAP(j) / KERNEL_SIZE) * x_channel_stride;
            shift_min = shift[j] < shift_min ? shift[j] : shift_min;
            shift_max = shift[j] > shift_max ? shift[j] : shift_max;
        }
        // For inside_begin <= q < inside_end no tap of the tile sees padding.
        const int inside_begin = shift_min < 0 ? (-shift_min - 1) / STRIDE + 1 : 0;
        const int inside_end = shift_max < length ? (length - 1 - shift_max) / STRIDE + 1 : 0;

        VECTOR sums[OUT_TILE][TAP_TILE];
        UNROLL for (int i = 0; i < OUT_TILE; ++i)
            UNROLL for (int j = 0; j < TAP_TILE; ++j) sums[i][j] = (SUM)0;

        for (long unit = unit_begin; unit < unit_end; ++unit) {
            const long n = unit / row_units;
            const int q_begin = (int)(unit % row_units) * unit_length;
            const int q_end = out_length - q_begin < unit_length ? out_length : q_begin + unit_length;
            const int q_inside = inside_end < q_end ? inside_end : q_end;
            __global const STORED *y_unit = y + y_offset + n * y_batch_stride + ((long)g * GROUP_OUT + o) * y_channel_stride;
            __global const STORED *x_row[TAP_TILE];
            UNROLL for (int j = 0; j < TAP_TILE; ++j) x_row[j] = x + x_offset + n * x_batch_stride + x_channel[j];
            for (int q = q_begin; q < q_end; q += LANES) {
                if (q >= inside_begin && q + LANES <= q_inside) {${accumulate(checked=False)}
                } else {${accumulate(checked=True)}
                }
            }
        }

        const long first = ((long)g * GROUP_OUT + o) * TAPS + tap;
        __global SUM *mine = partial + partial_offset + (long)share * GROUPS * GROUP_OUT * TAPS + first;
        __global STORED *only = result + result_offset + first;
        UNROLL for (int i = 0; i < OUT_TILE; ++i)
            UNROLL for (int j = 0; j < TAP_TILE; ++j)
% if not (exact_out and exact_taps):
                if (o + i < GROUP_OUT && tap + j < TAPS)
% endif
                store_share(mine + (long)i * TAPS + j, only + (long)i * TAPS + j, sum_lanes(sums[i][j]), shares, scale, momentum);
    }
}
