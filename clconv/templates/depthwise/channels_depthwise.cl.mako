<%namespace name="channels_" file="channels.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
## channels_depthwise, one channel a group, channels side by side in memory; the forward pass:
##   y[n,q,c] = epilogue(sum_{k<KERNEL_SIZE} weight[c,k] * x[n, q*STRIDE + k*DILATION - lead, c])
## or, with the taps in reverse and a STRIDE of 1 (BACKWARD), the input gradient:
##   y[n,q,c] = epilogue(sum_{k<KERNEL_SIZE} weight[c, KERNEL_SIZE-1-k] * x[n, q + k*DILATION - lead, c])
##   n batch, c channel, k tap, q position written; lead what lies before the first position
##
## For CPUs: one work-item a work-group, whose lanes are channels. It owns BLOCK vectors of LANES
## channels, and a segment of positions, of which it sums VECTORS at a time in registers. Of a STRIDE
## and DILATION of 1 TAP_GROUP taps go together: a vector of x then serves several sums. Dimension 0 is
## tasks, and loops.
##
## x is read in place, and VECTORS rows of y are written side by side, channel after channel, so that
## memory is read and written in long pieces. Near the ends of x positions are summed one by one.
<%
    def weight_of(k):
        return "(KERNEL_SIZE - 1 - (%s))" % k if backward else "(%s)" % k
    rest = kernel_size // tap_group * tap_group if tap_group > 1 else 0
%>\
#define LENGTH ${"out_length" if backward else "length"}  // of the rows read
#define POSITIONS ${"length" if backward else "out_length"}  // of the rows written
#define CHANNELS ${channels}
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define REACH ((KERNEL_SIZE - 1) * DILATION)
#define BLOCK ${block}  // vectors of channels
#define VECTORS ${vectors}  // positions summed at a time
#define TAP_GROUP ${tap_group}

${channels_.lane_functions()}

${epilogue.activation_function()}

## The sums s0, s1, … of that many positions, of what `from` points to.
<%def name="sum_up(count)"><%
    def read(place):
        """The vector of x so many positions behind the first."""
        return "load_vector(from + (%s) * x_position_stride)" % place
%>\
% for j in range(count):
VECTOR s${j} = 0;
% endfor
% if rest:
for (int k = 0; k < ${rest}; k += TAP_GROUP) {
% for b in range(tap_group):
    const VECTOR w${b} = own_taps[k + ${b}];
% endfor
% for i in range(count + tap_group - 1):
    {
        const VECTOR v = ${read("k + %d" % i)};
% for b in range(tap_group):
% if 0 <= i - b < count:
        s${i - b} = w${b} * v + s${i - b};
% endif
% endfor
    }
% endfor
}
% endif
% if rest < kernel_size:
for (int k = ${rest}; k < KERNEL_SIZE; ++k) {
    const VECTOR w = own_taps[k];
% for j in range(count):
    s${j} = w * ${read("%d * STRIDE + k * DILATION" % j)} + s${j};
% endfor
}
% endif
</%def>\
// The sum of one position, anywhere; what lies beyond an end of x is ${"no product" if backward else "zero"}.
static inline VECTOR sum_checked(__local const VECTOR *own_taps, __global const STORED *rows, const long apart,
                                 const long first, const int length, const int there)
{
    VECTOR sum = 0;
    NO_UNROLL for (int k = 0; k < KERNEL_SIZE; ++k) {
        const long p = first + (long)k * DILATION;
        const int inside = p >= 0 && p < length;
% if backward:
        if (inside) sum = own_taps[k] * load_lanes(rows + p * apart, there) + sum;
% else:
        sum = own_taps[k] * (inside ? load_lanes(rows + p * apart, there) : (VECTOR)0) + sum;
% endif
    }
    return sum;
}

__kernel ${attributes}
void channels_depthwise(${signature})
{
    __local VECTOR taps[BLOCK * KERNEL_SIZE] __attribute__((aligned(64)));
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int segment = (int)(task % segments);
        const int c_first = (int)(task / segments % channel_blocks) * (BLOCK * LANES);
        const long n = task / segments / channel_blocks;
        const int vectors = (CHANNELS - c_first + LANES - 1) / LANES < BLOCK ? (CHANNELS - c_first + LANES - 1) / LANES : BLOCK;
        __global const STORED *x_row = x + x_offset + n * x_batch_stride;
        __global STORED *y_row = y + y_offset + n * y_batch_stride;
        for (int b = 0; b < vectors; ++b)
            for (int k = 0; k < KERNEL_SIZE; ++k) {
                LANE_ARRAY w;
                NO_UNROLL for (int e = 0; e < LANES; ++e) {
                    const int c = c_first + b * LANES + e;
                    w.lane[e] = load(weight + weight_offset + (long)(c < CHANNELS ? c : CHANNELS - 1) * KERNEL_SIZE + ${weight_of("k")});
                }
                taps[b * KERNEL_SIZE + k] = w.vector;
            }
        const int q_end = POSITIONS - segment * segment_positions < segment_positions ? POSITIONS : (segment + 1) * segment_positions;
        for (int q_first = segment * segment_positions; q_first < q_end; q_first += VECTORS) {
            const int count = q_end - q_first < VECTORS ? q_end - q_first : VECTORS;
            const long first = (long)q_first * STRIDE - lead;  // position of x
            const int whole = count == VECTORS && first >= 0 && first + REACH + (VECTORS - 1) * STRIDE < LENGTH;
            for (int b = 0; b < vectors; ++b) {
                const int c = c_first + b * LANES, there = CHANNELS - c;
                __local const VECTOR *own_taps = taps + b * KERNEL_SIZE;
                if (whole && there >= LANES) {
                    __global const STORED *from = x_row + first * x_position_stride + c;
                    ${sum_up(vectors)}
% for j in range(vectors):
                    ${channels_.finish("s%d" % j, "c", "q_first + %d" % j, "there")}
% endfor
                    continue;
                }
                NO_UNROLL for (int q = q_first; q < q_first + count; ++q) {
                    const VECTOR sum = sum_checked(own_taps, x_row + c, x_position_stride, (long)q * STRIDE - lead, LENGTH, there);
                    ${channels_.finish("sum", "c", "q", "there")}
                }
            }
        }
    }
}
