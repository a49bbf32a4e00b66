"""Find and read kallsyms in the memory of a kernel whose VMCOREINFO does not have its addresses. Pure Python.

VMCOREINFO has them (commit 5fd8fea935a1 ("vmcoreinfo: include kallsyms symbols"), v6.0), and drgn reads them after
`check`. Before, scripts/kallsyms.c wrote, in this order and each aligned to 8 bytes: offsets (or addresses), relative
base, number of symbols, names, markers, token table, token index. The token table is found by the digits, which are
always tokens of their own; all else is found from there, and checked. The input is untrusted.
"""

import array
import struct
import sys

_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_LETTERS = b"".join(b"%c\0" % letter for letter in range(ord("a"), ord("z") + 1))
_FIRST = ord("0")
LONGEST_TABLE = 64 << 10
_MOST_SYMBOLS = 1 << 20
_MOST_MARKERS = _MOST_SYMBOLS // 256
_LONGEST_NAME = 255  # bytes of a compressed one: its length is a byte
_LONGEST = 1024
"""Bytes of a name. The kernel's are shorter than 512 (KSYM_NAME_LEN)."""
MOST_BYTES = 64 << 20
"""Of all names together, in all tries. A kernel has 5 MiB of them."""
_MOST_TRIES = 8
"""Beginnings of the names that agree with the first marker, and are tried."""
_MOST_PLACES = 64
"""Places with digits that are looked at. A kernel has a handful of them."""
_MOST_EXPANDED = 256 << 20
"""Bytes that names may have if each of theirs is the longest token. Of a kernel it is a tenth."""
_LONGEST_TOKEN = 1024


class KallsymsError(Exception):
    """There is no kallsyms in the memory, or it contradicts itself."""


def find(memory, stext):
    """[(address, type letter, name)] of all symbols, in the order that the kernel has them in, which is by address.

    `memory` is a little-endian kernel's image with its read-only data, zeros where pages are missing; `stext` is the
    address of `_stext` in VMCOREINFO, by which the form of the addresses is told. Raises `KallsymsError`.
    """
    why, place = KallsymsError("there is no token table"), -1
    room = _Room()
    for _ in range(_MOST_PLACES):
        place = memory.find(_DIGITS, place + 1)
        if place < 0:
            break
        try:
            return _read(memory, stext, place, room)
        except KallsymsError as error:
            why = error
    raise why


def check(names, table, index, *, count, wide):
    """Refuse what takes drgn's reader long: it trusts these numbers, and asks the dump for each name's length.

    `names` are the bytes from kallsyms_names to kallsyms_token_table, `table` those from there to kallsyms_token_index,
    and `index` the 512 bytes there. `wide`: a length may have two bytes (commit 73bbb94466fd ("kallsyms: support "big"
    kernel symbols"), v6.1). Raises `KallsymsError`.
    """
    if count > _MOST_SYMBOLS:
        raise KallsymsError(f"it has {count} names")
    place, end = 0, len(names)
    for _ in range(count):
        if place + 1 >= end:
            raise KallsymsError("its names end behind its token table")
        length = names[place]
        place += 1
        if wide and length & 0x80:
            length = length & 0x7F | names[place] << 7
            place += 1
        place += length
    if place > end:
        raise KallsymsError("its names end behind its token table")
    longest = 0
    for at in struct.unpack("<256H", index):
        token = table.find(b"\0", at, at + _LONGEST_TOKEN) - at
        if token < 0:
            raise KallsymsError("one of its tokens has no end")
        longest = max(longest, token)
    if place * longest > _MOST_EXPANDED:
        raise KallsymsError(f"its names have {place} tokens of up to {longest} bytes")


class _Room:
    """Bytes of names that may still be made of an untrusted dump."""

    def __init__(self):
        self._left = MOST_BYTES

    def take(self, count):
        self._left -= count
        if self._left < 0:
            raise KallsymsError(f"its names have more than {MOST_BYTES >> 20} MiB")


def _read(memory, stext, digits, room):
    table, tokens = _tokens(memory, digits)
    for width in (4, 8):
        try:
            markers, marks = _markers(memory, table, width)
            count, names, start = _names(memory, markers, marks, tokens, room)
            break
        except KallsymsError as error:
            why = error
    else:
        raise why
    words = ((chr(name[0]), name[1:].decode(errors="replace")) for name in names)
    return [
        (address, *word) for address, word in zip(_addresses(memory, stext, start, count, names), words, strict=True)
    ]


