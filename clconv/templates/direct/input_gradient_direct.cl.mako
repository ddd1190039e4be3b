<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## input_gradient_direct:
##   y[n,c,p] = epilogue(sum_{o<GROUP_OUT, k: (p + pad - k*DILATION) mod STRIDE == 0}
##                       weight[g*GROUP_OUT + o, c, k] * x[n, g*GROUP_OUT + o, (p + pad - k*DILATION) / STRIDE])
##   n batch, c input channel (here a result's), g its group, o output channel of g (here read),
##   k tap, p input position; x is the output's gradient, or what a transposed convolution is given
##
## With t = p + pad = STRIDE * u + r, phase r uses the taps k = k0(r) + i * TAP_STEP alone and reads
## x at q = u + (r - k0 * DILATION) / STRIDE - i * TAP_BACK: a convolution of stride 1 for each
## phase. One work-item owns IN_TILE channels of one group times VECTORS vectors of LANES
## consecutive u of one phase; only its set-up divides. Dimension 0 is u, 1 phases of channel tiles,
## 2 batch; each loops where there are more than groups.
<%
    exact = group_in % in_tile == 0
    whole = ("long" if dtype == "float64" else "int") + ("" if lanes == 1 else str(lanes))
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define COMMON ${common}            // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${tap_step}        // STRIDE / COMMON
#define TAP_BACK ${dilation // common}  // DILATION / COMMON
#define TAP_INVERSE ${tap_inverse}  // of DILATION / COMMON modulo TAP_STEP
#define IN_TILE ${in_tile}          // channels a work-item
#define VECTORS ${vectors}          // vectors of positions a work-item
#define ITEM_STEP ${item_step}      // positions of a phase from a work-item to the next
#define VECTOR_STEP ${vector_step}  // … from a work-item's vector to its next
#define GROUP_STEP ${group_step}    // … a work-group
#define TILES ${-(-group_in // in_tile)}  // channel tiles a group
#define GROUPS ${groups}
// Numbers of lanes, as wide as sums.
typedef ${whole} LANE_NUMBERS;

<%def name="accumulate(checked)">
            for (int o = 0; o < GROUP_OUT; ++o) {
                __global const STORED *x_row = x_group + o * x_channel_stride;
                __global const STORED *taps = weight_tile + (long)o * (GROUP_IN * KERNEL_SIZE);
                for (int i = 0; i < tap_count; ++i) {
                    VECTOR seen[VECTORS];
% if checked:
                    LANE_NUMBERS there[VECTORS];
% endif
                    UNROLL for (int j = 0; j < VECTORS; ++j) {
                        const int q = first + j * VECTOR_STEP + shift - i * TAP_BACK;
% if checked:
                        seen[j] = load_checked(x_row, q, out_length - 1, 1, 0, out_length);
                        const LANE_NUMBERS at = q + ${"0" if lanes == 1 else "(LANE_NUMBERS)(%s)" % ", ".join(map(str, range(lanes)))};
                        there[j] = (at >= 0) & (at < out_length);
% else:
                        seen[j] = load_vector(x_row + q);
% endif
                    }
                    UNROLL for (int m = 0; m < IN_TILE; ++m) {
                        const SUM w = load(taps + WEIGHT_ROW(m) + i * TAP_STEP);
                        UNROLL for (int j = 0; j < VECTORS; ++j)
% if checked:
                            // No product with a zero beyond an end: that times infinity is NaN.
                            sums[m][j] = there[j] ? w * seen[j] + sums[m][j] : sums[m][j];
% else:
                            sums[m][j] = w * seen[j] + sums[m][j];
% endif
                    }
                }
            }
</%def>\
% if exact:
#define WEIGHT_ROW(m) ((m) * KERNEL_SIZE)
% else:
// The last tile's missing channels repeat the last one and are not stored.
#define WEIGHT_ROW(m) ((c + (m) < GROUP_IN ? (m) : GROUP_IN - 1 - c) * KERNEL_SIZE)
% endif

${epilogue.functions()}

__kernel ${attributes}
void input_gradient_direct(${signature})
{
    for (int n = get_group_id(2); n < batch; n += get_num_groups(2))
    for (long index = get_group_id(1); index < (long)TILES * GROUPS * STRIDE; index += get_num_groups(1))
    for (int block = get_group_id(0); block < blocks; block += get_num_groups(0)) {
        const int first = pad / STRIDE + block * GROUP_STEP + (int)get_local_id(0) * ITEM_STEP;
        const int r = index % STRIDE;
        if ((long)first * STRIDE + r - pad < length) {
            const int tile = index / STRIDE;
            const int g = tile / TILES;
            const int c = tile % TILES * IN_TILE;  // within the group
            const int last = first + (VECTORS - 1) * VECTOR_STEP + LANES - 1;
            const int k0 = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP);
            const int tap_count = r % COMMON == 0 && k0 < KERNEL_SIZE ? (KERNEL_SIZE - 1 - k0) / TAP_STEP + 1 : 0;
            // Exact, and of numbers that may be negative, for which / would round to zero.
            const int shift = tap_count ? (r - k0 * DILATION) / STRIDE : 0;
            __global const STORED *x_group = x + x_offset + n * x_batch_stride + (long)g * GROUP_OUT * x_channel_stride;
            __global const STORED *weight_tile = weight + weight_offset
                + ((long)g * GROUP_OUT * GROUP_IN + c) * KERNEL_SIZE + k0;

            VECTOR sums[IN_TILE][VECTORS];
            UNROLL for (int m = 0; m < IN_TILE; ++m)
                UNROLL for (int j = 0; j < VECTORS; ++j) sums[m][j] = (SUM)0;

            // Most work-items meet no edge and pay for no test of it.
            const int inside = first + shift - (tap_count - 1) * TAP_BACK >= 0 && last + shift < out_length
                && (long)first * STRIDE + r >= pad && (long)last * STRIDE + r - pad < length;
            if (inside) {${accumulate(checked=False)}
            } else {${accumulate(checked=True)}
            }

            UNROLL for (int m = 0; m < IN_TILE; ++m) {
                const int channel = g * GROUP_IN + c + m;
% if not exact:
                if (c + m < GROUP_IN)
% endif
                UNROLL for (int j = 0; j < VECTORS; ++j) {
                    const int u = first + j * VECTOR_STEP;
                    ${epilogue.finish("sums[m][j]", "channel", "u", "STRIDE", "r - pad", "length")}
                }
            }
        }
    }
}
