<%namespace name="ends" file="ends.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="strip" file="strip.cl.mako"/>\
## convolution_depthwise, one input channel a group, stride 1; the forward pass:
##   y[n,o,q] = epilogue(sum_{k<KERNEL_SIZE} weight[o,k] * x[n, o / MULTIPLIER, q + k*DILATION - pad])
## or, with the taps in reverse (BACKWARD, MULTIPLIER 1), the input gradient:
##   y[n,o,q] = epilogue(sum_{k<KERNEL_SIZE} weight[o, KERNEL_SIZE-1-k] * x[n, o, q + k*DILATION - lead])
##   n batch, o channel written, k tap, q position written; lead what lies before the first position
##
## For CPUs, bound by memory: one work-item a work-group owns rows (n,o) of y, one after the other,
## or a segment of one row.
## Where a window lies inside the row, x is read in place, VECTORS vectors of LANES positions at a
## time; the ends, where it does not, go through a strip in local memory that has zeros around the
## row. Taps go together where they are a whole vector apart, TAP_GROUP at a time: a vector of x then
## serves several vectors of sums. Dimension 0 is tasks, and loops.
##
##          padding  inside_begin                                   inside_end  padding
##   x row  0 0 0 [ . . . . . . . . . . . . . . . . . . . . . . . . . . . . . ] 0 0 0
##   y row        [ strip    | s0 | s1 | … VECTORS, in place, | s0 |     strip ]
<%
    block = tap_stride * tap_group
    grouped = tap_group > 1
    whole_blocks = kernel_size // block if grouped else 0
    rest_first = whole_blocks * block
    def weight_of(k):
        return "(KERNEL_SIZE - 1 - (%s))" % k if backward else "(%s)" % k
    unrolled = kernel_size <= 12
%>\
#define CHANNELS ${channels}  // written
#define LENGTH ${"out_length" if backward else "length"}  // of the rows read
#define POSITIONS ${"length" if backward else "out_length"}  // of the rows written
#define KERNEL_SIZE ${kernel_size}
#define DILATION ${dilation}
#define MULTIPLIER ${multiplier}  // channels written a channel read
#define VECTORS ${vectors}
#define TAP_GROUP ${tap_group}
#define REACH ((KERNEL_SIZE - 1) * DILATION)
#define STRIP_POSITIONS ${strip_positions}  // positions that the strip serves

${strip.functions(1)}

% if backward:
${ends.functions(1, 1, 1)}

% endif
${epilogue.functions()}

## The sums s0, s1, … of that many vectors of positions, of what `from` points to.
<%def name="sum_up(count, staged)"><%
    read = "*(__local const SUMS *)(from + (%s))" if staged else "load_vector(from + (%s))"
%>\
% for j in range(count):
VECTOR s${j} = 0;
% endfor
% if grouped and count > 1:
${sum_groups(count, read)}
for (int k = ${rest_first}; k < KERNEL_SIZE; ++k) {
% else:
${"UNROLL" if unrolled else '_Pragma("unroll 4")'} for (int k = 0; k < KERNEL_SIZE; ++k) {
% endif
    const SUM w = taps[k];
% for j in range(count):
    s${j} = w * ${read % ("k * DILATION + %d * LANES" % j)} + s${j};
% endfor
}
</%def>\
<%def name="sum_groups(count, read)">\
for (int k0 = 0; k0 < ${rest_first}; k0 += ${block})
    for (int k = k0; k < k0 + ${tap_stride}; ++k) {
% for b in range(tap_group):
        const SUM w${b} = taps[k + ${b * tap_stride}];
% endfor
% for i in range(count + tap_group - 1):
        {
            const VECTOR v = ${read % ("k * DILATION + %d * LANES" % i)};
% for b in range(tap_group):
% if 0 <= i - b < count:
            s${i - b} = w${b} * v + s${i - b};
% endif
% endfor
        }
% endfor
    }
</%def>\
## Whole vectors whose windows lie inside the row.
<%def name="read_in_place()">\
for (; q + VECTORS * LANES <= inside_end; q += VECTORS * LANES) {
    __global const STORED *from = x_row + (q - lead);
    ${sum_up(vectors, False)}
% for j in range(vectors):
    {
        const int inside = 1;
        ${epilogue.finish("s%d" % j, "o", "q + %d * LANES" % j, "1", "0", "end")}
    }
% endfor
}
for (; q + LANES <= inside_end; q += LANES) {
    __global const STORED *from = x_row + (q - lead);
    const int inside = 1;
    ${sum_up(1, False)}
    ${epilogue.finish("s0", "o", "q", "1", "0", "end")}
}
</%def>\
## The positions from q on that the strip serves.
<%def name="read_staged()">\
const int wanted = whole < STRIP_POSITIONS ? whole : STRIP_POSITIONS;
stage(strip, x_row, (long)q - lead, wanted + REACH, LENGTH, 0);
int t = 0;
while (t < wanted) {
    __local const SUM *from = strip + t;
% if not direct:
    if (t + VECTORS * LANES <= wanted && ${"q >= inside_begin && q + VECTORS * LANES <= inside_end" if backward else "q + VECTORS * LANES <= end"}) {
        const int inside = 1;
        ${sum_up(vectors, True)}
% for j in range(vectors):
        ${epilogue.finish("s%d" % j, "o", "q + %d * LANES" % j, "1", "0", "end")}
% endfor
        t += VECTORS * LANES, q += VECTORS * LANES;
        continue;
    }
% endif
    const int inside = q + LANES <= end;
    ${sum_up(1, True)}
% if backward:
    const SUM all = sum_lanes(s0);
    if (all != all)
        s0 = sums_inside(s0, LANES, x_row, 0, row_taps, q - lead + REACH, LENGTH);
% endif
    ${epilogue.finish("s0", "o", "q", "1", "0", "end")}
    t += LANES, q += LANES;
}
</%def>\
__kernel ${attributes}
void convolution_depthwise(${signature})
{
    __local SUM strip[STRIP_POSITIONS + ${-(-((kernel_size - 1) * dilation) // 64) * 64}] __attribute__((aligned(64)));
    SUM taps[KERNEL_SIZE];
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const long row_begin = task / segments * task_rows;
        const long row_end = row_begin + task_rows < rows ? row_begin + task_rows : rows;
        const int begin = (int)(task % segments) * segment;
        const int end = POSITIONS - begin < segment ? POSITIONS : begin + segment;
        // Whole windows: inside_begin <= q < inside_end.
        const int inside_begin = lead > begin ? lead : begin;
        const int inside_end = LENGTH - REACH + lead < end ? LENGTH - REACH + lead : end;
        for (long row = row_begin; row < row_end; ++row) {
            const long n = row / CHANNELS;
            const int o = (int)(row % CHANNELS);
            __global const STORED *x_row = x + x_offset + n * x_batch_stride + (o / MULTIPLIER) * x_channel_stride;
            __global const STORED *row_taps = weight + weight_offset + (long)o * KERNEL_SIZE;
            for (int k = 0; k < KERNEL_SIZE; ++k) taps[k] = load(row_taps + ${weight_of("k")});

            int q = begin;
            while (q < end) {
% if direct:
                if (q >= inside_begin && q + LANES <= inside_end) {
                    ${read_in_place()}
                    continue;
                }
                // To where the windows are whole, or to the end.
                const int stop = q < inside_begin && inside_begin + LANES <= inside_end ? inside_begin : end;
                const int whole = (stop - q + LANES - 1) / LANES * LANES;
% else:
                const int whole = (end - q + LANES - 1) / LANES * LANES;
% endif
                ${read_staged()}
            }
        }
    }
}
