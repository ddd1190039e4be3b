<%namespace name="gemm" file="gemm.cl.mako"/>\
## weight_gradient_gemm, for GPUs: rows are output channels, columns (c,k), terms positions (n,q).
##   partial[s,o,c,k] = sum of y[n,o,q] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad] over the
##                      share s of all (n,q); sum_partials adds the shares in order;
##                      a single share goes to result as sum_partials would add it
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position;
##   y is the output's gradient
##
## A work-group owns TILE_ROWS channels o of one group times TILE_COLUMNS consecutive (c,k) of it, in
## one share: share_terms consecutive positions, which run on from one batch element to the next. The
## last tile's missing channels and taps repeat the last one and are not stored; for positions
## outside the share and for padding both factors, or x, are read inside and selected to be zero.
## Coalescing: neighbouring work-items fetch neighbouring positions of y, and of x.
## Dimension 0 is tiles of weights, 1 shares; the first loops.
<%
    taps = group_in * kernel_size
    exact_rows = group_out % tile_rows == 0
    exact_taps = taps % tile_columns == 0
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define TAPS (GROUP_IN * KERNEL_SIZE)  // (c,k) of a group
#define ROW_TILES ${-(-group_out // tile_rows)}
#define TAP_TILES ${-(-taps // tile_columns)}
${gemm.constants()}\
#define LEFT_ROW(f) ((f) / DEPTH)
#define LEFT_TERM(f) ((f) % DEPTH)
#define RIGHT_COLUMN(f) ((f) / DEPTH)
#define RIGHT_TERM(f) ((f) % DEPTH)

__kernel ${attributes}
void weight_gradient_gemm(${signature})
{
${gemm.slabs()}\
    const long share = get_group_id(1);
    const long begin = share * share_terms;
    const uint terms = (uint)(all_terms - begin < share_terms ? all_terms - begin : share_terms);
    for (long tile = get_group_id(0); tile < (long)TAP_TILES * ROW_TILES * GROUPS; tile += get_num_groups(0)) {
        const int tap_first = (int)(tile % TAP_TILES) * TILE_COLUMNS;
        const int row_first = (int)(tile / TAP_TILES % ROW_TILES) * TILE_ROWS;
        const int g = (int)(tile / TAP_TILES / ROW_TILES);
        __global const STORED *y_group = y + y_offset + ((long)g * GROUP_OUT + row_first) * y_channel_stride;
        __global const STORED *x_group = x + x_offset + (long)g * GROUP_IN * x_channel_stride;
        // The position that a work-item fetches next: ITEMS is a multiple of DEPTH, so that all its
        // elements of a slab are of the same one.
        int n = (int)(begin / out_length), q = (int)(begin - (long)n * out_length) + item % DEPTH;
        n += q / out_length;
        q %= out_length;

<%gemm:products terms="terms" moves="${True}">\
<%def name="left()">\
                    const int row = ${"m" if exact_rows else "row_first + m < GROUP_OUT ? m : GROUP_OUT - 1 - row_first"};
                    v = load(y_group + (t < terms ? n * y_batch_stride + row * y_channel_stride + q : 0));
                    v = t < terms ? v : (SUM)0;
</%def>\
<%def name="right()">\
                    const uint tap = ${"tap_first + j" if exact_taps else "tap_first + j < TAPS ? tap_first + j : TAPS - 1"};
                    const int p = q * STRIDE - pad + (int)(tap % KERNEL_SIZE) * DILATION;
                    const int ok = (uint)p < (uint)length && t < terms;
                    v = load(x_group + (ok ? n * x_batch_stride + tap / KERNEL_SIZE * x_channel_stride + p : 0));
                    v = ok ? v : (SUM)0;
</%def>\
<%def name="move()">\
                q += step_q;
                n += step_n;
                if (q >= out_length) {
                    q -= out_length;
                    ++n;
                }
</%def>\
</%gemm:products>\

        const long first = ((long)g * GROUP_OUT + row_first) * TAPS + tap_first;
        __global SUM *mine = partial + partial_offset + share * GROUPS * GROUP_OUT * TAPS + first;
        __global STORED *only = result + result_offset + first;
% if not is_short:
        // As store_share does, without a branch: with one, Intel's compiler spills the sums.
        __global SUM *to = shares > 1 ? mine : only;
        const SUM factor = shares > 1 ? (SUM)1 : scale, kept = shares > 1 ? (SUM)0 : momentum;
% endif
<%gemm:results>\
<%
    checks = [] if exact_rows else ["row_first + m < GROUP_OUT"]
    checks += [] if exact_taps else ["tap_first + j < TAPS"]
%>\
                    ${"if (%s) " % " && ".join(checks) if checks else ""}{
                        const long at = (long)m * TAPS + j;
% if is_short:
                        store_share(mine + at, only + at, sum, shares, scale, momentum);
% else:
                        const SUM old = load(kept != 0 ? to + at : y_group);
                        to[at] = kept != 0 ? kept * old + factor * sum : factor * sum;
% endif
                    }
</%gemm:results>\
    }
}
