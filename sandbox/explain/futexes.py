"""Futexes that tasks wait on, in sentences: which, who waits there, and the owner where the kernel knows one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.explain.model import Sentence
from sandbox.explain.wait_facts import FutexFacts, WaitAnswer, WaitFacts

_SHOWN: Final = 10
_NAMED: Final = 4
"""Tasks of one futex that are named in its sentence."""
_TID: Final = 0x3FFFFFFF
"""FUTEX_TID_MASK: the part of the word that names the owner, of a futex with priority inheritance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Futex:
    """A futex that tasks wait on. Most of them are threads that have nothing to do."""

    address: str | None
    """In the memory of the process, hexadecimal, with 0x; None where it is not known."""
    process: str
    """Command and PID of the process of its first waiter."""
    shared: bool
    """Whether processes share it by a file or memory."""
    waiting: int
    waiters: tuple[int, ...]
    """PIDs of at most 64 of them."""
    seconds: float | None
    """Of the one that waits longest."""
    owner: int | None
    """PID; the kernel's own record of a futex with priority inheritance, and of no other."""
    no_owner: str | None
    word: int | None
    """Its 32 bits; None for a page that is not in the dump."""
    no_word: str | None


def futexes(answer: WaitAnswer) -> tuple[Futex, ...]:
    """Those with an owner first, then those with most waiters."""
    found = [_futex(one) for one in answer.futexes]
    return tuple(sorted(found, key=lambda one: (one.owner is None, -one.waiting)))


def waits(answer: WaitAnswer) -> Iterator[WaitFacts]:
    """Yield the waits for futexes with an owner, as those for any lock. These tasks sleep interruptibly."""
    for one in answer.futexes:
        for waiter in one.waiters if one.owner is not None else ():
            if waiter.pid != one.owner:
                yield WaitFacts(
                    pid=waiter.pid,
                    command=waiter.command,
                    seconds=waiter.seconds,
                    kind="futex",
                    function="",
                    functions=(),
                    # A lock has an address; without, it is known by no name.
                    lock=one.address or 0,
                    name=f"of process {one.process}",
                    owner=one.owner,
                    no_owner="",
                    listed=True,
                )


def _futex(one: FutexFacts) -> Futex:
    seconds = [waiter.seconds for waiter in one.waiters if waiter.seconds is not None]
    return Futex(
        address=None if one.address is None else f"0x{one.address:x}",
        process=f"{one.command} (PID {one.process})",
        shared=one.shared,
        waiting=one.count,
        waiters=tuple(waiter.pid for waiter in one.waiters),
        seconds=max(seconds, default=None),
        owner=one.owner,
        no_owner=_no_owner(one),
        word=one.word,
        no_word=None if one.word is not None else one.no_word,
    )


def _no_owner(one: FutexFacts) -> str | None:
    if one.owner is not None:
        return None
    if one.inherits:
        return "the kernel's record of its owner is empty"
    return "the kernel knows an owner only of a futex with priority inheritance, and this is none"


def sentences(answer: WaitAnswer) -> Iterator[Sentence]:
    found = sorted(answer.futexes, key=lambda one: (one.owner is None, -one.count))
    for one in found[:_SHOWN]:
        names = [f"{waiter.command} (PID {waiter.pid})" for waiter in one.waiters[:_NAMED]]
        if one.count > len(names):
            names.append(f"{one.count - len(names)} more")
        seconds = max((waiter.seconds for waiter in one.waiters if waiter.seconds is not None), default=None)
        since = f", for {seconds:.1f} s at most" if seconds is not None else ""
        yield Sentence(
            topic="futexes",
            text=f"{_listed(names)} {'waits' if one.count == 1 else 'wait'} on the futex {_which(one)}{since}. "
            f"{_owner(one)}",
            command=f"bt {one.waiters[0].pid}",
        )
    if found and found[-1].owner is None:
        yield Sentence(
            topic="futexes",
            text="The kernel knows the owner of a futex with priority inheritance alone; who is to wake the others is "
            "not known.",
            command=None,
        )
    if len(found) > _SHOWN:
        more = sum(one.count for one in found[_SHOWN:])
        yield Sentence(
            topic="futexes",
            text=f"On {len(found) - _SHOWN} more futexes {more} tasks wait; threads that have nothing to do are such.",
            command="foreach bt",
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _which(one: FutexFacts) -> str:
    at = f"at 0x{one.address:x}" if one.address is not None else "at an address that is not known"
    shared = ", which processes share" if one.shared else ""
    return f"{at} of {one.command} (PID {one.process}){shared}"


def _owner(one: FutexFacts) -> str:
    if one.owner is None:
        word = f"Its word is {one.word}" if one.word is not None else f"Its word is not known: {one.no_word}"
        return f"{word}{'; the record of its owner is empty' if one.inherits else ''}."
    if one.word is None:
        return f"PID {one.owner} has it; its word is not known: {one.no_word}."
    tid = one.word & _TID
    same = "as its word says, too" if tid == one.owner else f"its word names {tid}, a number of its own PID namespace"
    return f"PID {one.owner} has it, {same}."
