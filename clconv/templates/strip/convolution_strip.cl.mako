<%namespace name="ends" file="ends.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="strip" file="strip.cl.mako"/>\
## convolution_strip, the forward pass:
##   y[n,m,q] = epilogue(sum_{c<TERMS, k<KERNEL_SIZE}
##                       weight[m,c,k] * x[n, g*TERMS + c, q*STRIDE + k*DILATION - pad])
## or the input gradient (BACKWARD), with t = p + pad = u*STRIDE + r for an input position p:
##   y[n,m,p] = epilogue(sum_{c<TERMS, k = first tap of r + i*TAP_STEP}
##                       weight[c,m,k] * x[n, g*TERMS + c, u + SHIFT(r) - i*TAP_BACK])
##   n batch, g group, m channel written, c channel of g summed over, k tap; forward reads the
##   input and writes output positions q, backward reads the output's gradient
##
## For CPUs: one work-item a work-group. It owns some tiles of CHANNEL_TILE channels m, and of
## positions (q, or u in every phase r) either a chunk of one row or all of several rows. It copies
## the part of x that these need, with zeros for the padding, into the strip in local memory, once
## for all its channels; then sums, in registers, CHANNEL_TILE x VECTORS vectors of LANES positions
## at a time. No test is left in the inner loop. TOGETHER tiles of channels follow one another at the
## same positions, whose piece of the strip they find in the first-level cache.
##   strip[c][n][b][t] = x[n, c, (first + t)*STRIDE + b*DILATION - pad], b < ROWS: tap k = b + i*ROWS
##   finds its x at t = q - first + i*SPACING. Backward ROWS is 1 or, where the taps of a stride of 1
##   lie far apart, KERNEL_SIZE: a row for each tap.
## Where the strip cannot hold all channels c, they come in blocks of TERM_BLOCK, and the sums wait
## in `held` meanwhile. Dimension 0 is tasks, and loops.
<%
    taps = kernel_size
    weight_out = weight_strides[0] if not packed else 1
    weight_in = weight_strides[1] if not packed else kernel_size * channel_tile
    weight_tap = 1 if not packed else channel_tile
    weight_space = "__local const SUM" if packed else "__global const STORED"
    tiles = -(-channels // channel_tile)
    tile_at = [(i, j) for i in range(channel_tile) for j in range(vectors)]
    step = 1 if backward else stride
    unrolled = taps * channel_tile * vectors <= 144 and (not backward or stride == 1)
    blocked = held_elements > 0
    plain_end = activation in (None, "relu", "leaky_relu") and not {"residual", "pre_activation"} & set(bound)
    phases = stride if backward else 1
    grouped = tap_group > 1
    paired = not backward and (stride, dilation, rows) == (2, 1, 2) and lanes > 1
    # Beside few taps the addresses of many rows count, and what comes before and after the sums.
    side_by_side = rows > 1 and terms * taps <= 32 and vectors > 1
    straight = together > 1 and terms * taps <= 16 and phases == 1 and plain_end
    block = tap_group * apart
    arrays = [("SUM", "strip", "STRIP")]
    if blocked:
        arrays.append(("SUM", "held", held_elements))
    if packed:
        arrays.append(("SUM", "panel", "TOGETHER * PANEL"))
    if phases > 1:
        arrays.append(("SUM", "woven", "CHANNEL_TILE * VECTORS * LANES * STRIDE"))
    def weight_at(k):
        # Backward the strip is walked through from its far end to its near one.
        return "(%s) * %d" % (k if not backward else "KERNEL_SIZE - 1 - (%s)" % k, weight_tap)
%>\
#define TERMS ${terms}              // channels summed over, a group
#define CHANNELS ${channels}           // channels written, a group
#define KERNEL_SIZE ${kernel_size}
#define STRIDE ${stride}
#define DILATION ${dilation}
#define GROUPS ${groups}
#define CHANNEL_TILE ${channel_tile}       // channels a tile
#define VECTORS ${vectors}            // vectors of positions a tile
#define TILES ${tiles}              // tiles of channels a group
#define TOGETHER ${together}           // tiles of channels that share a piece of the strip
#define TERM_BLOCK ${term_block}         // channels summed over that the strip holds
#define STRIP ${strip_elements}              // its elements
% if backward:
#define COMMON ${common}             // gcd(STRIDE, DILATION): other phases have no taps
#define TAP_STEP ${stride // common}           // distance of the taps of a phase
#define TAP_BACK ${dilation // common}           // distance of what they read
#define TAP_INVERSE ${tap_inverse}        // of TAP_BACK modulo TAP_STEP
% endif
#define ROWS ${rows}               // rows of the strip that a channel has
% if not backward:
#define SPACING ${spacing}            // distance of two taps of a row
% endif

% if channels % channel_tile:
// The last tile begins early, to be whole, and does not store what its neighbour does.
#define FIRST_CHANNEL(tile) min(((tile) - g * TILES) * CHANNEL_TILE, CHANNELS - CHANNEL_TILE)
% else:
#define FIRST_CHANNEL(tile) (((tile) - g * TILES) * CHANNEL_TILE)
% endif
% if packed:
#define PANEL (TERM_BLOCK * KERNEL_SIZE * CHANNEL_TILE)  // weights of a tile
% endif

${strip.functions(step)}
% if backward:
${ends.functions(terms, channels, stride)}
% endif
${epilogue.functions()}\

% if paired:
// Two rows at once, whose elements lie alternately: to[b * pitch + t] = row[first + 2 * t + b], b < 2,
// t < count, or 0, as stage() does it for one.
static inline void stage_pair(__local SUM *to, const int pitch, __global const STORED *row, const long first, const int count, const int length, const long next)
{
    int t = 0;
    if (first >= 0) {
        __global const STORED *from = row + first;
        if (next)
            for (int e = 0; e < 2 * count; e += ${line}) PREFETCH(from + next + e, 0);
        for (; t < count && first + 2 * (t + LANES) <= length; t += LANES) {
            const VECTOR low = load_vector(from + 2 * t), high = load_vector(from + 2 * t + LANES);
            *(__local SUMS *)(to + t) = (VECTOR)(low.even, high.even);
            *(__local SUMS *)(to + pitch + t) = (VECTOR)(low.odd, high.odd);
        }
    }
    for (int b = 0; b < 2; ++b) stage(to + b * pitch + t, row, first + 2 * t + b, count - t, length, 0);
}
% endif
% if grouped:
// ${tap_group} taps of one channel that lie a vector apart in the strip, ${apart} taps from each other: a vector
// of it then serves several sums.
#define TAPS(at, k) { \
% for b in range(tap_group):
    const SUM w${b} = ${("w[%s]" if packed or dtype != "float16" else "load(w + (%s))") % weight_at("(k) + %d" % (b * apart))}; \
% endfor
% for i in range(vectors + tap_group - 1):
    { const VECTOR v = *(__local const SUMS *)(strip0 + (at) + ${i} * LANES); \
% for b in range(tap_group):
% if 0 <= i - b < vectors:
    s0_${i - b} = w${b} * v + s0_${i - b}; \
% endif
% endfor
    } \
% endfor
}
% endif
<%def name="tap(name, strip_of)">\
#define ${name}(at, w) { \
% for j in range(vectors):
    const VECTOR x${j} = *(__local const SUMS *)(${strip_of(j)} + (at)); \
