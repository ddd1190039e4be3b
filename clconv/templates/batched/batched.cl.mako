## What the kernels between samples and planes share: straight-line code, of variants/batched.py, and
## where tiles of samples lie. A launch has `tiles` of them, all LINES of a place in turn, from place
## place_first of the row of element_first on; a row has row_tiles places. Columns behind the last tile
## are zeros.
<%def name="constants()"><%
    suffix = "" if dtype == "float64" else "f"
    def number(value):
        return repr(float(value)) + suffix
%>\
% for name, value in named:
#define ${name} ${number(value)}
% endfor
</%def>\
## All steps in their order. What a step is the first to need is read before it, what is known behind
## it is written, both in order of their numbers: name and number are put into `read` and `write`. So
## addresses go from plane to plane; multiples of a plane would be kept in registers. There is no loop
## around it, before which compilers would put what does not change in it.
<%def name="run(read, write)">\
% for first, name, expression, then in steps:
% for one in first:
${read.format(one, one[1:])}
% endfor
const SUM ${name} = ${expression};
% for one in then:
${write.format(one, one[1:])}
% endfor
% endfor
</%def>\
## Which row the work-group has; dimension 2 goes on where 1 ends.
<%def name="row_of_group()">\
const int item = get_local_id(0), block = get_group_id(0);
const int row = get_group_id(1) + get_group_id(2) * get_num_groups(1);
if (row >= rows) return;  // the whole work-group
</%def>\
## Where the tiles of a work-group are: batch element, and the position of sample 0.
<%def name="begin()">\
const int column = block * ITEMS + item, place = place_first + column / LINES;
elements[item] = column < tiles ? element_first + place / row_tiles : -1;
firsts[item] = place % row_tiles * (OUTPUTS * (long)STEP) + column % LINES - lead;
barrier(CLK_LOCAL_MEM_FENCE);
</%def>\
