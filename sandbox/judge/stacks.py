"""Compare the stack that a debugger prints with another witness's: the kernel's own call trace, or another debugger.

A debugger that misreads a kernel's types or unwind tables does not fail, it prints functions that were never called.
The kernel's trace of the panic was made by its own unwinder and needs no debuginfo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile, pairwise, zip_longest
from typing import Final

from sandbox.judge.backtrace import Backtrace
from sandbox.judge.call_trace import CallTrace
from sandbox.judge.functions import (
    ALIASES,
    is_address,
    is_bound,
    is_closure,
    is_entry,
    is_machinery,
    is_of_run_time,
    is_panic,
    is_return_hook,
    is_switch,
    kind_of_entry,
    one_of_its_names,
    plain_name,
    rust_names,
    system_call,
)
from sandbox.judge.trace_lines import TraceKind
from sandbox.judge.verdict import Verdict

LOG: Final = "the log's call trace"

_ENTRY_NAMES: Final = "entry_SYSCALL_64"
"""One stub with several labels: entry_SYSCALL_64_after_hwframe, entry_SYSCALL_64_fastpath."""


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    optional: bool = False
    """Inlined: the other witness need not have it."""
    any_name: bool = False
    """It has an address and no name, or the name of the function behind it."""
    stopped: bool = False
    """What an exception or an interrupt stopped."""
    module: str | None = None
    """None if it is not said, too."""
    unknown: int = 0
    """Addresses before it for which the log has no name."""


def judge(stack: Backtrace, trace: CallTrace, *, by: str) -> Verdict | None:
    """Compare a debugger's stack with the log's trace of the same task; None for another task, or if one is empty.

    `by` is the debugger's name.
    """
    if not _same_task(stack, trace):
        return None
    mine, log = list(_of_debugger(stack)), list(_of_log(trace))
    if trace.kind is TraceKind.BLOCKED:
        mine, log = (list(dropwhile(lambda one: is_switch(one.name) or one.optional, each)) for each in (mine, log))
    found = _compare(mine, log, by=by, against=LOG, complaint=stack.complaint, whole=trace.user)
    return None if found is None else replace(found, pid=stack.pid, command=stack.command)


def why_not(found: Sequence[Backtrace], trace: CallTrace, *, by: str) -> str | None:
    """Why none of the stacks that a debugger prints has a verdict; None where that is because they are other tasks'."""
    if any(_same_task(stack, trace) for stack in found):
        return "the log's call trace and the stack do not have two functions below the panic in common that have names"
    if trace.pid is None:
        return "the log's call trace does not say of which task it is"
    if len(found) == 1:
        return f"the kernel printed the panic in PID {trace.pid}, and this is PID {found[0].pid} of {by}"
    return None


def judge_task(stack: Backtrace, trace: CallTrace, *, by: str) -> Verdict | None:
    """As `judge` of the stack that the debugger gives for the task that panicked: another task disagrees."""
    if stack.frames and trace.pid is not None and not _same_task(stack, trace):
        where = f"PID {trace.pid} on CPU {trace.cpu}" if trace.cpu is not None else f"PID {trace.pid}"
        return Verdict(
            subject="stack",
            agrees=False,
            by=by,
            against=LOG,
            words=f"{by} names PID {stack.pid} on CPU {stack.cpu}, the kernel printed the panic in {where}",
            stack=tuple(step.name for step in _of_debugger(stack)),
            witness=tuple(step.name for step in _of_log(trace)),
            pid=stack.pid,
            command=stack.command,
        )
    return judge(stack, trace, by=by)


def between(first: Backtrace, second: Backtrace, *, by: str, against: str) -> Verdict | None:
    """Compare the stacks that two debuggers print for one task; None if one of them has none."""
    if first.task != second.task or first.pid != second.pid:
        if not first.frames or not second.frames:
            return None
        words = f"{by} names PID {first.pid}, {against} PID {second.pid}"
        names = [tuple(step.name for step in _of_debugger(one)) for one in (first, second)]
        found: Verdict | None = Verdict(
            subject="stack", agrees=False, by=by, against=against, words=words, stack=names[0], witness=names[1]
        )
    else:
        found = _compare(list(_of_debugger(first)), list(_of_debugger(second)), by=by, against=against)
    return None if found is None else replace(found, pid=first.pid, command=first.command)


def _same_task(stack: Backtrace, trace: CallTrace) -> bool:
    # Each CPU has an idle task of PID 0.
    return stack.pid == trace.pid and (stack.pid != 0 or trace.cpu is None or stack.cpu == trace.cpu)


