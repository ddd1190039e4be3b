<%namespace name="channels" file="channels.cl.mako"/>\
## transpose: y[n, r*y_step + s] = x[n, s*x_step + r] for r < rows and s < columns
##   n a matrix, which begins x_batch and y_batch elements behind the one before
##
## For CPUs: one work-item a work-group, which owns BLOCK rows r of a matrix times BLOCK columns s, in
## turn. Four columns of LANES rows are turned in registers. Dimension 0 is such blocks, and loops.
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
        r_whole = r_count / LANES * LANES, s_whole = s_count / 4 * 4;
        for (int s = 0; s < s_whole; s += 4)
            for (int r = 0; r < r_whole; r += LANES) {
                __global const STORED *at = from + s * x_step + r;
                VECTOR v[4] = {load_vector(at), load_vector(at + x_step), load_vector(at + 2 * x_step), load_vector(at + 3 * x_step)};
                turn_four(v);
                __global STORED *into = to + r * y_step + s;
% for e in range(lanes):
                *(__global FOUR *)(into + ${e} * y_step) = ${channels.four("v[%d]" % (e % 4), e // 4)};
% endfor
            }
% endif
        for (int r = 0; r < r_count; ++r)
            for (int s = r < r_whole ? s_whole : 0; s < s_count; ++s) to[r * y_step + s] = from[s * x_step + r];
    }
}
