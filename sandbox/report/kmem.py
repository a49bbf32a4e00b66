"""Parse the memory that `kmem -i` and `kmem -s` of crash and of drgn print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sandbox.judge.backtrace import INTEGER

_TOTALS: Final = re.compile(r"^\s*([A-Z][A-Z ]*[A-Z])\s+(\d{1,12})\s+([\d.]+(?: ?[KMGT]?B)?)(?:\s|$)")
_CACHE: Final = re.compile(
    rf"^[0-9a-f]{{6,16}}\s+(?P<object>{INTEGER})\s+(?P<allocated>{INTEGER})\s+(?P<total>{INTEGER})"
    r"\s+(?P<slabs>\d{1,9})\s+(?P<slab>\d{1,6})k\s+(?P<name>\S+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All in bytes."""

    total: int
    free: int
    used: int
    shared: int
    buffers: int
    cached: int
    slab: int
    swap_total: int
    swap_used: int
    commit_limit: int
    committed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabCache:
    name: str
    object_size: int
    """Bytes."""
    allocated: int
    """Objects in use."""
    total: int
    """Objects that fit into its slabs."""
    bytes: int
    """All slabs together."""


def totals(text: str, page_size: int = 4096) -> Memory | None:
    """Parse `kmem -i`; None if it is empty. Uses the numbers of pages, because crash rounds the sizes."""
    found: dict[str, int] = {}
    for row in filter(None, map(_TOTALS.match, text.splitlines())):
        found[row[1]] = int(row[2]) * page_size
    if "TOTAL MEM" not in found:
        return None
    return Memory(
        total=found["TOTAL MEM"],
        free=found.get("FREE", 0),
        used=found.get("USED", 0),
        shared=found.get("SHARED", 0),
        buffers=found.get("BUFFERS", 0),
        cached=found.get("CACHED", 0),
        slab=found.get("SLAB", 0),
        swap_total=found.get("TOTAL SWAP", 0),
        swap_used=found.get("SWAP USED", 0),
        commit_limit=found.get("COMMIT LIMIT", 0),
        committed=found.get("COMMITTED", 0),
    )


def slab_caches(text: str) -> tuple[SlabCache, ...]:
    """Parse `kmem -s`; the largest caches first."""
    found = (
        SlabCache(
            name=row["name"],
            object_size=int(row["object"]),
            allocated=int(row["allocated"]),
            total=int(row["total"]),
            bytes=int(row["slabs"]) * int(row["slab"]) * 1024,
        )
        for row in map(_CACHE.match, text.splitlines())
        if row
    )
    return tuple(sorted(found, key=lambda one: -one.bytes))
