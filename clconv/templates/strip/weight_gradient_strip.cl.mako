<%namespace name="strip" file="strip.cl.mako"/>\
<%namespace name="turn" file="turn.cl.mako"/>\
## weight_gradient_strip:
##   partial[s,o,c,k] = sum of y[n,o,q] * x[n, g*GROUP_IN + c, q*STRIDE + k*DILATION - pad] over the
##                      share s of all (n, q); sum_partials adds the shares. A single share goes
##                      to result as sum_partials would add it. Where a bias gradient is wanted too,
##                      sum of y[n,o,q] over the same lies behind a share's weights, or goes to bias.
##   n batch, o output channel, g its group, c input channel of g, k tap, q output position;
##   y is the output's gradient
##
## For CPUs: one work-item a work-group. It owns a few panels of PANEL channels o of one group, times
## TERM_BLOCK channels c, in one share. Units of positions, a chunk of one row or several whole rows,
## come one after the other: x is copied to the strip with zeros for the padding; y is turned, so that
## the channels of a panel lie side by side. Then vectors of channels o are multiplied by single
## elements of x, any stride, any number of positions, and summed in registers: TAP_TILE x VECTORS
## vectors at a time, and a unit's sums are added to those of the units before it, in `sums`, so that
## no chain of additions is long.
## The first block of channels c sums y for the bias.
##   strip[c][n][t] = x[n, c, first*STRIDE - pad + t]
##   turned[n,q][o], one panel after the other
## Dimension 0 is tasks, and loops.
##
##              strip: positions ->          turned: PANEL channels o side by side
##   tap (c,k)     x  x  x  x  x              q      [ y0: LANES ][ y1 ] … VECTORS
##   the next      x  x  x  x  x              q + 1  [           ][    ]
##
##   A tile of sums: TAP_TILE taps times VECTORS vectors of LANES channels o
##                 o            o + LANES
##   tap          [ s0_0      ][ s0_1 ] …     each s += one x of the tap at q, times a vector of y at q
##   the next     [ s1_0      ][ s1_1 ] …
<%
    with_bias = "bias" in bound
%>\
#define GROUP_IN ${group_in}
#define GROUP_OUT ${group_out}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define WEIGHTS ((long)GROUPS * GROUP_OUT * GROUP_IN * KERNEL_SIZE)
#define TAP_TILE ${tap_tile}  // consecutive (c,k) a tile
#define VECTORS ${vectors}  // vectors of channels o a tile
#define PANEL (VECTORS * LANES)
#define PANELS ${-(-group_out // (vectors * lanes))}  // of a group
#define TASK_PANELS ${task_panels}  // of a task, at most
#define TERM_BLOCK ${term_block}  // channels c of a task, at most
#define TERM_BLOCKS ${-(-group_in // term_block)}
#define POSITIONS ${positions}  // (n,q) of a unit, at most
#define TAPS ${-(-term_block * kernel_size // tap_tile) * tap_tile}  // (c,k) of a task, whole tiles

${strip.functions(1)}

${turn.functions()}

## The arrays in local memory.
<%def name="arrays()">\
__local SUM strip[${strip_elements}] __attribute__((aligned(64)));
__local SUM turned[POSITIONS * PANEL] __attribute__((aligned(64)));
__local SUM sums[TASK_PANELS * TAPS * PANEL] __attribute__((aligned(64)));
// Where a tap's x are in the strip. A compiler that knew some to be neighbours would load them
// together and take them apart again, where a single load spreads a value over a vector.
__local int tap_at[TAPS];
% if with_bias:
__local SUM bias_sums[TASK_PANELS * PANEL] __attribute__((aligned(64)));
% endif
</%def>\
## Which weights and which share are the task's, and sums of nothing.
<%def name="begin_task()">\
const long share = task % shares, which = task / shares;
const int c_first = (int)(which % TERM_BLOCKS) * TERM_BLOCK;
const int c_count = GROUP_IN - c_first < TERM_BLOCK ? GROUP_IN - c_first : TERM_BLOCK;
const int panel_blocks = (PANELS + task_panels - 1) / task_panels;
const int panel_first = (int)(which / TERM_BLOCKS % panel_blocks) * task_panels;
const int panel_count = PANELS - panel_first < task_panels ? PANELS - panel_first : task_panels;
const int g = (int)(which / TERM_BLOCKS / panel_blocks);
const int tap_count = c_count * KERNEL_SIZE;
const int tiles = (tap_count + TAP_TILE - 1) / TAP_TILE;
// Behind the last tap it is repeated; those sums are not stored.
NO_UNROLL for (int t = 0; t < tiles * TAP_TILE; ++t) {
    const int tap = t < tap_count ? t : tap_count - 1;
    tap_at[t] = tap / KERNEL_SIZE * channel_pitch + tap % KERNEL_SIZE * DILATION;
}

