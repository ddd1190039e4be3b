<%namespace name="channels" file="channels.cl.mako"/>\
## transpose: y[n, r*y_step + s] = x[n, s*x_step + r] for r < rows and s < columns
##   n a matrix, which begins x_batch and y_batch elements behind the one before
##
## For CPUs: one work-item a work-group, which owns BLOCK rows r of a matrix times BLOCK columns s, in
## turn. LANES columns of LANES rows are
## turned in registers, so that whole lines are written. Dimension 0 is such blocks, and loops.
#define BLOCK ${block}

% if dtype != "float16":
${channels.functions()}
% endif

__kernel ${attributes}
void transpose(${signature})
{
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long column_blocks = (columns + BLOCK - 1) / BLOCK, row_blocks = (rows + BLOCK - 1) / BLOCK;
        const long s_first = task % column_blocks * BLOCK, r_first = task / column_blocks % row_blocks * BLOCK;
        const long n = task / column_blocks / row_blocks;
        const int s_count = columns - s_first < BLOCK ? (int)(columns - s_first) : BLOCK;
        const int r_count = rows - r_first < BLOCK ? (int)(rows - r_first) : BLOCK;
        __global const STORED *from = x + x_offset + n * x_batch + s_first * x_step + r_first;
        __global STORED *to = y + y_offset + n * y_batch + r_first * y_step + s_first;
        int r_whole = 0, s_whole = 0;
% if lanes % 4 == 0 and dtype != "float16":
        r_whole = r_count / LANES * LANES, s_whole = s_count / LANES * LANES;
        for (int s = 0; s < s_whole; s += LANES)
            for (int r = 0; r < r_whole; r += LANES) {
                __global const STORED *at = from + s * x_step + r;
                __global STORED *into = to + r * y_step + s;
% for q in range(lanes // 4):
                VECTOR v${q}[4] = {${", ".join("load_vector(at + %d * x_step)" % (4 * q + e) for e in range(4))}};
                turn_four(v${q});
% endfor
% for e in range(lanes):
                store_vector(into + ${e} * y_step, (VECTOR)(${", ".join(capture(channels.four, "v%d[%d]" % (q, e % 4), e // 4) for q in range(lanes // 4))}));
% endfor
            }
% endif
        for (int r = 0; r < r_count; ++r)
            for (int s = r < r_whole ? s_whole : 0; s < s_count; ++s) to[r * y_step + s] = from[s * x_step + r];
    }
}
