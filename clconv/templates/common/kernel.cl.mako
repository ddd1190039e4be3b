## A kernel of one work-item a work-group that takes tasks in turn: `group` is its place of `groups`.
## `arrays` are its arrays in local memory: (type, name, elements).
##
## Where the compiler has to be asked for wide vectors, it is asked for all but the kernel itself: a
## driver calls that from functions of its own, which are compiled without them and may take it in.
## The body is no static function: a compiler that knew all its calls would put the addresses of the
## local arrays into it, and drivers put others into kernels alone.
<%def name="of_groups(name, arrays)">\
% if instruction_sets:
__attribute__((noinline)) void ${name}_body(
    ${signature},
    ${", ".join("__local %s *%s" % (type, array) for type, array, _ in arrays)}, const long group, const long groups)
{
    ${caller.body()}
}
#pragma clang attribute pop

% endif
__kernel ${attributes}
void ${name}(${signature})
{
% for type, array, elements in arrays:
    __local ${type} ${array}[${elements}] __attribute__((aligned(64)));
% endfor
% if instruction_sets:
    ${name}_body(
        ${", ".join(arguments)},
        ${", ".join(array for _, array, _ in arrays)}, get_group_id(0), get_num_groups(0));
% else:
    const long group = get_group_id(0), groups = get_num_groups(0);
    ${caller.body()}
% endif
}
</%def>\
