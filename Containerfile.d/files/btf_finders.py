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
            # A flexible array and one of no elements look the same in BTF; the kernel has the former.
            return prog.array_type(self.type(element), length) if length else prog.array_type(self.type(element))
        if kind in {btf.STRUCT, btf.UNION}:
            make = prog.struct_type if kind == btf.STRUCT else prog.union_type
            return make(name or None, size, [self._member(*member) for member in read.members(number)])
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

    def _later(self, number):
        return lambda: self.type(number)

    def _member(self, name, number, offset, bits):
        if not bits:
            return TypeMember(self._later(number), name or None, offset)
        return TypeMember(
            lambda: Object(self.prog, self.type(number), absence_reason=AbsenceReason.OTHER, bit_field_size=bits),
            name or None,
            offset,
        )


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
        self._variables = None

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
            if flags & kind and (found := find(name)) is not None:
                return found
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
        kind = self._type_of(name)
        symbol = None if kind is None else self._symbol(name)
        if symbol is None or (symbol.size and not _fits(kind, symbol.size)):
            return None
        return Object(self._prog, kind, address=symbol.address)

    def _type_of(self, name):
        if self._variables is None:
            self._variables = {}
            for types in self._types:
                for word, number in types.btf.variables():
                    self._variables.setdefault(word, (types, number))
        if name in self._variables:
            types, number = self._variables[name]
            return types.type(number)
        if self._known is None:
            with Path(self._table).open(encoding="utf-8") as lines:
                rows = (line.rstrip("\n").split("\t") for line in lines if line.strip() and not line.startswith("#"))
                self._known = dict(rows)
        written = self._known.get(name)
        return None if written is None else self._written(written)

    def _written(self, written):
        """The type that the table has: as C writes it; or {MEMBER …}, the struct without a name that has them."""
        try:
            if written.startswith("{"):
                return self._nameless(written[1:-1].split())
            base, bracket, length = written.partition("[")
            if not bracket or length == "]" or length[:-1].isdigit():
                return self._prog.type(written)
            return self._prog.array_type(self._prog.type(base.strip()), int(self._prog.constant(length[:-1])))
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
        for types in self._types:
            number = types.btf.find((btf.FUNC,), name)
            symbol = None if number is None else self._symbol(name)
            if symbol is not None:
                return Object(self._prog, types.type(number), address=symbol.address)
        return None


def _fits(kind, size):
    """Whether an object of a type can be where a symbol has `size` bytes, up to the next one."""
    try:
        return sizeof(kind) <= size
    except TypeError:
        return True  # an array of unknown length
