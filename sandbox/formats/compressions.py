"""Compressions of one stream of bytes: how they are called, and one loop that unpacks them.

A package or dump unpacks to gigabytes, and a crafted one asks for a dictionary of as many: nothing here holds more than
a step, and the memory of a decompressor is bounded.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from sandbox.formats.streams import CHUNK, ChunkStream, CorruptData, Stream, UnsupportedFormat

_STEP: Final = CHUNK
"""Bytes that one step of decompression gives at most, and reads at most."""

_MEMORY: Final = 256 << 20
"""xz -9 needs 65 MiB to decompress, the kernel's own xz_wrap.sh 128 MiB."""


COMPRESSIONS: Final = {
    "gz": "gzip",
    "bz2": "bzip2",
    "xz": "xz",
    "lzma": "lzma",
    "zst": "zstd",
    "lz4": "lz4",
    "lzo": "lzop",
}
"""What rpm calls a compression, by the suffix of its files."""


class Decompressor(Protocol):
    """What the decompressors of lzma, bz2 and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def by_suffix(suffix: str) -> str | None:
    """The compression of a file whose name ends so (".gz"); "none" without a suffix, None for an unknown one."""
    return COMPRESSIONS.get(suffix.removeprefix(".")) if suffix else "none"


def decompressed(stream: Stream, name: str, *, memory: int = _MEMORY, padded: bool = False) -> Stream:
    """What `stream` unpacks to, all its members one after the other; `name` is a key or value of the table, or "none".

    `memory` bounds what a dictionary may take, for zstd up to the next power of two. `padded`: what does not begin as a
    member does is no damage, and ends the stream. Raises `UnsupportedFormat`; what is returned raises `CorruptData`.
    """
    match name:
        case "gz" | "gzip":
            return ChunkStream(chunks(stream, lambda: Zlib(31), zlib.error, padded=padded))
        case "bz2" | "bzip2":
            return ChunkStream(chunks(stream, bz2.BZ2Decompressor, OSError, padded=padded))
        case "xz" | "lzma":
            return ChunkStream(
                chunks(stream, lambda: lzma.LZMADecompressor(memlimit=memory), lzma.LZMAError, padded=padded)
            )
        case "zst" | "zstd":
            from sandbox.formats import zstandard

            window = (memory - 1).bit_length()
            return ChunkStream(
                chunks(stream, lambda: zstandard.decompressor(window), zstandard.module().ZstdError, padded=padded)
            )
        case "lz4":
            from sandbox.formats import lz4

            return ChunkStream(lz4.unpacked(stream))
        case "lzop":
            from sandbox.formats import lzo

            return ChunkStream(lzo.unpacked(stream))
        case "none":
            return stream
        case _:
            raise UnsupportedFormat(f"it is compressed with {name}, which is not read here")


class Zlib:
    """zlib's decompressor with the interface of bz2's; `window` as zlib's inflateInit2 has it."""

    def __init__(self, window: int) -> None:
        self._object = zlib.decompressobj(window)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


def chunks(
    stream: Stream, make: Callable[[], Decompressor], failure: type[Exception], *, padded: bool
) -> Iterator[bytes]:
    """Members of one compression, one behind the other; zeros between them are padding, as xz has it."""
    data = stream.read(_STEP)
    while data:
        one, begun = make(), False
        while True:
            try:
                out = one.decompress(data, _STEP)
            except (failure, EOFError) as error:
                if padded and not begun:
                    return
                raise CorruptData(f"the compressed data is damaged ({error})") from error
            begun = True
            if out:
                yield out
            if one.eof:
                break
            # Reading nothing asks the clock: a bomb gives output for hours without wanting input.
            data = stream.read(0)
            if one.needs_input:
                data = stream.read(_STEP)
                if not data and not out:
                    raise CorruptData("the compressed data ends too early")
        data = one.unused_data.lstrip(b"\0")
        while not data and (more := stream.read(_STEP)):
            data = more.lstrip(b"\0")