def _of_debugger(stack: Backtrace) -> Iterator[_Step]:
    for frame, outer in zip_longest(stack.frames, stack.frames[1:]):
        if frame.inline and outer is not None and plain_name(frame.function) == plain_name(outer.function):
            continue  # one function of which the compiler put a part into the other: run_ksoftirqd() of 6.1
        any_name = _any_name(frame.function)
        yield _Step(_named(frame.function), optional=frame.inline, any_name=any_name, module=frame.module)
        if frame.exception:
            yield _Step(_named(frame.exception), any_name=_any_name(frame.exception), stopped=True)


def _of_log(trace: CallTrace) -> Iterator[_Step]:
    unknown = 0
    for frame in trace.reliable:
        unknown += frame.unknown
        if is_of_run_time(frame.function):
            unknown += 1
            continue
        yield _Step(
            _named(frame.function),
            any_name=frame.nameless or _any_name(frame.function),
            stopped=frame.stopped,
            module=frame.module,
            unknown=unknown,
        )
        unknown = 0


def _any_name(function: str) -> bool:
    return (
        is_address(function)
        or is_closure(function)
        or is_return_hook(plain_name(function))
        or (is_bound(function) and one_of_its_names(function) == function)
    )


def _named(function: str) -> str:
    name = plain_name(function)
    return _ENTRY_NAMES if name.startswith(_ENTRY_NAMES) else name


def _below_panic(steps: Sequence[_Step]) -> list[_Step]:
    """What led to the panic: without panic() and what it calls, and without what handles an exception."""
    begin = max((at + 1 for at, step in enumerate(steps) if is_panic(step.name)), default=0)
    if begin and steps[begin - 1].name == "vpanic" and begin < len(steps) and steps[begin].any_name:
        begin += 1  # panic() ends with its call of vpanic(): the address behind that has no name of its own
    while begin < len(steps) and (is_machinery(steps[begin].name) or steps[begin].optional):
        begin += 1
    return list(steps[begin:])


def _compare(
    mine: Sequence[_Step],
    other: Sequence[_Step],
    *,
    by: str,
    against: str,
    complaint: str | None = None,
    whole: bool = False,
) -> Verdict | None:
    left, right = _below_panic(mine), _below_panic(other)
    if not left or not right:
        return None
    if len(left) > 1 and left[0].any_name and _is_same(left[1].name, right[0].name):
        # What was called is no code, e.g. NULL: drgn has a frame of its address, the kernel and crash have none.
        left = left[1:]
    # Where a trace ends in no entry to the kernel, the log is cut, or the kernel's unwinder gave up.
    whole = whole or any(is_entry(step.name) for step in right)
    # What panic() called may be named after the functions behind: abort and add_taint in vpanic < panic < nmi_panic.
    nameless = next((at for at, step in enumerate(right) if not step.any_name), len(right))
    tried = [_part(left, right[begin:], by=by, whole=whole) for begin in range(nameless + 1) if right[begin:]]
    best = next((one for one in tried if one.agrees), next((one for one in tried if not one.false), tried[0]))
    nameless_only = not best.inner and any(step.any_name for step in left)
    if best.agrees and (not best.matched or nameless_only or (best.matched == 1 and not whole)):
        return None  # one name in common is no agreement of two stacks, and each has entries to the kernel
    counted = "1 frame, which proves little" if best.matched == 1 else f"{best.matched} frames"
    words = best.false or best.lacking or counted + ("" if whole else f"; it ends at {right[-1].name}")
    if complaint is not None and not best.agrees:
        words += f"; {by} says: {complaint}"
    return Verdict(
        subject="stack",
        agrees=best.agrees,
        shorter=best.false is None and best.lacking is not None,
        by=by,
        against=against,
        words=words,
        stack=tuple(step.name for step in left),
        witness=tuple(step.name for step in right),
    )


def _is_same(one: str, two: str) -> bool:
    """Whether two names are one function's. A module's own name of its init and exit function is one of two."""
    return (
        one_of_its_names(one) == one_of_its_names(two)
        or one in rust_names(two)
        or two in rust_names(one)
        or _is_alias(one, two)
    )


