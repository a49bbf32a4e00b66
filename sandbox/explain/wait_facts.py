"""What the script `Containerfile.d/files/explain-waits.py` is asked in a case, and its answer, checked as `facts`.

The script is sent with its two parts in front of it, and not a file of the image: an image may be older.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.host import decode, paths

MOST: Final = 5000
"""Blocked tasks that are read."""
MOST_REQUESTS: Final = 5000
"""Requests in flight that are read."""
MOST_FUTEXES: Final = 2000
_PARTS: Final = ("wait-owners.py", "wait-futexes.py", "explain-waits.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFacts:
    """One task in uninterruptible sleep."""

    pid: int
    command: str
    seconds: float | None
    """Since it ran last."""
    kind: str
    """Structure that it waits for, e.g. mutex; empty where it waits in no way that is known here."""
    function: str
    """In which it waits; empty for one whose stack was not read, because the lock's list of waiters has it."""
    functions: tuple[str, ...]
    """The innermost ones, without the scheduler's, down to the one that has the lock."""
    lock: int | None
    name: str | None
    """Symbol at the lock's address."""
    owner: int | None
    """PID of the task that holds it."""
    no_owner: str
    """Why there is none."""
    listed: bool | None
    """Whether the lock's own list of waiters has the task; None where that list is not read."""
    word: int | None = None
    """Address of the lock's word that has the owner; None for a lock that has none."""
    task: int | None = None
    """Address of the owner's task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerFacts:
    """A task that holds a lock and is not blocked itself."""

    pid: int
    command: str
    state: str
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningWork:
    pid: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """A worker pool of which work waits."""

    pool: int
    cpu: int
    """-1 for one of no CPU."""
    seconds: float
    """Since it began work last."""
    running: tuple[RunningWork, ...]
    waiting: tuple[str, ...]
    """Functions of the work; empty for one without a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """A request that a disk's driver has and has not ended."""

    disk: str
    operation: str
    """read, write, flush, …"""
    sector: int
    """Of 512 bytes, on the whole disk."""
    bytes: int
    seconds: float | None
    """Since it was made; None where the kernel did not note it."""
    holds: tuple[int, ...]
    """Addresses of what is waited for until it has ended: folios, buffer heads, completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutexWaiter:
    pid: int
    command: str
    seconds: float | None
    """Since it ran last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutexFacts:
    """A futex that tasks wait on, by the kernel's own table of them."""

    address: int | None
    """In the memory of `process`."""
    shared: bool
    """Whether its page is one of a file, or of memory that processes share."""
    process: int
    """PID of the process of the first waiter."""
    command: str
    count: int
    """Tasks that wait; `waiters` are at most 64 of them."""
    waiters: tuple[FutexWaiter, ...]
    word: int | None
    """Its 32 bits."""
    no_word: str
    """Why they are not known."""
    inherits: bool
    """Whether it is one with priority inheritance: of these alone the kernel knows an owner."""
    owner: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitAnswer:
    errors: Mapping[str, str]
    blocked: int
    """All of them; `waits` has at most `MOST`."""
    waits: tuple[WaitFacts, ...]
    owners: tuple[OwnerFacts, ...]
    pools: tuple[PoolFacts, ...]
    requests: tuple[RequestFacts, ...] = ()
    futexes: tuple[FutexFacts, ...] = ()


def script() -> bytes:
    return b"\n".join((paths.data_dir() / "Containerfile.d" / "files" / name).read_bytes() for name in _PARTS)


def request(modules: Mapping[str, bytes], given: Collection[str] = ()) -> str:
    """The argument of the script. `modules` are debug files by which locks in modules get their names.

    Of those that are `given` by the user it is said if the kernel had not loaded them.
    """
    files = {name: base64.b64encode(content).decode() for name, content in modules.items()}
    most = {"most": MOST, "most_requests": MOST_REQUESTS, "most_futexes": MOST_FUTEXES}
    return json.dumps({**most, "modules": files, "given": sorted(given)})


def read(answer: bytes) -> WaitAnswer:
    """Raises `DecodeError` for an answer that is not understood."""
    found = decode.decode(WaitAnswer, decode.parse_json(answer), keys="any")
    if len(found.waits) > MOST:
        raise decode.DecodeError(f"{len(found.waits)} tasks, and {MOST} at most were asked for")
    if len(found.requests) > MOST_REQUESTS:
        raise decode.DecodeError(f"{len(found.requests)} requests, and {MOST_REQUESTS} at most were asked for")
    if len(found.futexes) > MOST_FUTEXES:
        raise decode.DecodeError(f"{len(found.futexes)} futexes, and {MOST_FUTEXES} at most were asked for")
    if any(one.count < len(one.waiters) or not one.waiters for one in found.futexes):
        raise decode.DecodeError("a futex has another number of waiters")
    if any(one.owner is not None and not one.inherits for one in found.futexes):
        raise decode.DecodeError("a futex without priority inheritance has an owner")
    if any(one.owner is not None and one.lock is None for one in found.waits):
        raise decode.DecodeError("a task has an owner of no lock")
    of_waits = (number for one in found.waits for number in (one.pid, one.owner, one.lock, one.word, one.task))
    of_futexes = (
        number
        for one in found.futexes
        for number in (one.address, one.process, one.word, one.owner, *(waiter.pid for waiter in one.waiters))
    )
    numbers = (*of_waits, *of_futexes, *(one.pid for one in found.owners))
    if any(number is not None and number < 0 for number in numbers):
        raise decode.DecodeError("a PID or an address has no sign")
    return found
