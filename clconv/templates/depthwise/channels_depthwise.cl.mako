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
## With few taps x is read in place (direct): VECTORS rows of y are written side by side, channel after
## channel, so that memory is read and written in long pieces. With more of them the vectors of x that
## CHUNK positions need are copied to a strip in local memory first, with zeros for the padding:
##   strip[b][t] = x[n, q_first*STRIDE + t - lead, (block*BLOCK + b)*LANES …], t <= REACH + (CHUNK-1)*STRIDE
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
#define CHUNK ${chunk}  // positions that follow one another before the next task
#define VECTORS ${vectors}  // positions summed at a time
#define TAP_GROUP ${tap_group}
% if not direct:
#define STRIP (REACH + (CHUNK - 1) * STRIDE + 1)  // vectors of the strip a vector of channels
% endif

${channels_.lane_functions()}

${epilogue.activation_function()}

## The sums s0, s1, … of that many positions, of what `from` points to.
<%def name="sum_up(count)"><%
    def read(place):
        """The vector of x so many positions behind the first."""
        return "load_vector(from + (%s) * x_position_stride)" % place if direct else "from[%s]" % place
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
% if direct:
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

% elif backward:
// v with those lanes that are NaN summed again, of the products that there are: beyond an end of x
// others were made with zeros, and 0 * infinity is NaN.
static inline VECTOR sum_inside(const VECTOR v, __local const VECTOR *own_taps, __global const STORED *rows, const long apart,
                                const long first, const int length, const int there)
{
    const SUM all = sum_lanes(v);
    if (all == all) return v;
    VECTOR sum = 0;
    NO_UNROLL for (int k = 0; k < KERNEL_SIZE; ++k) {
        const long p = first + (long)k * DILATION;
        if (p >= 0 && p < length) sum = own_taps[k] * load_lanes(rows + p * apart, there) + sum;
    }
    return v == v ? v : sum;
}

% endif
__kernel ${attributes}
void channels_depthwise(${signature})
{
% if not direct:
    __local VECTOR strip[BLOCK * STRIP] __attribute__((aligned(64)));
% endif
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
        for (int q_first = segment * segment_positions; q_first < q_end; q_first += CHUNK) {
            const int count = q_end - q_first < CHUNK ? q_end - q_first : CHUNK;
% if not direct:
            ${stage()}
% endif
            for (int t_first = 0; t_first < count; t_first += VECTORS) {
                const int t_end = t_first + VECTORS < count ? t_first + VECTORS : count;
                const long first = (long)(q_first + t_first) * STRIDE - lead;  // position of x
                const int near_end = first < 0 || first + REACH + (VECTORS - 1) * STRIDE >= LENGTH;
                const int whole = t_first + VECTORS <= count${" && !near_end" if direct else ""};
                for (int b = 0; b < vectors; ++b) {
                    const int c = c_first + b * LANES, there = CHANNELS - c;
                    __local const VECTOR *own_taps = taps + b * KERNEL_SIZE;
                    if (whole${" && there >= LANES" if direct else ""}) {
                        ${tile()}
                    }
                    ${one_by_one()}
                }
            }
        }
    }
}
<%def name="tile()">\
% if direct:
__global const STORED *from = x_row + first * x_position_stride + c;
% else:
__local const VECTOR *from = strip + b * STRIP + t_first * STRIDE;
% endif
${sum_up(vectors)}
% if backward and not direct:
int odd = near_end;
if (odd) {
    const SUM all = sum_lanes(${" + ".join("s%d" % j for j in range(vectors))});
    odd = all != all;
}
if (!odd)
% endif
{
% for j in range(vectors):
    ${channels_.finish("s%d" % j, "c", "q_first + t_first + %d" % j, "there")}
% endfor
    continue;
}
</%def>\
## Where there are fewer, at the ends, or where a sum near an end is NaN.
<%def name="one_by_one()">\
NO_UNROLL for (int t = t_first; t < t_end; ++t) {
    const long first = (long)(q_first + t) * STRIDE - lead;
% if direct:
    const VECTOR s0 = sum_checked(own_taps, x_row + c, x_position_stride, first, LENGTH, there);
% else:
    __local const VECTOR *from = strip + b * STRIP + t * STRIDE;
    ${sum_up(1)}
% if backward:
    s0 = sum_inside(s0, own_taps, x_row + c, x_position_stride, first, LENGTH, there);
% endif
% endif
    ${channels_.finish("s0", "c", "q_first + t", "there")}
}
</%def>\
<%def name="stage()">\
const long p_first = (long)q_first * STRIDE - lead;
const int wanted = REACH + (count - 1) * STRIDE + 1;
for (int t = 0; t < wanted; ++t) {
    const long p = p_first + t;
    __global const STORED *from = x_row + p * x_position_stride + c_first;
    for (int b = 0; b < vectors; ++b)
        strip[b * STRIP + t] = p >= 0 && p < LENGTH ? load_lanes(from + b * LANES, CHANNELS - c_first - b * LANES) : (VECTOR)0;
}
</%def>\
