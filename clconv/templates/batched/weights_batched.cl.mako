<%namespace name="batched" file="batched.cl.mako"/>\
## weights_batched: planes_weight[v][g][c][m] = number v of the taps of channel m written and c read,
##   both of all phases of a stride:
##   tap i < TAPS: the weight k = i*STRIDE + phase, of taps in reverse (BACKWARD) TAPS - 1 - i in place of i;
##   0 where there is no such weight; phase: of the channel read (forward), or written (backward)
##
## For GPUs: a work-item owns the taps of one m and c, neighbours the next m; they come through local
## memory. Channels that fill tiles of products are zeros. Dimension 0 is blocks of m, 1 and 2 are rows of
## g and c.
<%
    # Without phases there is no need to divide.
    phases = stride > 1
    if backward:
        tap = "(TAPS - 1 - i) * STRIDE" + " + m / written" * phases
        first = "channels + c) * written + m" + " % written" * phases
    else:
        tap = "i * STRIDE" + " + c / channels" * phases
        first = "written + m) * channels + c" + " % channels" * phases
%>\
#define TAPS ${taps}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define ITEMS ${items}
#define PITCH ${taps + 1 - taps % 2}  // odd, so that neighbours read different banks
${batched.constants()}

__kernel ${attributes}
void weights_batched(${signature})
{
    __local SUM taps[ITEMS * PITCH];
    ${batched.row_of_group()}
    const int g = row / term_pitch, c = row % term_pitch;
    // Several at once, so that one waits for memory beside the next.
    _Pragma("unroll ${fetch_count}") for (int e = item; e < ITEMS * TAPS; e += ITEMS) {
        const int m = block * ITEMS + e / TAPS, i = e % TAPS;
        const int k = ${tap};
        const int ok = m < rows_there && c < terms && k < KERNEL_SIZE;
        const long at = (((long)g * ${first}) * KERNEL_SIZE + k;
        const SUM value = load(weight + weight_offset + (ok ? at : 0));
        taps[e / TAPS * PITCH + i] = ok ? value : (SUM)0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    __local const SUM *own = taps + item * PITCH;
    __global SUM *to = planes_weight + planes_weight_offset + (long)row * row_pitch + block * ITEMS;
    ${batched.run("const SUM {0} = own[{1}];", "to[item] = {0}, to += (long)rows * row_pitch;")}
}
