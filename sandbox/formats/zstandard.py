"""Zstandard, from whichever module this Python has: its own from 3.14 on, the backport before (a dependency)."""

from __future__ import annotations

import sys
from typing import Any


def module() -> Any:
    """`compression.zstd` or its backport; both have the same interface. Imported only when something is zstd."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def errors() -> tuple[type[Exception], ...]:
    """What the module raises for damaged data; nothing before it is in use, so that nobody else loads it."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    loaded = sys.modules.get(name)
    return (loaded.ZstdError,) if loaded is not None else ()


def decompress(data: bytes, limit: int) -> bytes:
    """One frame, of at most `limit` bytes. Raises `ValueError` for a damaged one."""
    zstd = module()
    try:
        return bytes(zstd.ZstdDecompressor().decompress(data, limit))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
