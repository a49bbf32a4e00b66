"""Progress as the protocol's notices: a first opening takes minutes, and a client gives up on a silent server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock
from typing import Final

from sandbox.progress import Step
from sandbox.render import size

_BETWEEN: Final = 1.0
"""Seconds between two notices of one step."""


class ProgressNotices:
    """A `Reporter` whose steps are notices, sent from the thread of a tool through the loop of the server."""

    def __init__(self, send: Callable[[float, str], Awaitable[None]], loop: asyncio.AbstractEventLoop) -> None:
        self._send = send
        self._loop = loop
        self._lock = Lock()
        self._count = 0
        self._sent: list[Future[None]] = []

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Step]:
        self.notice(title)
        yield _Step(self, title, total, unit)

    def notice(self, line: str) -> None:
        async def told(count: int) -> None:
            await self._send(count, line)

        with self._lock:
            # The protocol wants a number that grows. How much there is to do is not known.
            self._count += 1
            self._sent.append(asyncio.run_coroutine_threadsafe(told(self._count), self._loop))

    async def ended(self) -> None:
        """Wait until all is sent: what comes behind the answer is of no request."""
        await asyncio.gather(*map(asyncio.wrap_future, self._sent), return_exceptions=True)


class _Step:
    def __init__(self, notices: ProgressNotices, title: str, total: int | None, unit: str) -> None:
        self._notices = notices
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0
        self._told = time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount
        of = f" of {self._amount(self._total)}" if self._total else ""
        self._tell(f"{self._amount(self._done)}{of}")

    def total(self, amount: int) -> None:
        self._total = amount

    def detail(self, line: str) -> None:
        self._tell(line)

    def _amount(self, number: int) -> str:
        return size(number) if self._unit == "B" else str(number)

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now - self._told >= _BETWEEN:
            self._told = now
            self._notices.notice(f"{self._title}: {text}")
