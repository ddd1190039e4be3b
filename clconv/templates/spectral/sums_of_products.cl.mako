## Sums of complex products in registers: of `rows` numbers, broadcast, with `vectors` vectors.
<%def name="begin(rows, vectors)">\
% for i in range(rows):
VECTOR ${", ".join("s%d_%d%s = 0" % (i, j, part) for j in range(vectors) for part in "ri")};
% endfor
</%def>\
## To the sums of row i, of the number re + im * i with vectors w0r + w0i * i, …; where `real`, both
## parts are real numbers of their own.
<%def name="add(i, vectors, real)">\
% for j in range(vectors):
% if real:
s${i}_${j}r = re * w${j}r + s${i}_${j}r;
s${i}_${j}i = im * w${j}i + s${i}_${j}i;
% else:
s${i}_${j}r = re * w${j}r + s${i}_${j}r;
s${i}_${j}i = re * w${j}i + s${i}_${j}i;
s${i}_${j}r = s${i}_${j}r - im * w${j}i;
s${i}_${j}i = im * w${j}r + s${i}_${j}i;
% endif
% endfor
</%def>\
