# Runs in drgn: prints the layout of each type that some types of the kernel lead to, as JSON, by name.
import json
import re

from drgn import TypeKind

STRUCTS = {TypeKind.STRUCT, TypeKind.UNION}
ROOTS = ("task_struct", "net", "super_block", "page", "device", "module", "rq", "sk_buff", "bpf_prog", "request_queue")


def inner(kind):
    """The type that a pointer, an array or a typedef is of."""
    while kind.kind in {TypeKind.POINTER, TypeKind.ARRAY, TypeKind.TYPEDEF}:
        kind = kind.type
    return kind


def written(kind):
    """A type's name. Arrays of arrays are one in the BTF of 6.12 and older, and [0] is [] there."""
    base, *lengths = re.split(r" ?\[(\d*)\]", kind.type_name())
    many = 1
    for length in lengths[::2]:
        many *= int(length or 0)
    return f"{base} * {many}" if lengths else base


def layout(kind, waiting):
    found = []
    for member in kind.members or ():
        of = inner(member.type)
        if of.kind in STRUCTS and of.tag is None:
            below = layout(of, waiting)
        else:
            below = written(member.type)
            if of.kind in STRUCTS:
                waiting.append(of.type_name().replace("const ", "").replace("volatile ", ""))
        found.append([member.name, member.bit_offset, member.bit_field_size, below])
    return [kind.size if kind.is_complete() else None, found]


waiting, layouts = [f"struct {name}" for name in ROOTS], {}
while waiting:
    name = waiting.pop()
    if name not in layouts:
        try:
            layouts[name] = layout(prog.type(name), waiting)  # noqa: F821 - drgn sets it
        except LookupError:
            layouts[name] = None
print(json.dumps(layouts))  # noqa: T201 - a script of drgn
