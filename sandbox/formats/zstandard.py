"""Zstandard, from the module that this Python has: its own since 3.14, before that the backport (a dependency)."""

from __future__ import annotations

import sys
from typing import Any

from sandbox.formats.streams import CorruptData


def module() -> Any:
    """`compression.zstd` or its backport; both have the same interface. Imported only when something is zstd."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def decompressor(window: int) -> Any:
    """A decompressor that refuses windows above 2**`window` bytes: a few bytes of input can ask for gigabytes."""
    zstd = module()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})


def decompress(data: bytes, limit: int) -> bytes:
    """Decompresses one frame to at most `limit` bytes. Raises `CorruptData`."""
    zstd = module()
    try:
        return bytes(zstd.ZstdDecompressor().decompress(data, limit))
    except zstd.ZstdError as error:
        raise CorruptData(str(error)) from error
