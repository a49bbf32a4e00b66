"""Let drgn find types and objects in the BTF that the dumped kernel has of itself, and its modules of themselves."""

from pathlib import Path

import btf
from drgn import (
    AbsenceReason,
    FindObjectFlags,
    Object,
    Qualifiers,
    TypeEnumerator,
    TypeKind,
    TypeMember,
    TypeParameter,
    sizeof,
)

_DEEPEST = 64
"""Types that lead to one another without a name between them, e.g. pointers to pointers. C has no more than a few."""

_KINDS = {
    TypeKind.INT: (btf.INT,),
    TypeKind.BOOL: (btf.INT,),
    TypeKind.FLOAT: (btf.FLOAT,),
    TypeKind.STRUCT: (btf.STRUCT,),
    TypeKind.UNION: (btf.UNION,),
    TypeKind.ENUM: (btf.ENUM, btf.ENUM64),
    TypeKind.TYPEDEF: (btf.TYPEDEF,),
}
_ENUM_INTEGERS = {1: "char", 2: "short", 4: "int", 8: "long"}


class Types:
    """drgn's types of one BTF. Members are resolved when they are asked for."""

    def __init__(self, prog, data, base=None, **start):
        self.prog = prog
        self.btf = btf.Btf(data, base.btf if base else None, **start)
        self.base = base
        self._made = {}
        self._depth = 0

    def find(self, kinds, name):
        """The type of one of drgn's `kinds`; None without. An INT is a bool or not, which its name does not say."""
        wanted = [kind for one in kinds if one in _KINDS for kind in _KINDS[one]]
        number = self.btf.find(wanted, name)
        if number is None:
            return None
        found = self.type(number)
        return found if found.kind in kinds else None

    def type(self, number):
        if self.base is not None and number < self.btf.first_id:
            return self.base.type(number)
        found = self._made.get(number)
        if found is None:
            self._depth += 1
            try:
                if self._depth > _DEEPEST:
                    raise btf.BtfError(f"type {number} leads to more than {_DEEPEST} others")
                found = self._make(number)
            finally:
                self._depth -= 1
            self._made[number] = found
        return found

    def _make(self, number):
        prog, read = self.prog, self.btf
        if number == 0:
            return prog.void_type()
        kind, name, flag, count, size = read.type(number)
        if kind == btf.INT:
            encoding, _offset, _bits = read.int_encoding(number)
            return prog.bool_type(name, size) if encoding & 4 else prog.int_type(name, size, bool(encoding & 1))
        if kind == btf.FLOAT:
            return prog.float_type(name, size)
        if kind == btf.PTR:
            return prog.pointer_type(self.type(size))
        if kind == btf.ARRAY:
            element, length = read.array(number)
            # A flexible array and one of no elements look the same in BTF; at the end of a struct it is the former.
            return prog.array_type(self.type(element), length) if length else prog.array_type(self.type(element))
        if kind in {btf.STRUCT, btf.UNION}:
            members = read.members(number)
            if kind == btf.UNION:
                return prog.union_type(name or None, size, [self._member(*member) for member in members])
            made = [self._member(*member, inside=True) for member in members[:-1]]
            return prog.struct_type(name or None, size, made + [self._member(*member) for member in members[-1:]])
        if kind in {btf.ENUM, btf.ENUM64}:
            values = [TypeEnumerator(word, value) for word, value in read.enumerators(number)]
            if not count:
                return prog.enum_type(name or None)
            signed = any(enumerator.value < 0 for enumerator in values)
            if size not in _ENUM_INTEGERS:
                raise btf.BtfError(f"enum {name} of {size} bytes")
            integer = ("" if signed else "unsigned ") + _ENUM_INTEGERS[size]
            return prog.enum_type(name or None, prog.int_type(integer, size, signed), values)
        if kind == btf.FWD:
            return prog.union_type(name) if flag else prog.struct_type(name)
        if kind == btf.TYPEDEF:
            return prog.typedef_type(name, self.type(size))
        if kind in {btf.VOLATILE, btf.CONST, btf.RESTRICT}:
            qualifier = {
                btf.VOLATILE: Qualifiers.VOLATILE,
                btf.CONST: Qualifiers.CONST,
                btf.RESTRICT: Qualifiers.RESTRICT,
            }[kind]
            inner = self.type(size)
            return inner.qualified(inner.qualifiers | qualifier)
        if kind in {btf.TYPE_TAG, btf.FUNC}:
            return self.type(size)
        if kind == btf.FUNC_PROTO:
            parameters, variadic = read.parameters(number)
            return prog.function_type(
                self.type(size),
                [TypeParameter(self._later(type_), word or None) for word, type_ in parameters],
                variadic,
            )
        raise btf.BtfError(f"type {number} is of kind {kind}, which is no type of C")

    def _is_empty_array(self, number):
        return number and self.btf.type(number)[0] == btf.ARRAY and not self.btf.array(number)[1]

    def _no_elements(self, number):
        return lambda: self.prog.array_type(self.type(self.btf.array(number)[0]), 0)

    def _later(self, number):
        return lambda: self.type(number)

    def _member(self, name, number, offset, bits, *, inside=False):
        """A member; `inside` of a struct, where others are behind it."""
        if not bits:
            empty = inside and self._is_empty_array(number)
            return TypeMember(self._no_elements(number) if empty else self._later(number), name or None, offset)
        return TypeMember(
            lambda: Object(self.prog, self.type(number), absence_reason=AbsenceReason.OTHER, bit_field_size=bits),
            name or None,
            offset,
        )


