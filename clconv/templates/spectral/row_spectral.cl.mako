<%namespace name="definition" file="definition.cl.mako"/>\
<%namespace name="epilogue" file="epilogue.cl.mako"/>\
<%namespace name="fourier" file="fourier.cl.mako"/>\
## row_spectral, one channel a group, stride 1; the forward pass:
##   y[n,g,p] = epilogue(sum_{k<kernel_size} weight[g,k] * x[n,g,p + k*DILATION - pad])
## or (BACKWARD) the input gradient:
##   y[n,g,p] = epilogue(sum_{k<kernel_size} weight[g,k] * x[n,g,p + pad - k*DILATION])
##   n batch, g channel; transformed_weight[.][g] is the transform of the taps
##
## For CPUs: one work-item a work-group. It owns LANES tiles of one row, which are its lanes, of one line j
## of a dilation: result i < outputs of tile t is p = (t*outputs + i)*DILATION + j. Their SIZE samples are
## transformed, multiplied by the taps' transform, and transformed back, all in two arrays of `scratch`,
## which has room for each work-group. Sums that are not finite are made again by the definition.
## Dimension 0 is tasks, and loops.
${fourier.constants("__global")}
#define STRIDE 1
#define DILATION ${dilation}

${definition.functions()}

${fourier.sum_tree()}
${epilogue.functions()}
<%
    even = len(transform.passes) % 2 == 0
    spectrum = ("own", "other") if even else ("other", "own")
%>\
## Samples i … of all tiles.
<%def name="stage()">\
NO_UNROLL for (int l = 0; l < LANES; ++l) {
    const long begin = first + (long)l * (outputs * DILATION) - lead;
    turned[l] = load_checked(row, i, SIZE - 1, DILATION, begin < length ? (int)begin : length, length);
}
% for e in range(lanes):
VECTOR r${e} = turned[${e}];
% endfor
${fourier.turn()}
% for e in range(lanes):
own[i + ${e}] = r${e};
% endfor
</%def>\
## The tiles' transforms, separated, times that of the taps, joined again: `fourier` has all but the product.
<%def name="multiply(z)">\
{
    BUFFER VECTOR *z = ${z};
    const VECTOR even = z[0] + z[0], odd = z[1] + z[1];
    const VECTOR all = taps[0] * (even + odd), signs = taps[1] * (even - odd);
    z[0] = all - signs;
    z[1] = all + signs;
    NO_UNROLL for (int k = 1; k <= POINTS / 2; ++k) {
        const SUM c = FACTORS[SEPARATING + 2 * k - 2], s = FACTORS[SEPARATING + 2 * k - 1];
        __global const SUM *near = taps + k * weight_pitch, *far = taps + (POINTS - k) * weight_pitch;
        const SUM ur = near[0], ui = near[1], vr = far[0], vi = far[1];
        const VECTOR ar = z[2 * k], ai = z[2 * k + 1], br = z[2 * (POINTS - k)], bi = z[2 * (POINTS - k) + 1];
        const VECTOR er = ar + br, ei = ai - bi, dr = ai + bi, di = br - ar;
        const VECTOR tr = c * dr + s * di, ti = c * di - s * dr;
        const VECTOR nr = er + tr, ni = ei + ti, fr = er - tr, fi = ti - ei;
        const VECTOR gr = nr * ur - ni * ui, gi = nr * ui + ni * ur;
        const VECTOR hr = fr * vr - fi * vi, hi = fr * vi + fi * vr;
        const VECTOR pr = gr + hr, pi = gi - hi, qr = gr - hr, qi = gi + hi;
        const VECTOR wr = c * qr - s * qi, wi = c * qi + s * qr;
        z[2 * k] = pi + wr;
        z[2 * k + 1] = pr - wi;
        z[2 * (POINTS - k)] = wr - pi;
        z[2 * (POINTS - k) + 1] = pr + wi;
    }
}
</%def>\
## Results i … of all tiles; sample i is at i ^ 1.
<%def name="store()">\
% for e in range(lanes):
VECTOR r${e} = own[(i + ${e}) ^ 1];
% endfor
const SUM all = sum_tree(${fourier.tree(["r%d" % e for e in range(lanes)])});
if (all * 0 != 0) {  // or all are large
    NO_UNROLL for (int e = 0; e < LANES; ++e)
        NO_UNROLL for (int l = 0; l < LANES; ++l) {
            BUFFER SUM *sum = (BUFFER SUM *)(own + ((i + e) ^ 1)) + l;
            const long p = first + (long)(l * outputs + i + e) * DILATION;
            if (*sum * 0 != 0 && p < positions)
                *sum = defined(row, 0, weight + weight_offset + (long)g * kernel_size, 1, 1, kernel_size, (int)p, pad, length);
        }
% for e in range(lanes):
    r${e} = own[(i + ${e}) ^ 1];
% endfor
}
${fourier.turn()}
% for e in range(lanes):
turned[${e}] = r${e};
% endfor
NO_UNROLL for (int l = 0; l < LANES; ++l) {
    const long tile = first + (long)l * (outputs * DILATION), behind = tile + (long)outputs * DILATION;
    if (tile >= positions) break;
    const int begin = (int)tile, limit = behind < positions ? (int)behind : positions;
    const int inside = DILATION == 1 && begin + i + LANES <= limit;
    ${epilogue.finish("turned[l]", "g", "i", "DILATION", "begin", "limit")}
}
</%def>\
__kernel ${attributes}
void row_spectral(${signature})
{
    __local VECTOR turned[LANES];
    __global VECTOR *own = (__global VECTOR *)(scratch + scratch_offset + get_group_id(0) * (4L * POINTS * LANES));
    __global VECTOR *other = own + SIZE;
    for (long task = get_group_id(0); task < tasks; task += get_num_groups(0)) {
        const int first = (int)(task % row_blocks * (LANES * outputs * (long)DILATION) + task / row_blocks % DILATION);
        const long which = task / row_blocks / DILATION;
        const long n = which / groups;
        const int g = (int)(which % groups);
        __global const STORED *row = x + x_offset + n * x_batch_stride + g * x_channel_stride;
        __global const SUM *taps = transformed_weight + transformed_weight_offset + 2L * g;
        NO_UNROLL for (int i = 0; i < SIZE; i += LANES) {
            ${stage()}
        }
        ${fourier.passes("own", "other")}
        ${multiply(fourier.result("own", "other"))}
        ${fourier.passes(*spectrum)}
        NO_UNROLL for (int turn = 0; turn < outputs; turn += LANES) {
            // The last vector begins early, so that it is whole: some results are stored twice.
            const int i = turn + LANES <= outputs || outputs < LANES ? turn : outputs - LANES;
            ${store()}
        }
    }
}