for (int i = 0; i < panel_count * TAPS * PANEL; i += LANES) *(__local VECTOR *)(sums + i) = (SUM)0;
% if with_bias:
for (int i = 0; i < panel_count * PANEL; i += LANES) *(__local VECTOR *)(bias_sums + i) = (SUM)0;
% endif
</%def>\
## A unit of positions: x to the strip, then y panel by panel.
<%def name="sum_unit()">\
const int n_first = (int)(unit / chunks) * unit_rows;
const int q_first = (int)(unit % chunks) * chunk;
const int n_count = batch - n_first < unit_rows ? batch - n_first : unit_rows;
const int q_count = out_length - q_first < chunk ? out_length - q_first : chunk;
for (int c = 0; c < c_count; ++c)
    for (int row = 0; row < n_count; ++row)
        stage(strip + c * channel_pitch + row * row_pitch,
              x + x_offset + (long)(n_first + row) * x_batch_stride + ((long)g * GROUP_IN + c_first + c) * x_channel_stride,
              (long)q_first * STRIDE - pad, row_pitch, length,
              c + PREFETCH_ROWS < c_count ? PREFETCH_ROWS * x_channel_stride : 0);
for (int panel = 0; panel < panel_count; ++panel) {
    const int o = (panel_first + panel) * PANEL;
    for (int row = 0; row < n_count; ++row)
        turn(turned + row * q_count * PANEL,
             y + y_offset + (long)(n_first + row) * y_batch_stride + ((long)g * GROUP_OUT + o) * y_channel_stride + q_first,
             y_channel_stride, GROUP_OUT - o, q_count);
% if with_bias:
    ${sum_bias()}
% endif
    for (int tile = 0; tile < tiles; ++tile) {
        ${sum_tile()}
    }
}
</%def>\
<%def name="sum_bias()">\
if (c_first == 0) {
    __local const VECTOR *at = (__local const VECTOR *)turned;
% for j in range(vectors):
    VECTOR b${j} = 0;
% endfor
    for (int p = 0; p < n_count * q_count; ++p) {
% for j in range(vectors):
        b${j} += at[${j}];
% endfor
        at += VECTORS;
    }
    __local VECTOR *totals = (__local VECTOR *)(bias_sums + panel * PANEL);
% for j in range(vectors):
    totals[${j}] += b${j};
% endfor
}
</%def>\
<%def name="sum_tile()">\
% for i in range(tap_tile):
__local const SUM *x${i} = strip + tap_at[tile * TAP_TILE + ${i}];
% endfor
__local VECTOR *totals = (__local VECTOR *)(sums + (panel * TAPS + tile * TAP_TILE) * PANEL);
% for i in range(tap_tile):
% for j in range(vectors):
VECTOR s${i}_${j} = 0;
% endfor
% endfor
__local const VECTOR *at = (__local const VECTOR *)turned;
for (int row = 0; row < n_count; ++row) {
    const int row_at = row * row_pitch;
    _Pragma("unroll 4") for (int q = 0; q < q_count; ++q) {
        const int p = row_at + q * STRIDE;
% for j in range(vectors):
        const VECTOR y${j} = at[${j}];
% endfor
% for i in range(tap_tile):
        const SUM v${i} = x${i}[p];
% for j in range(vectors):
        s${i}_${j} = v${i} * y${j} + s${i}_${j};
% endfor
% endfor
        at += VECTORS;
    }
}
% for i in range(tap_tile):
% for j in range(vectors):
totals[${i * vectors + j}] += s${i}_${j};
% endfor
% endfor
</%def>\
<%def name="store()">\
for (int panel = 0; panel < panel_count; ++panel)
    NO_UNROLL for (int e = 0; e < PANEL; ++e) {
        const int o = (panel_first + panel) * PANEL + e;
        if (o >= GROUP_OUT) break;
        const long first = ((long)g * GROUP_OUT + o) * GROUP_IN * KERNEL_SIZE + (long)c_first * KERNEL_SIZE;
        __global SUM *to = partial + partial_offset + share * ${"(WEIGHTS + GROUPS * GROUP_OUT)" if with_bias else "WEIGHTS"} + first;
        __global STORED *only = result + result_offset + first;
        __local const SUM *from = sums + panel * TAPS * PANEL + e;
        for (int t = 0; t < tap_count; ++t) store_share(to + t, only + t, from[t * PANEL], shares, scale, momentum);
% if with_bias:
        if (c_first == 0) {
            const long channel = (long)g * GROUP_OUT + o;
            store_share(partial + partial_offset + share * (WEIGHTS + GROUPS * GROUP_OUT) + WEIGHTS + channel,
                        bias + bias_offset + channel, bias_sums[panel * PANEL + e], shares, scale, bias_momentum);
        }
% endif
    }
</%def>\
__kernel ${attributes}
void weight_gradient_strip(${signature})
{
    ${arrays()}
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        ${begin_task()}
        const long unit_end = units * (share + 1) / shares;
        for (long unit = units * share / shares; unit < unit_end; ++unit) {
            ${sum_unit()}
        }

        ${store()}
    }
}