class TypeUnknown(Exception):
    """The kernel has a variable or a function, and neither BTF nor the table has its type. No LookupError."""


class Objects:
    """Finds variables, functions and enumerators by kallsyms, with types by BTF or, where it has none, by a table.

    BTF has the types of per-CPU variables and of functions; of others only in kernels and pahole of 2025 and later.
    The table (`known-objects.tsv`) has those that drgn's helpers ask for.
    """

    def __init__(self, prog, types, table):
        self._prog = prog
        self._types = types
        self._table = table
        self._known = None
        # For each of `types`, to which those of modules are added: its variables.
        self._variables = []
        # drgn asks again for each of 100,000 pages.
        self._found = {}

    def find(self, _prog, name, flags, filename):
        """The callback of `Program.register_object_finder`."""
        if filename is not None:
            return None
        # Enumerators are many, and looked at last.
        for kind, find in (
            (FindObjectFlags.VARIABLE, self._variable),
            (FindObjectFlags.FUNCTION, self._function),
            (FindObjectFlags.CONSTANT, self._constant),
        ):
            if not flags & kind:
                continue
            found = self._found.get((kind, name))
            if found is None and (found := find(name)) is not None:
                self._found[kind, name] = found
            if found is not None:
                return found
        if flags & (FindObjectFlags.VARIABLE | FindObjectFlags.FUNCTION) and self._prog.symbols(name):
            # drgn's helpers take what is not there for a sign of an older kernel, and answer for that.
            raise TypeUnknown(f"the type of {name} is not known without debuginfo")
        return None

    def _constant(self, name):
        for types in self._types:
            number = types.btf.find_enumerator(name)
            if number is None:
                continue
            kind = types.type(number)
            value = next((one.value for one in kind.enumerators if one.name == name), None)
            if value is not None:
                return Object(self._prog, kind, value)
        return None

    def _variable(self, name):
        symbol = self._symbol(name)
        kind = None if symbol is None else self._type_of(name, symbol.size)
        if kind is None:
            return None
        if symbol.size and not _fits(kind, symbol.size):
            return None
        return Object(self._prog, kind, address=symbol.address)

    def _type_of(self, name, room):
        """The type of a variable that has `room` bytes up to the next symbol, 0 if that is not known."""
        for types in self._types[len(self._variables) :]:
            self._variables.append(dict(types.btf.variables()))
        for types, variables in zip(self._types, self._variables, strict=True):
            if name in variables:
                return types.type(variables[name])
        written = self._table_has(name)
        return None if written in {None, "()"} else self._written(written, room)

    def _table_has(self, name):
        if self._known is None:
            with Path(self._table).open(encoding="utf-8") as lines:
                rows = (line.rstrip("\n").split("\t") for line in lines if line.strip() and not line.startswith("#"))
                self._known = dict(rows)
        return self._known.get(name)

    def _written(self, written, room):
        """The type that the table has; see there."""
        try:
            if written.startswith("{"):
                return self._nameless(written[1:-1].split())
            base, bracket, length = written.partition("[")
            if not bracket or length == "]" or length[:-1].isdigit():
                return self._prog.type(written)
            element = self._prog.type(base.strip())
            count = room // sizeof(element) if length == "*]" else int(self._prog.constant(length[:-1]))
            return self._prog.array_type(element, count) if count else None
        except LookupError:
            return None

    def _nameless(self, members):
        types = self._types[0]
        number = types.btf.find_nameless(members)
        return None if number is None else types.type(number)

    def _symbol(self, name):
        """The one symbol of that name; None for several: BTF does not say which of them it is."""
        found = self._prog.symbols(name)
        return found[0] if len(found) == 1 else None

    def _function(self, name):
        symbol = self._symbol(name)
        if symbol is None:
            return None
        for types in self._types:
            number = types.btf.find((btf.FUNC,), name)
            if number is not None:
                return Object(self._prog, types.type(number), address=symbol.address)
        if self._table_has(name) == "()":
            kind = self._prog.function_type(self._prog.void_type(), ())
            return Object(self._prog, kind, address=symbol.address)
        return None


def _fits(kind, size):
    """Whether an object of a type can be where a symbol has `size` bytes, up to the next one."""
    try:
        return sizeof(kind) <= size
    except TypeError:
        return True  # an array of unknown length
