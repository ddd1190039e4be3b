## Where channels lie side by side in memory and vectors hold positions: four vectors are turned at a
## time, so that memory is read and written in pieces of at least four elements.
<%def name="functions()"><%
    sum = "double" if dtype == "float64" else "float"
    def columns(a, b, first, pairs):
        """The lanes of a and b: of each four `first` and the next one, alternately or in pairs."""
        lanes_ = []
        for q in range(0, lanes, 4):
            near, far = q + first, q + first + 1
            order = ((a, near), (a, far), (b, near), (b, far)) if pairs else ((a, near), (b, near), (a, far), (b, far))
            lanes_ += map("%s.s%x".__mod__, order)  # no comprehension: old releases of Mako miss its names
        return "(VECTOR)(%s)" % ", ".join(lanes_)
%>\
% if lanes % 4 == 0:
// Four elements anywhere in memory.
typedef ${sum}4 FOUR __attribute__((aligned(${8 if dtype == "float64" else 4})));

// Of each four lanes, lane i of v[j] becomes lane j of v[i].
static inline void turn_four(VECTOR v[4])
{
    const VECTOR a = ${columns("v[0]", "v[1]", 0, False)}, b = ${columns("v[0]", "v[1]", 2, False)};
    const VECTOR c = ${columns("v[2]", "v[3]", 0, False)}, d = ${columns("v[2]", "v[3]", 2, False)};
    v[0] = ${columns("a", "c", 0, True)};
    v[1] = ${columns("a", "c", 2, True)};
    v[2] = ${columns("b", "d", 0, True)};
    v[3] = ${columns("b", "d", 2, True)};
}
% endif
</%def>\
## Lanes 4 b … 4 b + 3 of a vector.
<%def name="four(v, b)">${v if lanes == 4 else "%s.s%s" % (v, "".join("%x" % (4 * b + e) for e in range(4)))}</%def>\
##
## Reading. `step` positions lie between those that follow one another in the strip.
<%def name="stage_functions(step)">\
% if lanes % 4 == 0:
// to[c * pitch + t] = from[t * apart + c] for c < LANES and t < count.
static inline void stage_block(__local SUM *to, const int pitch, __global const STORED *from, const long apart, const int count)
{
    int t = 0;
    for (; t + 4 <= count; t += 4, from += 4 * apart) {
        VECTOR v[4] = {load_vector(from), load_vector(from + apart), load_vector(from + 2 * apart), load_vector(from + 3 * apart)};
        turn_four(v);
% for e in range(lanes):
        *(__local FOUR *)(to + ${e} * pitch + t) = ${four("v[%d]" % (e % 4), e // 4)};
% endfor
    }
    for (; t < count; ++t, from += apart) {
        LANE_ARRAY v;
        v.vector = load_vector(from);
        NO_UNROLL for (int e = 0; e < LANES; ++e) to[e * pitch + t] = v.lane[e];
    }
}

% endif
// to[c * pitch + t] = row[(first + t * ${step}) * apart + c] for c < channels and t < count, 0 where
// first + t * ${step} lies outside 0 <= … < length.
static inline void stage_channels(__local SUM *to, const int pitch, __global const STORED *row, const long apart,
                                  const int channels, const long first, const int count, const int length)
{
    const long inside_begin = first < 0 ? (${step - 1} - first) / ${step} : 0;
    const long inside_end = first < length ? (length - 1 - first) / ${step} + 1 : 0;
    const int begin = inside_begin < count ? (int)inside_begin : count;
    const int end = inside_end < begin ? begin : inside_end < count ? (int)inside_end : count;
    __global const STORED *from = row + (first + (long)begin * ${step}) * apart;
    for (int c = 0; c < channels; ++c) {
        for (int t = 0; t < begin; ++t) to[c * pitch + t] = 0;
        for (int t = end; t < count; ++t) to[c * pitch + t] = 0;
    }
% if lanes % 4 == 0:
    if (channels >= LANES) {
        // The last vector of channels begins early, to be whole.
        for (int c_next = 0; c_next < channels; c_next += LANES) {
            const int c = c_next + LANES <= channels ? c_next : channels - LANES;
            stage_block(to + c * pitch + begin, pitch, from + c, apart * ${step}, end - begin);
        }
        return;
    }
% endif
    for (int t = begin; t < end; ++t, from += apart * ${step})
        for (int c = 0; c < channels; ++c) to[c * pitch + t] = load(from + c);
}
</%def>\
##
## Writing, and what is read beside it.
<%def name="four_functions()">\
// LANES elements, `apart` from each other.
static inline void store_apart(__global STORED *at, const long apart, const VECTOR v)
{
% for e in range(lanes):
    store(at + ${e} * apart, ${"v.s%x" % e if lanes > 1 else "v"});
% endfor
}

// The same of four channels, which lie side by side.
static inline void store_four(__global STORED *at, const long apart, const VECTOR v0, const VECTOR v1, const VECTOR v2, const VECTOR v3)
{
% if lanes % 4 == 0:
    VECTOR v[4] = {v0, v1, v2, v3};
    turn_four(v);
% for e in range(lanes):
% if is_short:
% for i in range(4):
    store(at + (${e} * apart + ${i}), v[${e % 4}].s${"%x" % (e // 4 * 4 + i)});
% endfor
% else:
    *(__global FOUR *)(at + ${e} * apart) = ${four("v[%d]" % (e % 4), e // 4)};
% endif
% endfor
% else:
% for i in range(4):
    store_apart(at + ${i}, apart, v${i});
% endfor
% endif
}
% if "residual" in bound:

// What store_four stored.
static inline void load_four(__global const STORED *at, const long apart, VECTOR v[4])
{
% if lanes % 4 == 0 and not is_short:
% for i in range(4):
    v[${i}] = (VECTOR)(${", ".join("*(__global const FOUR *)(at + %d * apart)" % (4 * b + i) for b in range(lanes // 4))});
% endfor
    turn_four(v);
% else:
% for i in range(4):
    v[${i}] = (VECTOR)(${", ".join("load(at + (%d * apart + %d))" % (e, i) for e in range(lanes))});
% endfor
% endif
}
% endif
</%def>\
## What is done to four channels of sums v[0] … v[3] of positions from `at` on before they are stored.
<%def name="finish_four(channel, at)"><%
    def place(name):
        return "{0} + {0}_offset + n * {0}_batch_stride + (long)({1}) * {0}_position_stride + {2}, {0}_position_stride".format(name, at, channel)
    values = "v[0], v[1], v[2], v[3]"
%>\
% if "bias" in bound:
for (int e = 0; e < 4; ++e) v[e] += (VECTOR)load(bias + bias_offset + ${channel} + e);
% endif
% if "residual" in bound:
VECTOR beside[4];
load_four(${place("residual")}, beside);
for (int e = 0; e < 4; ++e) v[e] += beside[e];
% endif
% if "pre_activation" in bound:
store_four(${place("pre_activation")}, ${values});
% endif
% if activation:
NO_UNROLL for (int e = 0; e < 4; ++e) v[e] = activate(v[e], slope);
% endif
store_four(${place("y")}, ${values});
</%def>\
##
## Lanes that are channels.
<%def name="lane_functions()">\
// The first `there` lanes in memory; the others are 0, or left alone.
static inline VECTOR load_lanes(__global const STORED *at, const int there)
{
    if (there >= LANES) return load_vector(at);
    LANE_ARRAY v;
    NO_UNROLL for (int e = 0; e < LANES; ++e) v.lane[e] = e < there ? load(at + (e < there ? e : 0)) : (SUM)0;
    return v.vector;
}

static inline void store_lanes(__global STORED *at, const VECTOR value, const int there)
{
    if (there >= LANES) {
        store_vector(at, value);
        return;
    }
    LANE_ARRAY v;
    v.vector = value;
    NO_UNROLL for (int e = 0; e < there; ++e) store(at + e, v.lane[e]);
}
</%def>\
## What is done to the sums of LANES channels, of which `there` are, at position `at` before they are
## stored.
<%def name="finish(sums, channel, at, there)"><%
    def place(name):
        return "{0} + {0}_offset + n * {0}_batch_stride + (long)({1}) * {0}_position_stride + {2}".format(name, at, channel)
%>\
{
    VECTOR value = ${sums};
% if "bias" in bound:
    value += load_lanes(bias + bias_offset + ${channel}, ${there});
% endif
% if "residual" in bound:
    value += load_lanes(${place("residual")}, ${there});
% endif
% if "pre_activation" in bound:
    store_lanes(${place("pre_activation")}, value, ${there});
% endif
% if activation:
    value = activate(value, slope);
% endif
    store_lanes(${place("y")}, value, ${there});
}
</%def>\
