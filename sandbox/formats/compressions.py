"""Compressions of one stream of bytes: their names, and one loop that unpacks them all.

A package or dump unpacks to gigabytes, and a crafted one asks for a dictionary of gigabytes. So only one step of data
is in memory, and the memory of a decompressor is bounded.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from sandbox.formats.streams import CHUNK, ChunkStream, CorruptData, Stream, UnsupportedFormat

_STEP: Final = CHUNK
"""Most bytes that one step of decompression reads, and that it returns."""

_FIRST_STEP: Final = 4 << 10
"""Bytes of a member that are unpacked first. At the end of a member a decompressor copies what is left of its input,
and there may be thousands of members in a step."""

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
    """The common interface of the decompressors of lzma, bz2 and zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def by_suffix(suffix: str) -> str | None:
    """The compression for a suffix such as ".gz"; "none" for an empty one, None for an unknown one."""
    return COMPRESSIONS.get(suffix.removeprefix(".")) if suffix else "none"


def decompressed(stream: Stream, name: str, *, memory: int = _MEMORY, padded: bool = False) -> Stream:
    """Decompresses all members of `stream`, one after the other; `name` is a key or value of the table, or "none".

    `memory` limits the dictionary, for zstd rounded up to a power of two. `padded`: bytes that do not begin a member
    end the stream and are no damage. Raises `UnsupportedFormat`; reading the result raises `CorruptData`.
    """
    match name:
        case "gz" | "gzip":
            return ChunkStream(chunks(stream, lambda: Zlib(31), zlib.error, padded=padded), stream)
        case "bz2" | "bzip2":
            return ChunkStream(chunks(stream, bz2.BZ2Decompressor, OSError, padded=padded), stream)
        case "xz" | "lzma":
            return ChunkStream(
                chunks(stream, lambda: lzma.LZMADecompressor(memlimit=memory), lzma.LZMAError, padded=padded), stream
            )
        case "zst" | "zstd":
            from sandbox.formats import zstandard

            window = (memory - 1).bit_length()
            return ChunkStream(
                chunks(stream, lambda: zstandard.decompressor(window), zstandard.module().ZstdError, padded=padded),
                stream,
            )
        case "lz4":
            from sandbox.formats import lz4

            return ChunkStream(lz4.unpacked(stream), stream)
        case "lzop":
            from sandbox.formats import lzo

            return ChunkStream(lzo.unpacked(stream), stream)
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
    """Decompresses members one after the other; zeros between them are padding, as in xz."""
    data, at = stream.read(_STEP), 0
    while at < len(data):
        one, begun, step = make(), False, _FIRST_STEP
        piece = data[at : at + step]
        at += len(piece)
        while True:
            try:
                out = one.decompress(piece, _STEP)
            except (failure, EOFError) as error:
                if padded and not begun:
                    return
                raise CorruptData(f"the compressed data is damaged ({error})") from error
            begun = True
            if out:
                yield out
            # A bomb gives output for hours without wanting input, and members may be empty.
            stream.ask()
            if one.eof:
                at -= len(one.unused_data)
                break
            piece = b""
            if one.needs_input:
                if at == len(data):
                    data, at = stream.read(_STEP), 0
                step = min(2 * step, _STEP)
                piece = data[at : at + step]
                at += len(piece)
                if not piece and not out:
                    raise CorruptData("the compressed data ends too early")
        while (at := _behind_zeros(data, at)) == len(data) and data:
            stream.ask()
            data, at = stream.read(_STEP), 0


def _behind_zeros(data: bytes, at: int) -> int:
    while at < len(data) and not data[at]:
        step = data[at : at + _FIRST_STEP]
        at += len(step) - len(step.lstrip(b"\0"))
    return at
