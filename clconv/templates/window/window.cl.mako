## What the window kernels share: rows of global memory copied to local memory.
<%def name="stage(to, rows, channel_stride, segment, channels, first, limit)">\
// ${to}[c * ${segment} + s] = row c at ${first} + s, with zeros outside.
for (int f = item; f < ${channels} * ${segment}; f += ITEMS) {
    const int c = f / ${segment}, p = ${first} + f % ${segment};
    const int ok = (uint)p < (uint)(${limit});
    const SUM v = load(${rows} + c * ${channel_stride} + (ok ? p : 0));
    ${to}[f] = ok ? v : (SUM)0;
}
</%def>\
