"""Zstandard, from whichever module this Python has: its own from 3.14 on, the backport before."""

from __future__ import annotations

from typing import Any


class ZstdMissingError(Exception):
    """No module can decompress zstd here. Caught inside this package."""


def module() -> Any:
    """`compression.zstd` or its backport; both have the same interface. Raises `ZstdMissingError`."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found,no-redef,unused-ignore]
        except ImportError:
            raise ZstdMissingError from None
    return zstd


def decompress(data: bytes, limit: int) -> bytes:
    """One frame, of at most `limit` bytes. Raises `ValueError` for a damaged one."""
    zstd = module()
    try:
        return bytes(zstd.ZstdDecompressor().decompress(data, limit))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
