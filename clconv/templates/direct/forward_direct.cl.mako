<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## forward_direct:
##   y[n,o,q] = epilogue(sum_{c<GROUP_IN, k<KERNEL_SIZE}
##                       weight[o,c,k] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad])
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position
##
## One work-item owns OUT_TILE channels of one group times VECTORS vectors of LANES consecutive q.
## VECTOR_STEP apart: neighbours in a CPU's work-item; on a GPU the work-items of a group lie
## between them, so that neighbouring work-items read neighbouring x. Any length, any padding.
## Dimension 0 is positions, 1 channel tiles, 2 batch; each loops where there are more than groups.
<%
    exact = group_out % out_tile == 0
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define OUT_TILE ${out_tile}        // output channels a work-item
#define VECTORS ${vectors}          // vectors of positions a work-item
#define ITEM_STEP ${item_step}      // positions from a work-item to the next
#define VECTOR_STEP ${vector_step}  // positions from a work-item's vector to its next
#define GROUP_STEP ${group_step}    // positions a work-group
#define TILES ${-(-group_out // out_tile)}  // channel tiles a group
#define GROUPS ${groups}
typedef ${weight_index} WEIGHT_INDEX;

<%def name="accumulate(checked)">
            for (int c = 0; c < GROUP_IN; ++c) {
                __global const STORED *x_row = x_group + c * x_channel_stride;
                __global const STORED *taps = weight_tile + c * KERNEL_SIZE;
                for (int k = 0; k < KERNEL_SIZE; ++k) {
                    VECTOR seen[VECTORS];
                    UNROLL for (int j = 0; j < VECTORS; ++j) {
                        const int q = first + j * VECTOR_STEP;
% if checked:
                        seen[j] = load_checked(x_row, q, 0x7fffffff, STRIDE, k * DILATION - pad, length);
% elif stride == 1:
                        seen[j] = load_vector(x_row + (q + k * DILATION - pad));
% else:
                        seen[j] = load_strided(x_row + (q * STRIDE + k * DILATION - pad), STRIDE);
% endif
                    }
                    UNROLL for (int i = 0; i < OUT_TILE; ++i) {
                        const SUM w = load(taps + WEIGHT_ROW(i) + k);
                        UNROLL for (int j = 0; j < VECTORS; ++j)
                            sums[i][j] = w * seen[j] + sums[i][j];
                    }
                }
            }
</%def>\
% if exact:
#define WEIGHT_ROW(i) ((WEIGHT_INDEX)(i) * (GROUP_IN * KERNEL_SIZE))
% else:
// The last tile's missing channels repeat the last one and are not stored.
#define WEIGHT_ROW(i) ((WEIGHT_INDEX)(o + (i) < GROUP_OUT ? (i) : GROUP_OUT - 1 - o) * (GROUP_IN * KERNEL_SIZE))
% endif

${epilogue.functions()}

__kernel ${attributes}
void forward_direct(${signature})
{
    for (int n = get_group_id(2); n < batch; n += get_num_groups(2))
    for (int tile = get_group_id(1); tile < TILES * GROUPS; tile += get_num_groups(1))
    for (int block = get_group_id(0); block < blocks; block += get_num_groups(0)) {
        const int first = block * GROUP_STEP + (int)get_local_id(0) * ITEM_STEP;
        if (first < out_length) {
            const int g = tile / TILES;
            const int o = tile % TILES * OUT_TILE;  // within the group
            const int last = first + (VECTORS - 1) * VECTOR_STEP + LANES - 1;
            __global const STORED *x_group = x + x_offset + n * x_batch_stride + (long)g * GROUP_IN * x_channel_stride;
            __global const STORED *weight_tile = weight + weight_offset + ((long)g * GROUP_OUT + o) * (GROUP_IN * KERNEL_SIZE);

            VECTOR sums[OUT_TILE][VECTORS];
            UNROLL for (int i = 0; i < OUT_TILE; ++i)
                UNROLL for (int j = 0; j < VECTORS; ++j) sums[i][j] = (SUM)0;

            // Most work-items see no padding and pay for no test of it.
            const int inside = (long)first * STRIDE >= pad
                && (long)last * STRIDE + (KERNEL_SIZE - 1) * DILATION - pad < length && last < out_length;
            if (inside) {${accumulate(checked=False)}
            } else {${accumulate(checked=True)}
            }

            UNROLL for (int i = 0; i < OUT_TILE; ++i) {
                const int channel = g * GROUP_OUT + o + i;
% if not exact:
                if (o + i < GROUP_OUT)
% endif
                UNROLL for (int j = 0; j < VECTORS; ++j) {
                    const int q = first + j * VECTOR_STEP;
                    ${epilogue.finish("sums[i][j]", "channel", "q", "1", "0", "out_length")}
                }
            }
        }
    }
}
