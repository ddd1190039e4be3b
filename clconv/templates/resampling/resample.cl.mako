<%namespace name="fourier" file="fourier.cl.mako"/>\
<%namespace name="kernel" file="kernel.cl.mako"/>\
## resample: y[n, i*phases + j] = sum_{u < t} panel[r*taps + taps - t + u] * x[n, shift + i*samples + s - t + 1 + u]
##   n row, i period, j < phases, phases / up = samples / down being whole
##   s, r quotient and remainder of first + j*down by up: the window's last sample, and which taps it meets
##   t    taps of that phase: those of r, r + up, … < kernel_size, of which the panel has the last one first
##
## For CPUs: one work-item a work-group. A task is LANES periods i of a row, which are its lanes, and
## part_phases phases j. Their samples are turned into `strip`, zeros where the row has none; each of its
## vectors is read once for PHASES phases, whose windows have most of their samples in common. No phase
## takes a sample that is not its own. Dimension 0 is tasks, and loops.
#define PHASES ${phases}

## Row s of the strip has the samples s of all periods, counted from `base`.
<%def name="stage()">\
NO_UNROLL for (int s = 0; s < rows; s += LANES) {
    NO_UNROLL for (int l = 0; l < LANES; ++l) {
        const long begin = shift + base + (period + l) * samples;
        results[l] = load_checked(row, s, 0x7fffffff, 1, begin < length ? (int)begin : length, length);
    }
% for e in range(lanes):
    VECTOR r${e} = results[${e}];
% endfor
    ${fourier.turn()}
% for e in range(lanes):
    strip[s + ${e}] = r${e};
% endfor
}
</%def>\
## The sums of phases j …; those behind the last one are its own once more.
<%def name="sums()">\
% for e in range(phases):
const int j${e} = min(j + ${e}, last);
const long at${e} = first + (long)j${e} * down;
const int rest${e} = (int)(at${e} % up), there${e} = (kernel_size - rest${e} + up - 1) / up;
const int end${e} = (int)(at${e} / up - base) + 1, begin${e} = end${e} - there${e};
const long w${e} = (long)rest${e} * taps + taps - end${e};
VECTOR sum${e} = 0;
% endfor
int from = begin0, to = end0;
% for e in range(1, phases):
from = max(from, begin${e});
to = min(to, end${e});
% endfor
to = max(from, to);
% for e in range(phases):
NO_UNROLL for (int s = begin${e}; s < min(from, end${e}); ++s) sum${e} = load(weights + w${e} + s) * strip[s] + sum${e};
% endfor
NO_UNROLL for (int s = from; s < to; ++s) {
    const VECTOR seen = strip[s];
% for e in range(phases):
    sum${e} = load(weights + w${e} + s) * seen + sum${e};
% endfor
}
% for e in range(phases):
NO_UNROLL for (int s = max(to, begin${e}); s < end${e}; ++s) sum${e} = load(weights + w${e} + s) * strip[s] + sum${e};
% endfor
% for e in range(phases):
results[j - j_first + ${e}] = sum${e};
% endfor
</%def>\
## Phases j_first … of all periods.
<%def name="store_results()">\
% for e in range(lanes):
VECTOR r${e} = results[${e}];
% endfor
${fourier.turn()}
% for e in range(lanes):
results[${e}] = r${e};
% endfor
NO_UNROLL for (int l = 0; l < LANES; ++l) {
    const long begin = (period + l) * phases + j_first;
    const int there = (int)min((long)min(LANES, last + 1 - j_first), positions - begin);
    __global STORED *to = y + y_offset + n * y_batch + begin;
    if (there == LANES) store_vector(to, results[l]);
    else
        NO_UNROLL for (int e = 0; e < there; ++e) store(to + e, ((__local SUM *)(results + l))[e]);
}
</%def>\
<%def name="every_task()">\
__global const STORED *weights = panel + panel_offset;
for (long task = group; task < tasks; task += groups) {
    const int j_begin = (int)(task % parts) * part_phases, last = min(j_begin + part_phases, phases) - 1;
    const long period = task / parts % blocks * LANES, n = task / parts / blocks;
    __global const STORED *row = x + x_offset + n * x_batch;
    const long base = (first + (long)j_begin * down) / up + 1 - taps;
    const int rows = (int)((first + (long)last * down) / up + 1 - base);
    ${stage()}
    NO_UNROLL for (int j_first = j_begin; j_first <= last; j_first += LANES) {
        NO_UNROLL for (int j = j_first; j < j_first + LANES && j <= last; j += PHASES) {
            ${sums()}
        }
        ${store_results()}
    }
}
</%def>\
<%
    arrays = (("VECTOR", "strip", strip), ("VECTOR", "results", lanes))
%>\
<%kernel:of_groups name="resample" arrays="${arrays}">\
${every_task()}
</%kernel:of_groups>\
