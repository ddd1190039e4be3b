## Rows of channels turned in local memory, so that channels lie side by side: a panel of PANEL of them.
<%def name="functions()">\
% if dtype == "float32" and lanes % 4 == 0:
typedef float4 QUAD __attribute__((aligned(4)));

% endif
// turned[i * PANEL + o] = rows[o][i] for i < count, with zeros for the channels behind the last one.
static inline void turn(__local SUM *turned, __global const STORED *rows, const long channel_stride, const int channels, const int count)
{
    NO_UNROLL for (int o = 0; o < PANEL; o += LANES) {
        __global const STORED *from = rows + o * channel_stride;
        const int there = channels - o;
        int i = 0;
% if dtype == "float32" and lanes % 4 == 0:
        if (there >= LANES)
            for (; i + 4 <= count; i += 4) {
                ${turn_quads()}
            }
% endif
        for (int e = 0; e < LANES; ++e) {
            __local SUM *to = turned + o + e;
            if (e < there) for (int p = i; p < count; ++p) to[p * PANEL] = load(from + e * channel_stride + p);
            else for (int p = i; p < count; ++p) to[p * PANEL] = 0;
        }
    }
}
</%def>\
## Four rows of y turned at a time, four positions of each.
<%def name="turn_quads()"><%
    def columns(a, b, first, pairs):
        """The lanes of a and b: of each four `first` and the next one, alternately or in pairs."""
        parts = []
        for q in range(0, lanes, 4):
            near, far = q + first, q + first + 1
            lane = "%s.s%x".__mod__
            order = ((a, near), (a, far), (b, near), (b, far)) if pairs else ((a, near), (b, near), (a, far), (b, far))
            parts += map(lane, order)
        return "(VECTOR)(%s)" % ", ".join(parts)
%>\
// The rows that come next: two times LANES streams are too many to be foreseen.
if (there >= 2 * LANES && i % 16 == 0) {
% for e in range(lanes):
    PREFETCH(from + ${lanes + e} * channel_stride + i, 0);
% endfor
}
% for e in range(4):
const VECTOR a${e} = (VECTOR)(${", ".join("*(__global const QUAD *)(from + %d * channel_stride + i)" % (e + 4 * b) for b in range(lanes // 4))});
% endfor
const VECTOR b0 = ${columns("a0", "a1", 0, False)}, b1 = ${columns("a0", "a1", 2, False)};
const VECTOR b2 = ${columns("a2", "a3", 0, False)}, b3 = ${columns("a2", "a3", 2, False)};
__local SUM *to = turned + i * PANEL + o;
*(__local SUMS *)to = ${columns("b0", "b2", 0, True)};
*(__local SUMS *)(to + PANEL) = ${columns("b0", "b2", 2, True)};
*(__local SUMS *)(to + 2 * PANEL) = ${columns("b1", "b3", 0, True)};
*(__local SUMS *)(to + 3 * PANEL) = ${columns("b1", "b3", 2, True)};
</%def>\