def _is_alias(one: str, two: str) -> bool:
    return any(alias in {one, two} and word in one and word in two for alias, word in ALIASES.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What two stacks have in common."""

    matched: int
    """Functions, by name."""
    inner: int = 0
    """How many of them do not enter the kernel."""
    false: str | None = None
    """Where they part, in words."""
    lacking: str | None = None
    """What the debugger leaves out, in words."""

    @property
    def agrees(self) -> bool:
        return self.false is None and self.lacking is None


def _part(left: Sequence[_Step], right: Sequence[_Step], *, by: str, whole: bool) -> _Found:
    """Compare two stacks from their innermost functions on."""
    here = there = matched = 0
    above = "panic()"
    gap: str | None = None
    while here < len(left) and there < len(right):
        # The log may have no name where the debugger has one.
        here += _unknown(left[here:], right[there])
        one, two = left[here], right[there]
        if is_entry(one.name) and is_entry(two.name):
            break
        if _is_same(one.name, two.name) and one.module and two.module and one.module != two.module:
            other = f"{by} has {one.name} of {one.module} below {above}, there it is that of {two.module}"
            return _Found(matched=matched, false=other)
        if gap is None and one.name != two.name and _is_gap(one, right, there):
            gap = f"{by} has {one.name} below {above}, there {two.name} is between them"
            there += 1
        elif _is_same(one.name, two.name) or ((one.any_name or two.any_name) and not (one.optional or two.optional)):
            matched += _is_same(one.name, two.name)
            above = two.name if one.any_name else one.name
            here += 1
            there += 1
        # A handler of exceptions that handles none is a stale frame. The log has none.
        elif one.optional or (is_machinery(one.name) and (is_machinery(two.name) or _stops(left[here:], two))):
            here += 1
        elif two.optional or is_machinery(two.name):
            there += 1
        elif one.stopped and not two.stopped and here:
            # Kernels before 4.11 print no registers within a trace.
            here += 1
        else:
            return _Found(matched=matched, false=f"{by} has {one.name} below {above}, there it is {two.name}")
    both = min(sum(is_entry(step.name) for step in steps) for steps in (left[here:], right[there:]))
    false, lacking = _ends(left[here:], right[there:], above, by=by, whole=whole)
    return _Found(matched=matched + both, inner=matched, false=false, lacking=gap or lacking)


def _is_gap(one: _Step, right: Sequence[_Step], there: int) -> bool:
    """Whether `one` follows one step later on the right, where a function was stopped.

    Before it has made its frame, frame pointers lead past its caller.
    """
    after = right[there + 1 : there + 2]
    return there > 0 and right[there - 1].stopped and any(one.name == step.name for step in after)


def _unknown(left: Sequence[_Step], two: _Step) -> int:
    """How many steps stand where the log has addresses without a name before `two`."""
    passed = 0
    for at, one in enumerate(left):
        if _is_same(one.name, two.name):
            return at
        passed += not one.optional
        if passed > two.unknown:
            break
    return 0


def _stops(steps: Sequence[_Step], other: _Step) -> bool:
    """Whether the handler of an exception, with which `steps` begin, stopped something in one of the two stacks."""
    return other.stopped or next(
        (step.stopped for step in steps if not step.optional and not is_machinery(step.name)), False
    )


def _ends(
    left: Sequence[_Step], right: Sequence[_Step], above: str, *, by: str, whole: bool
) -> tuple[str | None, str | None]:
    """Compare what is left: a system call's or thread's entry, where a stub more or less is forgiven.

    Returns `_Found.false` and `_Found.lacking`.
    """
    mine = [step.name for step in left if not step.optional and not is_machinery(step.name)]
    others = [step.name for step in right if not step.optional and not is_machinery(step.name)]
    if foreign := next((name for name in mine if not is_entry(name)), None):
        above = next((one for one, two in pairwise(mine) if two == foreign), above)
        return None if not whole and not others else f"{by} has {foreign} below {above}, there the stack ends", None
    if foreign := next((name for name in others if not is_entry(name)), None):
        ends = f"{by} ends below {above}, there {foreign} follows"
        # A stack with its entry is whole: the functions between are those of another.
        return (ends, None) if mine else (None, ends)
    counted = Counter(others)
    entries = [{kind_of_entry(name) for name in names} for names in (mine, others)]
    if all(entries) and entries[0].isdisjoint(entries[1]):
        return f"{by} has {mine[0]} of {kind_of_entry(mine[0])} below {above}, there it is {others[0]}", None
    calls = [{call for name in names if (call := system_call(name))} for names in (mine, others)]
    if all(calls) and calls[0].isdisjoint(calls[1]):
        return f"{by} has the system call {min(calls[0])} below {above}, there it is {min(calls[1])}", None
    again = next((name for name, times in Counter(mine).items() if times > max(1, counted[name])), None)
    return f"{by} has {again} more than once" if again else None, None