def _tokens(memory, digits):
    """(start of the token table, its 256 tokens), of the table that has `digits`."""
    ends, place = [], digits
    for _ in range(256 - _FIRST):
        end = memory.find(b"\0", place, place + LONGEST_TABLE)
        if end < 0:
            raise KallsymsError("the token table has no end")
        ends.append((place, end))
        place = end + 1
    if memory[ends[ord("a") - _FIRST][0] :][: len(_LETTERS)] != _LETTERS:
        # Upper-case letters and signs may be replaced by tokens; of the lower-case ones no kernel lacks any.
        raise KallsymsError("the letters are not in the token table")
    for index in range(-(-place // 8) * 8, -(-place // 8) * 8 + 257, 8):
        found = struct.unpack_from("<256H", memory, index) if index + 512 <= len(memory) else (1,)
        start = digits - found[_FIRST] if found[0] == 0 else -1
        if start >= 0 and all(start + at == begin for at, (begin, _end) in zip(found[_FIRST:], ends, strict=True)):
            break
    else:
        raise KallsymsError("there is no token index after the token table")
    tokens = []
    for at in found:
        end = memory.find(b"\0", start + at, index)
        if end < 0 or (tokens and at <= found[len(tokens) - 1]):
            raise KallsymsError("the token index does not fit the token table")
        tokens.append(bytes(memory[start + at : end]))
    return start, tokens


def _markers(memory, table, width):
    """(start of the markers, the markers): offsets of every 256th name, before the token table."""
    letter = "<I" if width == 4 else "<Q"
    place = table - width
    while place > 0 and table - place <= 8 + width and not struct.unpack_from(letter, memory, place)[0]:
        place -= width  # alignment
    marks = []
    while place >= 0 and len(marks) < _MOST_MARKERS:
        (mark,) = struct.unpack_from(letter, memory, place)
        if marks and mark >= marks[-1]:
            break
        marks.append(mark)
        if mark == 0:
            if len(marks) < 3:
                break
            return place, marks[::-1]
        place -= width
    raise KallsymsError("there are no markers before the token table")


def _names(memory, markers, marks, tokens, room):
    """(number of symbols, their names with the type letter in front, offset of the number)."""
    last = marks[-1]
    low = max(0, markers - last - 256 * (_LONGEST_NAME + 1) - 8)
    most = 256 * len(marks)
    tries = _MOST_TRIES
    for start in range((markers - last) & ~7, max(8, low), -8):
        count, rest = struct.unpack_from("<II", memory, start - 8)
        if rest or not most - 256 < count <= most or not _is_begin(memory, start, marks):
            continue
        names = _decode(memory, start, count, marks, end=markers, tokens=tokens, room=room)
        if names is not None:
            return count, names, start - 8
        tries -= 1
        if not tries:
            break
    raise KallsymsError("there are no names before the markers")


def _is_begin(memory, start, marks):
    """Whether 256 names from `start` on end where the second marker says."""
    place = start
    for _ in range(256):
        if place >= len(memory):
            return False
        place += 1 + memory[place]
    return place == start + marks[1]


def _decode(memory, start, count, marks, *, end, tokens, room):
    """The names from `start` on; None where they do not agree with the markers, or with the place of these."""
    names, place = [], start
    join = b"".join
    for number in range(count):
        if place >= end or (not number & 255 and place != start + marks[number >> 8]):
            return None
        length = memory[place]
        name = join([tokens[byte] for byte in memory[place + 1 : place + 1 + length]])
        place += 1 + length
        room.take(len(name) + 1)
        if place > end or not 0 < len(name) <= _LONGEST:
            return None
        names.append(name)
    return names if end - place < 8 else None


def _addresses(memory, stext, number_at, count, names):
    """Addresses, in the one of three forms in which `_stext` is where VMCOREINFO has it."""
    try:
        at = next(index for index, name in enumerate(names) if name[1:] == b"_stext")
    except StopIteration:
        raise KallsymsError("there is no _stext in kallsyms") from None
    absolute = number_at - 8 * count
    if absolute >= 0 and struct.unpack_from("<Q", memory, absolute + 8 * at)[0] == stext:
        return _array("Q", memory, absolute, count)
    start = number_at - 8 - -(-4 * count // 8) * 8
    if start < 0:
        raise KallsymsError("there are no addresses before the names")
    (relative,) = struct.unpack_from("<Q", memory, number_at - 8)
    offsets = _array("i", memory, start, count)
    wrap = (1 << 64) - 1
    # CONFIG_KALLSYMS_ABSOLUTE_PERCPU (commit 2213e9a66bb8 ("kallsyms: add support for relative offsets in kallsyms
    # address table"), v4.6): what is not negative is an address, of a per-CPU variable.
    if (relative - 1 - offsets[at]) & wrap == stext:
        return [offset if offset >= 0 else (relative - 1 - offset) & wrap for offset in offsets]
    if (relative + (offsets[at] & 0xFFFFFFFF)) & wrap == stext:
        return [(relative + (offset & 0xFFFFFFFF)) & wrap for offset in offsets]
    raise KallsymsError("_stext is not where VMCOREINFO has it")


def _array(letter, memory, start, count):
    numbers = array.array(letter)
    numbers.frombytes(memory[start : start + numbers.itemsize * count])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
