"""Writes BTF as include/uapi/linux/btf.h has it."""

import struct


class Writer:
    """`add` returns the id of the type. With `base`, a writer too, ids and strings go on from there."""

    def __init__(self, base=None):
        self.next = base.next if base else 1
        self.string_start = base.string_start + len(base.strings) if base else 0
        self.base = base
        self.strings = b"" if base else b"\0"
        self.types = b""

    def string(self, text):
        if not text:
            return 0
        one = self
        while one is not None:
            at = (b"\0" + one.strings).find(b"\0" + text.encode() + b"\0")
            if at >= 0:
                return one.string_start + at
            one = one.base
        self.strings += text.encode() + b"\0"
        return self.string_start + len(self.strings) - len(text) - 1

    def add(self, kind, name="", size=0, rest=b"", *, vlen=0, flag=False):
        self.types += struct.pack("<III", self.string(name), flag << 31 | kind << 24 | vlen, size) + rest
        self.next += 1
        return self.next - 1

    def struct(self, name, size, *members, flag=False, kind=4):
        rest = b"".join(
            struct.pack("<III", self.string(word), type_, bits << 24 | offset) for word, type_, offset, bits in members
        )
        return self.add(kind, name, size, rest, vlen=len(members), flag=flag)

    def bytes(self):
        sizes = 0, len(self.types), len(self.types), len(self.strings)
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self.types + self.strings