% endfor
% for i in range(channel_tile):
    const SUM w${i} = ${"(w)[%d]" % (i * weight_out) if packed or dtype != "float16" else "load((w) + %d)" % (i * weight_out)}; \
% for j in range(vectors):
    s${i}_${j} = w${i} * x${j} + s${i}_${j}; \
% endfor
% endfor
}
</%def>\
// One tap: ${channel_tile} weights at w times VECTORS vectors of the strip at `at`.
${tap("TAP", "strip{}".format)}\
% if side_by_side:
// The same where the vectors lie side by side, which takes fewer addresses.
${tap("TAP_WHOLE", lambda j: "strip0 + %d * LANES" % j)}\
% endif

<%def name="sums(tap)">\
% if unrolled:
                    ${"_Pragma(\"unroll 4\") " if taps * channel_tile * vectors <= 24 else ""}for (int c = 0; c < c_count; ++c) {
                        const int at = c * channel_pitch;
                        ${weight_space} *w = weights + ${"c * %d" % weight_in if weight_in < 2**20 else "(long)c * %d" % weight_in};
% for k in range(taps):
% if backward and rows == 1:
                        ${tap}(at + ${(taps - 1 - k) * dilation}, w + ${k * weight_tap})
% elif backward:
                        ${tap}(at + ${k} * tap_row_pitch, w + ${k * weight_tap})
% else:
                        ${tap}(at + ${"" if rows == 1 else "%d * tap_row_pitch + " % (k % rows)}${k // rows} * SPACING, w + ${k * weight_tap})
% endif
% endfor
                    }
% else:
                    for (int c = 0; c < c_count; ++c) {
% if backward:
% if phases > 1:
                        int at = c * channel_pitch + phase_at;
                        ${weight_space} *w = weights + (long)c * ${weight_in} + first_tap * ${weight_tap};
                        _Pragma("unroll 4") for (int i = 0; i < tap_count; ++i) {
                            ${tap}(at, w)
                            at -= TAP_BACK;
                            w += TAP_STEP * ${weight_tap};
                        }
% else:
                        int at = c * channel_pitch${" + (KERNEL_SIZE - 1) * DILATION" if rows == 1 else ""};
                        ${weight_space} *w = weights + (long)c * ${weight_in};
                        _Pragma("unroll 4") for (int i = 0; i < KERNEL_SIZE; ++i) {
                            ${tap}(at, w)
                            at ${"-= DILATION" if rows == 1 else "+= tap_row_pitch"};
                            w += ${weight_tap};
                        }
% endif
% else:
                        for (int b = 0; b < ROWS; ++b) {
                            int at = c * channel_pitch + b * tap_row_pitch;
                            ${weight_space} *w = weights + (long)c * ${weight_in} + b * ${weight_tap};
                            _Pragma("unroll 4") for (int k = b; k < KERNEL_SIZE; k += ROWS) {
                                ${tap}(at, w)
                                at += SPACING;
                                w += ROWS * ${weight_tap};
                            }
                        }
% endif
                    }
% endif
</%def>\
## A count, not a test: of a loop with a test that is the same each time compilers make two.
<%def name="made_again(sum, t)">\
                            ${sum} = sums_inside(${sum}, odd * LANES, x + x_offset + n * x_batch_stride + (long)g * TERMS * x_channel_stride, x_channel_stride,
                                                 weight + weight_offset + ((long)g * TERMS * CHANNELS + m + i) * KERNEL_SIZE, ${t}, out_length);
</%def>\
<%kernel:of_groups name="convolution_strip" arrays="${arrays}">\
    for (long task = group; task < tasks; task += groups) {
        const long place = task % position_blocks;
        const int tile_begin = (int)(task / position_blocks) * task_tiles;
        const int tile_end = tile_begin + task_tiles < TILES * GROUPS ? tile_begin + task_tiles : TILES * GROUPS;
        const int n_first = (int)(place / chunks) * block_rows;
        const int vector_first = (int)(place % chunks) * chunk_vectors;
        const int n_count = batch - n_first < block_rows ? batch - n_first : block_rows;
        const int row_count = row_vectors - vector_first < chunk_vectors ? row_vectors - vector_first : chunk_vectors;
        const int vector_count = n_count * row_count;
% if backward:
        const int first = pad / STRIDE + vector_first * LANES;  // a u
% else:
        const int first = vector_first * LANES;  // a q
% endif
        for (int group_tile = tile_begin; group_tile < tile_end;) {
            const int g = group_tile / TILES;
            const int group_end = tile_end < (g + 1) * TILES ? tile_end : (g + 1) * TILES;
% if held_elements:
            for (int c_first = 0; c_first < TERMS; c_first += TERM_BLOCK) {
            const int c_count = TERMS - c_first < TERM_BLOCK ? TERMS - c_first : TERM_BLOCK;
            const int last_block = c_first + TERM_BLOCK >= TERMS;
% else:
            // All of them. A compiler that knew of a single one would make the loop straight code, for
            // which some run out of registers.
            const int c_first = 0, c_count = term_count;
% endif
            for (int c = 0; c < c_count; ++c)
                for (int row = 0; row < n_count; ++row) {
                    const long next = c + AHEAD < c_count ? AHEAD * x_channel_stride : 0;
                    __global const STORED *x_row = x + x_offset + (long)(n_first + row) * x_batch_stride
                        + ((long)g * TERMS + c_first + c) * x_channel_stride;
                    __local SUM *to = strip + c * channel_pitch + row * row_pitch;
% if backward and rows == 1:
                    stage(to, x_row, (long)first + reach_low, row_pitch, out_length, next);
% elif backward:
                    for (int b = 0; b < ROWS; ++b)
                        stage(to + b * tap_row_pitch, x_row, (long)first - b * DILATION, tap_row_pitch, out_length, next);
% elif paired:
                    stage_pair(to, tap_row_pitch, x_row, (long)first * STRIDE - pad, row_count * LANES + ${(taps - 1) // rows * spacing}, length, next);
% else:
                    for (int b = 0; b < ROWS; ++b)
                        stage(to + b * tap_row_pitch, x_row, (long)first * STRIDE + b * DILATION - pad, tap_row_pitch, length, next);
% endif
                }
            __global const STORED *group_weights = weight + weight_offset
                + (long)g * CHANNELS * TERMS * KERNEL_SIZE + (long)c_first * ${weight_strides[1]};
            for (int tile_first = group_tile; tile_first < group_end; tile_first += TOGETHER) {
                const int tile_last = tile_first + TOGETHER < group_end ? tile_first + TOGETHER : group_end;
% if packed:
                for (int tile = tile_first; tile < tile_last; ++tile) {
                    __local SUM *to = panel + (tile - tile_first) * PANEL;
                    __global const STORED *from = group_weights + (long)FIRST_CHANNEL(tile) * ${weight_strides[0]};
                    for (int c = 0; c < c_count; ++c)
                        for (int i = 0; i < CHANNEL_TILE; ++i)
                            for (int k = 0; k < KERNEL_SIZE; ++k)
                                to[(c * KERNEL_SIZE + k) * CHANNEL_TILE + i] = load(from + ((long)c * ${weight_strides[1]} + i * ${weight_strides[0]} + k));
                }
% endif
                int row = 0, in_row = 0;
                for (int v = 0; v < vector_count; v += VECTORS) {
                    // Where each vector is: mostly side by side in one row.
                    const int whole = in_row + VECTORS <= row_count;
                    int vector_row[VECTORS], vector_at[VECTORS];
                    __local const SUM *strip0 = strip + row * row_pitch + in_row * LANES;
                    vector_row[0] = row, vector_at[0] = in_row * LANES;
% for j in range(1, vectors):
                    __local const SUM *strip${j} = strip0 + ${j} * LANES;
% endfor
                    if (whole) {
% for j in range(1, vectors):
                        vector_row[${j}] = row, vector_at[${j}] = vector_at[0] + ${j} * LANES;
% endfor
                        in_row += VECTORS;
                        if (in_row == row_count) in_row = 0, ++row;
                    } else {
                        // A vector behind the last one repeats it and is not stored.
% for j in range(1, vectors):
                        if (v + ${j} < vector_count && ++in_row == row_count) in_row = 0, ++row;
                        vector_row[${j}] = row, vector_at[${j}] = in_row * LANES;
                        strip${j} = strip + row * row_pitch + in_row * LANES;
% endfor
                        if (++in_row == row_count) in_row = 0, ++row;
                    }
% if straight:
                UNROLL for (int tile_index = 0; tile_index < TOGETHER; ++tile_index) {
                    const int tile = tile_first + tile_index;
                    if (tile >= tile_last) break;
% else:
                for (int tile = tile_first; tile < tile_last; ++tile) {
% endif
                    const int m = FIRST_CHANNEL(tile), wanted = (tile - g * TILES) * CHANNEL_TILE;
% if packed:
                    ${weight_space} *weights = panel + (tile - tile_first) * PANEL;
% else:
                    ${weight_space} *weights = group_weights + (long)m * ${weight_strides[0]};
% endif
% if backward:
                    const int u = first + vector_at[0];
                    const int near_end = !whole || u + reach_low < 0 || u + VECTORS * LANES > out_length;
                    int odd = 0;
% endif
% if phases > 1:
                for (int r = 0; r < STRIDE; ++r) {
                const int first_tap = (int)((long)(r / COMMON) * TAP_INVERSE % TAP_STEP);
                const int tap_count = r % COMMON == 0 && first_tap < KERNEL_SIZE ? (KERNEL_SIZE - 1 - first_tap) / TAP_STEP + 1 : 0;
                // Exact, and of numbers that may be negative, for which / would round to zero.
                const int phase_at = (tap_count ? (r - first_tap * DILATION) / STRIDE : 0) - reach_low;
% endif
% if phases == 1:
% if backward:
                    const int out_shift = -pad, out_limit = length;
% else:
                    const int out_shift = 0, out_limit = out_length;
% endif
% if plain_end:
                    // Most tiles are whole and in one row: stores without a test.
                    const int start = first + vector_at[0] + out_shift;
                    const int plain = whole && start >= 0 && start + VECTORS * LANES <= out_limit;
                    __global STORED *y_tile = y + y_offset + (long)(n_first + vector_row[0]) * y_batch_stride
                        + ((long)g * CHANNELS + m) * y_channel_stride + start;
% if asked is not None:
                    // Lines that are there when they are written keep nobody waiting.
                    if (plain${" && last_block" if blocked else ""}) {
                        __global STORED *asked = y_tile${" + (start + %d * VECTORS * LANES <= out_limit ? %d * VECTORS * LANES : 0)" % (asked + 1, asked) if asked else ""};
% for i in range(channel_tile):
                        for (int t = 0; t < VECTORS * LANES; t += ${line}) PREFETCH(asked + ${i} * y_channel_stride + t, 1);
% endfor
                    }
% endif
% endif
% endif
% for i, j in tile_at:
                    VECTOR s${i}_${j} = 0;
% endfor
% if held_elements:
                    __local VECTOR *waiting = (__local VECTOR *)held
                        + (${"((tile - group_tile) * STRIDE + r)" if phases > 1 else "(tile - group_tile)"} * held_vectors + v) * CHANNEL_TILE;
                    if (c_first) {
% for i, j in tile_at:
                        s${i}_${j} = waiting[${i * vectors + j}];
% endfor
                    }
% endif
% if grouped:
                    // Vectors of one row of x: they lie side by side, unless they are of two rows.
                    if (whole)
                        for (int c = 0; c < c_count; ++c) {
                            const int at = c * channel_pitch;
                            ${weight_space} *w = weights + (long)c * ${weight_in};
                            for (int k0 = 0; k0 + ${block} <= KERNEL_SIZE; k0 += ${block})
                                for (int k = k0; k < k0 + ${apart}; ++k) TAPS(at + k * ${spacing}, k)
                            for (int k = KERNEL_SIZE / ${block} * ${block}; k < KERNEL_SIZE; ++k) TAP(at + k * ${spacing}, w + ${weight_at("k")})
                        }
                    else
% endif
% if side_by_side:
                    if (whole) {
${sums("TAP_WHOLE")}\
                    } else
% endif
                    {
${sums("TAP")}\
                    }
% if held_elements:
                    if (!last_block) {
% for i, j in tile_at:
                        waiting[${i * vectors + j}] = s${i}_${j};
% endfor
                        continue;
                    }
% endif
% if backward:
                    if (near_end) {
                        const SUM all = sum_lanes(${" + ".join("s%d_%d" % at for at in tile_at)});
                        odd |= all != all;
                    }
% endif
% if phases > 1:
                    VECTOR sums[CHANNEL_TILE * VECTORS];
% for i, j in tile_at:
                    sums[${i * vectors + j}] = s${i}_${j};
% endfor
                    NO_UNROLL for (int i = 0; i < CHANNEL_TILE * VECTORS; ++i) {
                        __local SUM *to = woven + i * (LANES * STRIDE) + r;
                        const VECTOR v = sums[i];
% for e in range(lanes):
                        to[${e} * STRIDE] = ${"v.s%x" % e if lanes > 1 else "v"};
% endfor
                    }
                }
% if held_elements:
                if (!last_block) continue;
% endif
                    NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
                    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
                        const long n = n_first + vector_row[j];
                        const long channel = (long)g * CHANNELS + m + i;
                        const int begin = (first + vector_at[j]) * STRIDE - pad;
                        NO_UNROLL for (int t = 0; t < STRIDE; ++t) {
                            const int at = begin + t * LANES;
                            if (at >= length) break;
                            const int inside = at >= 0 && at + LANES <= length;
                            VECTOR sum = *(__local const VECTOR *)(woven + ((i * VECTORS + j) * STRIDE + t) * LANES);
${made_again("sum", "at + pad")}\
${epilogue.finish("sum", "channel", "at", "1", "0", "length")}\
                        }
                    }
                }
% else:
% if plain_end:
                    if (plain${" && !odd" if backward else ""}) {
% for i in range(channel_tile):
                        {
% if channels % channel_tile:
                            if (m + ${i} >= wanted)
% endif
                            {
% if "bias" in bound:
                            const SUM b = load(bias + bias_offset + ((long)g * CHANNELS + m + ${i}));
% endif
% for j in range(vectors):
<%
    value = "s%d_%d" % (i, j)
    if "bias" in bound:
        value += " + (VECTOR)b"
    if activation:
        value = "activate(%s, slope)" % value
%>\
                            store_vector(y_tile + ${i} * y_channel_stride + ${j} * LANES, ${value});
% endfor
                            }
                        }
% endfor
                        continue;
                    }
% endif
                    VECTOR sums[CHANNEL_TILE * VECTORS];
% for i, j in tile_at:
                    sums[${i * vectors + j}] = s${i}_${j};
% endfor
                    NO_UNROLL for (int i = wanted - m; i < CHANNEL_TILE; ++i)
                    NO_UNROLL for (int j = 0; j < VECTORS && v + j < vector_count; ++j) {
                        const long n = n_first + vector_row[j];
                        const long channel = (long)g * CHANNELS + m + i;
                        const int at = first + vector_at[j];
                        const int inside = at + out_shift >= 0 && at + LANES + out_shift <= out_limit;
% if backward:
${made_again("sums[i * VECTORS + j]", "at")}\
% endif
${epilogue.finish("sums[i * VECTORS + j]", "channel", "at", "1", "out_shift", "out_limit")}\
                    }
                }
% endif
                }
            }
% if held_elements:
            }
% endif
            group_tile = group_end;
        }
    }
</%kernel:of_groups>\
