"""The signature of a crash: it is the same when the same bug hits another build of the kernel.

It consists of the class of the cause and the significant frames: those between the functions that handle the panic and
the system call or thread. It leaves out addresses, offsets and compilers' suffixes for parts of functions. If the
debugger has no backtrace, the frames are from the call trace in the log: they are the same where both are there, but
for a function that ends in panic(), of which some kernels print the name of the one behind it.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.dump.panic import says_why
from sandbox.explain.oops import stuck_elsewhere
from sandbox.judge.backtrace import Backtrace, Frame
from sandbox.judge.call_trace import below_panic
from sandbox.judge.functions import (
    ALIASES,
    is_address,
    is_checker,
    is_entry,
    is_exception,
    is_interrupt,
    is_machinery,
    is_panic,
    plain_name,
)
from sandbox.judge.trace_lines import TracedFrame, TraceKind
from sandbox.judge.which_trace import blocked_trace, panic_trace
from sandbox.model import PanicCause

FRAMES: Final = 5
"""Number of frames that count. With fewer, different bugs look the same; with more, one bug differs by its callers."""

_FOUND_BY_INTERRUPTS: Final = {PanicCause.SOFT_LOCKUP, PanicCause.HARD_LOCKUP, PanicCause.RCU_STALL}
"""Causes that the handler of an interrupt finds: the bug is what it stopped."""

_CHECKED: Final = {PanicCause.KASAN, PanicCause.KFENCE, PanicCause.KCSAN, PanicCause.KMSAN, PanicCause.UBSAN}
"""Causes that a checker finds: the bug is what called it."""

_ALIKE: Final = {*_FOUND_BY_INTERRUPTS, *_CHECKED, PanicCause.HUNG_TASK, PanicCause.WARNING, PanicCause.ATOMIC}
"""Causes whose panics are of the same words for all bugs."""

_SCHEDULES: Final = re.compile(r"__schedule|schedule\w*|io_schedule\w*|context_switch|__switch_to")
"""Where every task waits, whatever for: kernel/sched/core.c, kernel/time/timer.c."""

_NUMBER: Final = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Equal for two crashes that look like the same bug."""

    id: str | None
    """Twelve hexadecimal digits. None if nothing is known that could tell this crash from others, or too
    little because the log's call trace is cut."""
    cause: str
    frames: tuple[str, ...]
    """Innermost first, at most `FRAMES`."""
    basis: str
    """Source of the frames: backtrace or log; panic if there are no frames and the panic line is used instead; nothing
    if there is neither."""

    @property
    def title(self) -> str:
        """For people, e.g. "null-pointer in foo < bar"."""
        return f"{self.cause} in {' < '.join(self.frames[:3])}" if self.frames else self.cause


def of(
    *, cause: str | None, backtrace: Backtrace | None = None, log: Sequence[str] = (), panic: str | None = None
) -> Signature:
    """Make the signature of a crash of class `cause` from the best source available."""
    basis, cut = "backtrace", False
    # The panic of a lockup that another CPU found is that CPU's, and its stack has nothing of the bug.
    stuck = significant(map(plain_name, stuck_elsewhere(log))) if cause in _FOUND_BY_INTERRUPTS else ()
    frames = significant(_functions(backtrace.frames, cause)) if backtrace and not stuck else ()
    if stuck:
        basis, frames = "log", stuck
    elif not frames or any(is_address(frame) or frame in ALIASES for frame in frames):
        # The kernel itself had the names of functions for which the debugger has no symbols, or a module's second one.
        trace = blocked_trace(log) if cause == PanicCause.HUNG_TASK else None
        trace = trace or panic_trace(log)
        lockup = trace is not None and trace.kind is TraceKind.LOCKUP
        logged = significant(_functions(trace.reliable, cause, lockup=lockup)) if trace else ()
        named = tuple(frame for frame in frames if not is_address(frame))
        basis, frames = ("log", logged) if logged or not named else ("backtrace", named)
        cut = basis == "log" and trace is not None and trace.cut and len(frames) < FRAMES
    alike = cause in _ALIKE
    cause = cause or "unknown"
    words = frames
    if not frames:
        if panic is None or not says_why(panic) or alike:
            return Signature(id=None, cause=cause, frames=(), basis="nothing")
        basis, words = "panic", (_NUMBER.sub("N", panic),)
    if cut:
        # The frames that are missing could tell it from other bugs, and the same bug has another id with them.
        return Signature(id=None, cause=cause, frames=frames, basis=basis)
    digest = hashlib.sha256("\n".join((cause, *words)).encode()).hexdigest()
    return Signature(id=digest[:12], cause=cause, frames=frames, basis=basis)


def significant(functions: Iterable[str]) -> tuple[str, ...]:
    """Select the frames that distinguish bugs, in the same order, with their names in the source."""
    found: list[str] = []
    for function in functions:
        if is_entry(function):
            break
        if not found and is_machinery(function):
            continue
        if not found or found[-1] != function:
            found.append(function)
        if len(found) == FRAMES:
            break
    return tuple(found)


def _functions(frames: Sequence[Frame | TracedFrame], cause: str | None, *, lockup: bool = False) -> Iterator[str]:
    """Functions from the one on that an exception in the kernel stopped, because those above only handle it.

    Without an exception those below panic(). What an interrupt stopped is the bug only where a watchdog says so; else
    it is what the CPU happened to do, mostly nothing, when a handler had a bug.
    """
    names = list(_names(frames))
    watched = lockup or cause in _FOUND_BY_INTERRUPTS or cause == PanicCause.SERROR
    first = next(
        (
            at
            for at, (name, stopped) in enumerate(names)
            if stopped and not is_machinery(name) and (watched or not at or not is_interrupt(names[at - 1][0]))
        ),
        None,
    )
    if first is None and watched:
        # Without registers, as in 3.10: below the entry of the interrupt, of which old kernels have several.
        entries: list[bool] = []
        for name, _ in names:
            of_riscv = name == "handle_exception" and bool(entries) and entries[-1]
            entries.append(is_interrupt(name) or is_exception(name) or of_riscv)
        first = next((at for at in range(1, len(names)) if entries[at - 1] and not entries[at]), None)
    if first is None:
        first = max((at + 1 for at, (name, _) in enumerate(names) if is_panic(name)), default=0)
        if first and names[first - 1][0] == "vpanic":
            traced = [one for one in frames if isinstance(one, TracedFrame)]
            first = below_panic(traced) if len(traced) == len(names) else first
    found = [name for name, _ in names[first:]]
    if cause in _CHECKED:
        found = list(itertools.dropwhile(lambda name: is_checker(name) or is_machinery(name), found))
    elif cause == PanicCause.HUNG_TASK:
        found = list(itertools.dropwhile(_SCHEDULES.fullmatch, found))
    yield from found


def _names(frames: Sequence[Frame | TracedFrame]) -> Iterator[tuple[str, bool]]:
    """Plain names, and whether an exception stopped the function."""
    for frame in frames:
        if isinstance(frame, TracedFrame):
            name = plain_name(frame.function)
            yield f"(in front of {name})" if frame.nameless else name, frame.stopped
            continue
        if not frame.inline:
            yield plain_name(frame.function), frame.stopped
        if frame.exception:
            yield plain_name(frame.exception), True
