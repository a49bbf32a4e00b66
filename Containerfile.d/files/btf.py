"""Read BTF, the types that a kernel has in its memory. Pure Python: it imports nothing of drgn.

The format is that of include/uapi/linux/btf.h and Documentation/bpf/btf.rst. The input is untrusted: every reference,
offset and count is checked, and `BtfError` says what is wrong.
"""

import bisect
import struct

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC = range(
    1, 16
)
FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(16, 20)

MAX_BYTES = 64 << 20
"""Largest BTF that is read. Those of distributions' kernels have 4 to 8 MiB."""

_LONGEST_NAME = 1024
"""Bytes. The kernel's names are shorter than 512."""

_LARGEST = 64 << 20
"""Bytes of a struct or an array, and elements of an array. The kernel's largest are a hundredth of that."""

_MOST_USES = 1 << 16
"""Places of one name that are looked at. The kernel's most used name has some thousands."""

_LONGEST_CHAIN = 64
"""Typedefs, qualifiers and arrays around one type."""

_POINTER = 8
"""Bytes, on the 64-bit machines that are read."""

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
# Bytes after the common 12 of a type: fixed ones, and those for each of its `vlen` members.
_FIXED = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
_SIZED = {INT, STRUCT, UNION, ENUM, FLOAT, ENUM64}
_WRAPPERS = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}
_ENUMS = {ENUM, ENUM64}
_EACH = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}


class BtfError(Exception):
    """The bytes are no BTF, or contradict themselves."""


