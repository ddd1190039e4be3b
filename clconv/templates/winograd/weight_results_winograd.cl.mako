<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
<%namespace name="winograd" file="winograd.cl.mako"/>\
## weight_results_winograd: result[m,c,k] = momentum * result[m,c,k] + scale * sum,
##   sum = sum_p G[p,k] * sum_{s<shares} transformed_result[s][p][g][m][c]
##   g group, m channel of y, c channel of x of g, p point, k tap
## Sums that are not finite are made again by the definition:
##   sum_{n,q} y[n,m,q] * x[n, g*channels + c, q*STRIDE + k*DILATION - pad]
##
## For CPUs: one work-item a work-group; lanes are channels c. It owns a row of these, of one m. Dimension 0
## is tasks, and loops.
<%
    taps = form.taps
    arrays = (("VECTOR", "found", "TAPS"),)
%>\
#define TAPS ${taps}
#define POINTS ${form.points}
#define STRIDE ${form.stride}
#define DILATION ${dilation}

// A vector anywhere in memory.
typedef VECTOR SUMS __attribute__((aligned(${8 if dtype == "float64" else 4})));

${definition.weight_sum()}

${winograd.sum_tree()}

<%kernel:of_groups name="weight_results_winograd" arrays="${arrays}">
    for (long task = group; task < tasks; task += groups) {
        const long g = task / written;
        NO_UNROLL for (int c = 0; c < channels; c += LANES) {
            const int there = channels - c < LANES ? channels - c : LANES;
% for p in range(form.points):
            VECTOR m${p} = 0;
% endfor
            NO_UNROLL for (int s = 0; s < shares; ++s) {
                __global const SUM *from = transformed_result + transformed_result_offset
                    + s * POINTS * plane + task * c_pitch + c;
% for p in range(form.points):
                m${p} += *(__global const SUMS *)(from + ${p} * plane);
% endfor
            }
            ${winograd.sums(transposed(form.weight), "m", "r")}
% for k in range(taps):
            found[${k}] = r${k};
% endfor
            // What is not finite stays so, times 0.
            if (sum_tree((${" + ".join("r%d" % k for k in range(taps))}) * (SUM)0) != 0)
                NO_UNROLL for (int k = 0; k < TAPS; ++k)
                    NO_UNROLL for (int l = 0; l < there; ++l) {
                        __local SUM *sum = (__local SUM *)(found + k) + l;
                        if (*sum * 0 != 0)
                            *sum = defined(x + x_offset + (g * channels + c + l) * x_channel_stride, x_batch_stride,
                                           y + y_offset + task * y_channel_stride, y_batch_stride,
                                           k, batch, pad, length, out_length);
                    }
            __global STORED *to = result + result_offset + (task * channels + c) * TAPS;
            if (there == LANES) {
% for k in range(taps):
                const VECTOR w${k} = scale * found[${k}];
% endfor
% for j in range(taps):
<%
    places = [("w%d" % (e % taps), e // taps) for e in range(j * lanes, (j + 1) * lanes)]
%>\
                VECTOR o${j} = ${winograd.lanes_of(places)};
                if (momentum != 0) o${j} = momentum * load_vector(to + ${j} * LANES) + o${j};
                store_vector(to + ${j} * LANES, o${j});
% endfor
                continue;
            }
            NO_UNROLL for (int l = 0; l < there; ++l)
                NO_UNROLL for (int k = 0; k < TAPS; ++k)
                    accumulate(to + l * TAPS + k, ((__local const SUM *)(found + k))[l], scale, momentum);
        }
    }
</%kernel:of_groups>\
