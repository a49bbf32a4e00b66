"""Who waits for whom as the rows of a drawing: what holds stands left, what waits for it is below and to the right.

Of many tasks that wait for one lock the first are named and the rest counted: a drawing of thousands is as large as one
of a few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.explain.waits import Wait, Waits

_MOST: Final = 60
"""Rows."""
_NAMED: Final = 3
"""Tasks of one lock that are named."""
HEIGHT: Final = 26
"""Pixels of a row."""
_STEP: Final = 28
_LETTER: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    depth: int
    text: str
    lock: bool = False
    """Whether it is a lock, and not a task."""
    hot: bool = False
    """Whether it is part of a deadlock."""
    parent: int | None = None
    """Index of the row that holds it up."""

    @property
    def x(self) -> int:
        return self.depth * _STEP

    @property
    def width(self) -> int:
        return _LETTER * len(self.text) + 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    rows: tuple[Row, ...]
    left_out: bool
    """Whether there are more than are drawn."""

    @property
    def width(self) -> int:
        return max((row.x + row.width for row in self.rows), default=0) + 4

    @property
    def height(self) -> int:
        return len(self.rows) * HEIGHT


def draw(waits: Waits) -> Drawing:
    """The drawing: deadlocks first, then the tasks with most behind them, then locks of which no owner is known."""
    rows: list[Row] = []
    for row in _Tree(waits).rows(rows):
        if len(rows) == _MOST:
            return Drawing(rows=tuple(rows), left_out=True)
        rows.append(row)
    return Drawing(rows=tuple(rows), left_out=False)


class _Tree:
    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._commands = {one.pid: one.command for one in waits.waits} | {one.pid: one.command for one in waits.roots}
        self._deadlocked = {pid for cycle in waits.cycles for pid in cycle}
        self._held: dict[int, dict[str, list[Wait]]] = {}
        self._free: dict[str, list[Wait]] = {}
        for one in waits.waits:
            label = f"{one.kind or 'in'} {one.lock or one.function or 'an unknown place'}"
            if one.owner is not None and one.confirmed is not False:
                self._held.setdefault(one.owner, {}).setdefault(label, []).append(one)
            else:
                self._free.setdefault(label, []).append(one)
        self._drawn: set[int] = set()

    def rows(self, so_far: list[Row]) -> Iterator[Row]:
        """`so_far` are the rows that were taken: what is below them refers to their numbers."""
        for cycle in self._waits.cycles:
            yield from self._task(cycle[0], 0, None, so_far)
        for root in self._waits.roots:
            if root.pid not in self._drawn:
                yield from self._task(root.pid, 0, None, so_far)
        for label, some in sorted(self._free.items(), key=lambda item: -len(item[1])):
            left = [one for one in some if one.pid not in self._drawn]
            if left:
                yield from self._lock(label, left, 0, None, so_far)

    def _task(self, pid: int, depth: int, parent: int | None, so_far: list[Row]) -> Iterator[Row]:
        again = pid in self._drawn
        name = f"{self._commands.get(pid, '?')} {pid}"
        number = len(so_far)
        yield Row(depth=depth, text=f"{name} (above)" if again else name, hot=pid in self._deadlocked, parent=parent)
        if again:
            return
        self._drawn.add(pid)
        for label, some in self._held.get(pid, {}).items():
            yield from self._lock(label, some, depth + 1, number, so_far)

    def _lock(self, label: str, some: list[Wait], depth: int, parent: int | None, so_far: list[Row]) -> Iterator[Row]:
        number = len(so_far)
        tasks = "1 task waits" if len(some) == 1 else f"{len(some)} tasks wait"
        hot = sum(1 for one in some if one.pid in self._deadlocked) > 0
        yield Row(depth=depth, text=f"{label}: {tasks}", lock=True, hot=hot, parent=parent)
        holding = [one for one in some if one.pid in self._held]
        others = [one for one in some if one.pid not in self._held]
        for one in holding:
            yield from self._task(one.pid, depth + 1, number, so_far)
        self._drawn |= {one.pid for one in others}
        if others:
            names = ", ".join(f"{one.command} {one.pid}" for one in others[:_NAMED])
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            yield Row(depth=depth + 1, text=names + more, parent=number)
