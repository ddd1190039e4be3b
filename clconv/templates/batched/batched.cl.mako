## What the kernels between samples and planes share: straight-line code, of variants/batched.py, and
## where tiles of samples lie. A launch has `tiles` of them, from place_first on, all LINES of a place
## in turn; a row has row_tiles places. Columns behind the last tile are zeros.
<%def name="constants()"><%
    suffix = "" if dtype == "float64" else "f"
    def number(value):
        return repr(float(value)) + suffix
%>\
% for name, value in named:
#define ${name} ${number(value)}
% endfor
</%def>\
## All steps in their order; what they start from has been declared.
<%def name="run()">\
% for name, expression in steps:
const SUM ${name} = ${expression};
% endfor
</%def>\
## Where the tiles of a work-group are: batch element, and the position of sample 0.
<%def name="begin(lead)">\
const long column = block * ITEMS + item, place = place_first + column / LINES;
barrier(CLK_LOCAL_MEM_FENCE);
elements[item] = column < tiles ? (int)(place / row_tiles) : -1;
firsts[item] = place % row_tiles * (OUTPUTS * (long)STEP) + column % LINES - ${lead};
barrier(CLK_LOCAL_MEM_FENCE);
</%def>\