class Btf:
    """One BTF, or a module's with that of the kernel below it (`base`): type ids and string offsets go on from there.

    `start_id` and `start_string` say where a module's own begin, if the kernel keeps them; else at the base's end.
    """

    def __init__(self, data, base=None, *, start_id=None, start_string=None):
        if len(data) < _HEADER.size:
            raise BtfError(f"BTF of {len(data)} bytes")
        magic, version, _flags, header, type_offset, type_size, string_offset, string_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1 or header < _HEADER.size:
            raise BtfError(f"no BTF: magic {magic:#x}, version {version}, header of {header} bytes")
        if header + type_offset + type_size > len(data) or header + string_offset + string_size > len(data):
            raise BtfError("sections of the BTF end behind it")
        self.base = base
        self.data = data
        self.strings = data[header + string_offset : header + string_offset + string_size]
        if base is not None:
            start_id = base.end_id if start_id is None else start_id
            start_string = base.end_string if start_string is None else start_string
        self.first_id = start_id or 0
        self.start_string = start_string or 0
        self.end_string = self.start_string + string_size
        # id 0 is void and has no record. `at`: the offset of each type of this BTF.
        self.at = [0] if base is None else []
        offset, end = header + type_offset, header + type_offset + type_size
        self._variables = []
        # Since v6.0 an enum with negative values is marked (include/uapi/linux/btf.h); before, all values are __s32.
        self.marks_signed = base is not None and base.marks_signed
        add, unpack = self.at.append, _TYPE.unpack_from
        try:
            while offset < end:
                add(offset)
                info = unpack(data, offset)[1]
                kind = (info >> 24) & 31
                offset += 12 + _FIXED.get(kind, 0)
                if kind in _EACH:
                    offset += _EACH[kind] * (info & 0xFFFF)
                    if info >> 31 and kind in _ENUMS:
                        self.marks_signed = True
                elif kind == VAR:
                    self._variables.append(self.first_id + len(self.at) - 1)
                elif not 1 <= kind <= ENUM64:
                    raise BtfError(f"type {len(self.at) - 1} is of the unknown kind {kind}")
        except struct.error as error:
            raise BtfError("the last type of the BTF is cut off") from error
        if offset != end:
            raise BtfError("the last type of the BTF is cut off")
        self.end_id = self.first_id + len(self.at)
        self._types, self._types_end = header + type_offset, end
        self._found = {}

    def _own(self, number):
        """The BTF that has the type `number`, and its offset there."""
        btf = self
        while btf is not None and number < btf.first_id:
            btf = btf.base
        if btf is None or not 0 < number < btf.end_id:
            raise BtfError(f"there is no type {number}")
        return btf, btf.at[number - btf.first_id]

    def string(self, offset):
        """The string at an offset of the string section; "" at 0."""
        btf = self
        while btf is not None and offset < btf.start_string:
            btf = btf.base
        if btf is None or offset >= btf.end_string:
            raise BtfError(f"there is no string {offset}")
        start = offset - btf.start_string
        end = btf.strings.find(b"\0", start, start + _LONGEST_NAME)
        if end < 0:
            raise BtfError(f"string {offset} has no end")
        return btf.strings[start:end].decode(errors="replace")

    def type(self, number):
        """(kind, name, kind_flag, vlen, size or type id) of a type."""
        btf, at = self._own(number)
        name, info, size = _TYPE.unpack_from(btf.data, at)
        return (info >> 24) & 31, btf.string(name), bool(info >> 31), info & 0xFFFF, size

    def int_encoding(self, number):
        """(encoding, bit offset, bits) of an INT. Encoding: 1 signed, 2 char, 4 bool."""
        btf, at = self._own(number)
        (word,) = struct.unpack_from("<I", btf.data, at + 12)
        return (word >> 24) & 15, (word >> 16) & 255, word & 255

    def array(self, number):
        """(element type, number of elements) of an ARRAY."""
        btf, at = self._own(number)
        element, _index, length = _TYPE.unpack_from(btf.data, at + 12)
        if max(length, length * self.size(element)) > _LARGEST:
            raise BtfError(f"array {number} has {length} elements")
        return element, length

    def size(self, number):
        """Bytes of an object of a type; 0 of what has none, e.g. void and functions."""
        many = 1
        for _ in range(_LONGEST_CHAIN):
            if number == 0:
                return 0
            btf, at = self._own(number)
            _name, info, size = _TYPE.unpack_from(btf.data, at)
            kind = (info >> 24) & 31
            if kind == ARRAY:
                number, _index, length = _TYPE.unpack_from(btf.data, at + 12)
                many *= length
            elif kind in _WRAPPERS:
                number = size
            else:
                return many * (_POINTER if kind == PTR else size if kind in _SIZED else 0)
        raise BtfError(f"type {number} is at the end of a chain without end")

    def members(self, number):
        """[(name, type id, bit offset, bits or 0)] of a STRUCT or UNION; bits is 0 for what is no bit field."""
        btf, at = self._own(number)
        _name, info, whole = _TYPE.unpack_from(btf.data, at)
        if whole > _LARGEST:
            raise BtfError(f"type {number} has {whole} bytes")
        found = []
        # Types that were looked at for a member: another one may lead to the same.
        seen = set()
        for place in range(at + 12, at + 12 + 12 * (info & 0xFFFF), 12):
            name, kind, offset = _TYPE.unpack_from(btf.data, place)
            if info >> 31:
                bits, offset = offset >> 24, offset & 0xFFFFFF
            else:
                # Until v5.0 the INT of a bit field had its bits (commit 9d5f9f701b18 ("bpf: btf: fix struct/union/fwd
                # types with kind_flag"), v5.0).
                bits, shift = btf.own_bits(kind)
                offset += shift
            if not bits:
                self._check_member(number, whole, kind, offset, seen)
            found.append((btf.string(name), kind, offset, bits))
        return found

    def _check_member(self, number, whole, kind, offset, seen):
        """Refuses a member that is not in its struct, and one that has the whole struct in it: it would have no end."""
        size = self.size(kind)
        if offset // 8 + size > whole:
            raise BtfError(f"a member of type {number} ends behind it")
        if size and size == whole and self._contains(kind, whole, number, seen):
            raise BtfError(f"type {number} contains itself")

    def _contains(self, outer, whole, wanted, seen):
        """Whether `outer` is the struct `wanted`, or has it as a member that fills all of its `whole` bytes.

        Types in `seen` do not; those that were looked at are added.
        """
        waiting = [outer]
        while waiting:
            number = waiting.pop()
            if number == wanted:
                return True
            if number in seen or number == 0:
                continue
            seen.add(number)
            btf, at = self._own(number)
            _name, info, size = _TYPE.unpack_from(btf.data, at)
            kind = (info >> 24) & 31
            if kind in _WRAPPERS:
                waiting.append(size)
            elif kind == ARRAY:
                waiting.append(_TYPE.unpack_from(btf.data, at + 12)[0])
            elif kind in {STRUCT, UNION} and size == whole:
                places = range(at + 12, at + 12 + 12 * (info & 0xFFFF), 12)
                waiting += (_TYPE.unpack_from(btf.data, place)[1] for place in places)
        return False

    def own_bits(self, number):
        """(bits, bit offset) of a bit field's own INT; (0, 0) of every other type."""
        if number == 0:
            return 0, 0
        kind, _name, _flag, _vlen, size = self.type(number)
        if kind != INT:
            return 0, 0
        _encoding, shift, bits = self.int_encoding(number)
        return (bits, shift) if shift or bits != size * 8 else (0, 0)

    def enumerators(self, number):
        """[(name, value)] of an ENUM or ENUM64. None of an ENUM whose values had more bits than it keeps."""
        btf, at = self._own(number)
        _name, info, size = _TYPE.unpack_from(btf.data, at)
        signed, count = info >> 31, info & 0xFFFF
        if (info >> 24) & 31 == ENUM:
            if size > 4 and not self.marks_signed:
                return []
            form = "<Ii" if signed or not self.marks_signed else "<II"
            return [
                (btf.string(name), value)
                for name, value in (struct.unpack_from(form, btf.data, at + 12 + 8 * n) for n in range(count))
            ]
        found = []
        for number_ in range(count):
            name, low, high = _TYPE.unpack_from(btf.data, at + 12 + 12 * number_)
            value = low | high << 32
            found.append((btf.string(name), value - (1 << 64) if signed and value >> 63 else value))
        return found

    def parameters(self, number):
        """([(name, type id)], variadic) of a FUNC_PROTO."""
        btf, at = self._own(number)
        info = _TYPE.unpack_from(btf.data, at)[1]
        pairs = [struct.unpack_from("<II", btf.data, at + 12 + 8 * n) for n in range(info & 0xFFFF)]
        variadic = bool(pairs) and pairs[-1] == (0, 0)
        return [(btf.string(name), kind) for name, kind in (pairs[:-1] if variadic else pairs)], variadic

    def find(self, kinds, name):
        """The first type of this BTF (not of its base) that has one of `kinds` and the name; None without."""
        for kind in kinds:
            if (kind, name) not in self._found:
                self._found[kind, name] = next(
                    (number for number, offset in self._using(name) if not offset and self._kind(number) == kind), None
                )
            if self._found[kind, name] is not None:
                return self._found[kind, name]
        return None

    def find_enumerator(self, name):
        """The first enum of this BTF with an enumerator of that name; None without."""
        each = {ENUM: 8, ENUM64: 12}
        for number, offset in self._using(name):
            kind = self._kind(number)
            if kind in each and offset >= 12 and (offset - 12) % each[kind] == 0:
                return number
        return None

    def _kind(self, number):
        return (_TYPE.unpack_from(self.data, self.at[number - self.first_id])[1] >> 24) & 31

    def _using(self, name):
        """Yield (type, offset in its record) of each place where the offset of the string `name` is.

        It is also yielded where a number happens to be the same.
        """
        left = _MOST_USES
        for string in self._offsets(name):
            wanted = string.to_bytes(4, "little")
            place = self.data.find(wanted, self._types, self._types_end)
            while place >= 0 and left:
                left -= 1
                # Records are of whole words, and so are the names in them.
                if (place - self._types) % 4 == 0:
                    index = bisect.bisect_right(self.at, place, lo=0 if self.base else 1) - 1
                    yield self.first_id + index, place - self.at[index]
                place = self.data.find(wanted, place + 1, self._types_end)

    def _offsets(self, name):
        """Where a string is, in this BTF and its base. A string is there once, but for those of a damaged BTF."""
        wanted = b"\0" + name.encode() + b"\0"
        btf = self
        while btf is not None:
            place = btf.strings.find(wanted)
            # The first string is the empty one; a module's BTF begins with its first own.
            if place < 0 and btf.base is not None and btf.strings.startswith(wanted[1:]):
                yield btf.start_string
            elif place >= 0:
                yield btf.start_string + place + 1
            btf = btf.base

    def variables(self):
        """Yield (name, type id) of each VAR of this BTF."""
        for number in self._variables:
            _kind, name, _flag, _vlen, type_ = self.type(number)
            yield name, type_

    def find_nameless(self, members):
        """The id of the first STRUCT without a name whose members are called `members`; None without."""
        wanted = STRUCT << 24 | len(members)
        for number, at in enumerate(self.at[1:] if self.base is None else self.at, max(1, self.first_id)):
            name, info, _size = _TYPE.unpack_from(self.data, at)
            if not name and info & 0x7FFFFFFF == wanted and [word for word, *_ in self.members(number)] == members:
                return number
        return None
