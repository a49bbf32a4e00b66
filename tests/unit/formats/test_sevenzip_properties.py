"""A coder of a 7z archive without the properties it needs is damage, and no crash."""

import struct

import pytest

from sandbox.formats import sevenzip
from sandbox.formats.streams import CorruptData


class Bytes:
    def __init__(self, content):
        self._content = content
        self.size = len(content)

    def read_at(self, offset, size):
        return self._content[offset : offset + size]


@pytest.mark.parametrize("method", [b"\x03\x01\x01", b"\x21", b"\x03"])
@pytest.mark.parametrize("properties", [None, b""])
def test_no_properties(method, properties):
    flags = len(method) | (0 if properties is None else 0x20)
    coder = bytes([flags]) + method + (b"" if properties is None else b"\0")
    header = b"\1\4" + b"\6\0\1\x09\5\0" + b"\7\x0b\1\0" + b"\1" + coder + b"\x0c\x10\0" + b"\0" + b"\5\1\0" + b"\0"
    head = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + struct.pack("<QQI", 5, len(header), 0)
    with pytest.raises(CorruptData):
        next(sevenzip.members(Bytes(head + bytes(5) + header)))
