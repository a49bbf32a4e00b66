"""Who waits for whom: the graph of blocked tasks and owners of locks, its cycles and roots, in sentences and as DOT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.explain import futexes as on_futexes
from sandbox.explain.futexes import Futex
from sandbox.explain.model import Sentence
from sandbox.explain.wait_facts import PoolFacts, RequestFacts, WaitAnswer, WaitFacts

_STALLED: Final = 5.0
"""Seconds after which a pool that began no work is named; the kernel itself warns after 30 (kernel/workqueue.c)."""
_SHOWN: Final = 20
_STEPS: Final = 10
"""Tasks of one deadlock that are named in its sentence."""
_KINDS: Final = {"rt_mutex_base": "rt_mutex", "percpu_rw_semaphore": "percpu rwsem", "rw_semaphore": "rwsem"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A blocked task and what it waits for."""

    pid: int
    command: str
    seconds: float | None
    """Since it ran last."""
    kind: str | None
    """mutex, rwsem, percpu rwsem, semaphore, completion, rt_mutex, folio, page, buffer_head, inode; None if unknown.

    And futex, of those with an owner: `Waits.futexes` has all.
    """
    function: str | None
    """In which it waits; None where the stack was not read, because the lock's own list has the task."""
    lock: str | None
    """Its address, hexadecimal, with 0x; with the symbol there, if there is one."""
    owner: int | None
    """PID of the task that holds it, or is to complete it, by what the kernel records."""
    no_owner: str | None
    """Why no owner is known."""
    confirmed: bool | None
    """Whether the lock's list of waiters has the task; None where that list is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A task that holds what others wait for, and waits for no task itself."""

    pid: int
    command: str
    behind: int
    """Tasks that wait for it, directly or behind each other."""
    doing: str
    """What it does, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool of workqueue workers that began no work for some time, though work waits."""

    cpu: int | None
    """None for one of no CPU."""
    seconds: float
    running: tuple[str, ...]
    """Its work now, with the PID of the worker."""
    waiting: tuple[str, ...]
    """Functions of the work that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A disk whose driver has requests that it has not ended."""

    name: str
    requests: int
    operations: Mapping[str, int]
    """Requests by what they are: read, write, flush, …"""
    oldest: float | None
    """Seconds since the oldest was made; None where the kernel did not note it."""
    sector: int
    """Of the oldest, of 512 bytes."""
    tasks: tuple[int, ...]
    """PIDs of the blocked tasks that wait for one of its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Tasks in uninterruptible sleep, and who holds them up."""

    blocked: int
    waits: tuple[Wait, ...]
    """Of the blocked tasks, and of those that wait for a futex with an owner."""
    cycles: tuple[tuple[int, ...], ...]
    """PIDs: each waits for the next, the last for the first."""
    roots: tuple[Root, ...]
    """The one with most behind it first."""
    pools: tuple[Pool, ...]
    devices: tuple[Device, ...]
    """The one with the oldest request first."""
    futexes: tuple[Futex, ...]
    """Those with an owner first, then those with most waiters."""
    sentences: tuple[Sentence, ...]
    unknown: Mapping[str, str]
    """For each thing that could not be read: the reason."""
    doubt: str | None = None
    """Why what the debugger read may be wrong; None where nothing is known against it."""


def explain(answer: WaitAnswer, *, doubt: str | None = None) -> Waits:
    """Make the graph of what was read. An edge is what the kernel records of an owner; nothing is guessed of stacks.

    `doubt` is why the debugger that read it may be wrong.
    """
    unread = answer.blocked - len(answer.waits)
    answer = replace(answer, waits=(*answer.waits, *on_futexes.waits(answer)))
    next_of = {pid: one.owner for pid, one in _held_up(answer).items() if one.owner is not None}
    cycles = _cycles(next_of)
    behind = _behind(next_of, cycles)
    roots = _roots(answer, behind, cycles)
    pools = tuple(_pool(one) for one in answer.pools if one.seconds >= _STALLED)
    devices = _devices(answer)
    unknown = dict(answer.errors)
    if unread > 0:
        unknown["more tasks"] = f"of {answer.blocked} blocked tasks {answer.blocked - unread} are read"
    doubtful = [one.pid for one in answer.waits if one.listed is False]
    if doubtful:
        pids = ", ".join(map(str, doubtful[:_SHOWN]))
        unknown["waiters"] = f"the lock's own list does not have PID {pids}: what they wait for is not used"
    return Waits(
        blocked=answer.blocked,
        waits=tuple(_wait(one) for one in answer.waits),
        cycles=cycles,
        roots=roots,
        pools=pools,
        devices=devices,
        futexes=on_futexes.futexes(answer),
        sentences=(
            *_sentences(answer, cycles, behind, roots, devices),
            *on_futexes.sentences(answer),
            *_of_pools(pools),
        ),
        unknown=unknown,
        doubt=doubt,
    )


def _held_up(answer: WaitAnswer) -> dict[int, WaitFacts]:
    """The tasks that wait for others; an answer may name one of them more than once."""
    return {one.pid: one for one in answer.waits if one.owner is not None and one.listed is not False}


def _cycles(next_of: Mapping[int, int]) -> tuple[tuple[int, ...], ...]:
    """A task waits for one lock at most: a walk along the owners ends, or comes back to itself."""
    found: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for start in next_of:
        path: dict[int, int] = {}
        at = start
        while at in next_of and at not in seen and at not in path:
            path[at] = len(path)
            at = next_of[at]
        if at in path:
            found.append(tuple(list(path)[path[at] :]))
        seen |= path.keys()
    return tuple(found)


def _behind(next_of: Mapping[int, int], cycles: Sequence[Sequence[int]]) -> Counter[int]:
    """For the task at the end of each chain of waits, or where the chain enters a cycle: the tasks behind it."""
    in_cycle = {pid for cycle in cycles for pid in cycle}
    behind: Counter[int] = Counter()
    ends: dict[int, int] = {}
    for start in next_of:
        path = []
        at = start
        while at in next_of and at not in ends and at not in in_cycle:
            path.append(at)
            at = next_of[at]
        end = ends.get(at, at)
        for pid in path:
            ends[pid] = end
            behind[end] += 1
    return behind


def _roots(answer: WaitAnswer, behind: Counter[int], cycles: Sequence[Sequence[int]]) -> tuple[Root, ...]:
    in_cycle = {pid for cycle in cycles for pid in cycle}
    commands = {one.pid: one.command for one in answer.waits} | {one.pid: one.command for one in answer.owners}
    doing = {one.pid: _waiting(one) for one in answer.waits}
    doing |= {one.pid: _state(one.state) + _in(one.functions) for one in answer.owners}
    return tuple(
        Root(pid=pid, command=commands.get(pid, "?"), behind=count, doing=doing.get(pid, "was not read"))
        for pid, count in behind.most_common()
        if pid not in in_cycle
    )


def _state(letter: str) -> str:
    return {"R": "runs", "S": "sleeps", "I": "is idle", "T": "is stopped", "t": "is traced"}.get(letter, letter)


def _in(functions: Sequence[str]) -> str:
    return f" in {' < '.join(functions)}" if functions else ""


def _wait(one: WaitFacts) -> Wait:
    return Wait(
        pid=one.pid,
        command=one.command,
        seconds=one.seconds,
        kind=_KINDS.get(one.kind, one.kind) or None,
        function=one.function or (one.functions[0] if one.functions else None),
        lock=None if one.lock is None else _lock(one),
        owner=one.owner,
        no_owner=_no_owner(one),
        confirmed=one.listed,
    )


def _no_owner(one: WaitFacts) -> str | None:
    if one.owner is not None:
        return None
    if one.lock is None:
        return "which one is not known, without the variables of the function" if one.kind else "on what is not known"
    return one.no_owner


def _pool(one: PoolFacts) -> Pool:
    return Pool(
        cpu=one.cpu if one.cpu >= 0 else None,
        seconds=one.seconds,
        running=tuple(f"{work.function or 'work without a name'} (PID {work.pid})" for work in one.running),
        waiting=tuple(name or "work without a name" for name in one.waiting),
    )


def _devices(answer: WaitAnswer) -> tuple[Device, ...]:
    found: dict[str, list[RequestFacts]] = {}
    for one in answer.requests:
        found.setdefault(one.disk, []).append(one)
    waiting: dict[int, list[int]] = {}
    for wait in answer.waits:
        if wait.lock is not None:
            waiting.setdefault(wait.lock, []).append(wait.pid)
    devices = []
    for name, some in found.items():
        oldest = max(some, key=lambda one: one.seconds if one.seconds is not None else -1)
        held = {address for one in some for address in one.holds}
        devices.append(
            Device(
                name=name,
                requests=len(some),
                operations=Counter(one.operation for one in some),
                oldest=oldest.seconds,
                sector=oldest.sector,
                tasks=tuple(sorted({pid for address in held & waiting.keys() for pid in waiting[address]})),
            )
        )
    return tuple(sorted(devices, key=lambda one: -(one.oldest or 0)))


def _lock(one: WaitFacts) -> str:
    return f"{one.name} (0x{one.lock:x})" if one.name else f"0x{one.lock:x}"


def _waiting(one: WaitFacts) -> str:
    if not one.kind:
        return f"is blocked{_in(one.functions)}"
    kind = _KINDS.get(one.kind, one.kind)
    return f"waits for {kind} {_lock(one)}" if one.lock is not None else f"waits for a {kind} in {one.function}"


def _tasks_wait(count: int) -> str:
    return "1 task waits" if count == 1 else f"{count} tasks wait"


def _who(one: WaitFacts) -> str:
    return f"{one.command} (PID {one.pid})"


def _sentences(
    answer: WaitAnswer,
    cycles: Sequence[Sequence[int]],
    behind: Mapping[int, int],
    roots: Sequence[Root],
    devices: Sequence[Device],
) -> Iterator[Sentence]:
    by_pid = _held_up(answer)
    names = {one.pid: one.command for one in answer.waits} | {one.pid: one.command for one in answer.owners}
    for cycle in cycles[:_SHOWN]:
        # Each holds what the one before it waits for.
        steps = []
        for number, pid in enumerate(cycle[:_STEPS]):
            one, before = by_pid[pid], by_pid[cycle[number - 1]]
            has = "is to end" if before.kind == "completion" else "holds"
            steps.append(f"{_who(one)} {has} {_lock(before)} and {_waiting(one)}")
        count = sum(behind[pid] for pid in cycle)
        more = f" {_tasks_wait(count)} behind them." if count else ""
        if len(cycle) > _STEPS:
            steps.append(f"and so on, {len(cycle)} tasks in all")
        yield Sentence(topic="deadlock", text=f"Deadlock: {'; '.join(steps)}.{more}", command=f"bt {cycle[0]}")
        yield from _of_words("deadlock", [by_pid[pid] for pid in cycle[:_STEPS]], names)
    for root in roots[:_SHOWN]:
        yield Sentence(
            topic="roots",
            text=f"{_tasks_wait(root.behind)} for {root.command} (PID {root.pid}), which {root.doing}.",
            command=f"bt {root.pid}",
        )
        yield from _of_words("roots", [one for one in by_pid.values() if one.owner == root.pid], names)
    yield from _of_devices(devices)
    held = {one.pid for one in answer.waits if one.owner is not None} | {pid for one in devices for pid in one.tasks}
    groups: dict[str, list[WaitFacts]] = {}
    for one in answer.waits:
        if one.pid not in held:
            groups.setdefault(_waiting(one) + (f": {why}" if (why := _no_owner(one)) else ""), []).append(one)
    for words, some in sorted(groups.items(), key=lambda item: -len(item[1]))[:_SHOWN]:
        first = max(some, key=lambda one: one.seconds or 0)
        others = f" and {len(some) - 1} more" if len(some) > 1 else ""
        since = f", {first.seconds:.1f} s" if first.seconds is not None else ""
        yield Sentence(topic="blocked", text=f"{_who(first)}{others}{since}: {words}.", command=f"bt {first.pid}")
    if not answer.blocked:
        yield Sentence(topic="blocked", text="No task was in uninterruptible sleep.", command="foreach UN bt")


def _of_words(topic: str, waits: Sequence[WaitFacts], names: Mapping[int, str]) -> Iterator[Sentence]:
    """Where a lock says who holds it: what an owner is known by."""
    by_word = {one.word: one for one in waits if one.word is not None and one.task is not None}
    for word, one in list(by_word.items())[:_STEPS]:
        yield Sentence(
            topic=topic,
            text=f"The owner's word of {_lock(one)} is 0x{one.task:x}, the task of {names.get(one.owner or 0, '?')} "
            f"(PID {one.owner}), with flags in the lowest bits.",
            command=f"rd {word:x}",
        )


def _of_devices(devices: Sequence[Device]) -> Iterator[Sentence]:
    for device in devices[:_SHOWN]:
        what = ", ".join(f"{count} {operation}" for operation, count in device.operations.items())
        are = "request is" if device.requests == 1 else "requests are"
        age = "" if device.oldest is None else f", for {device.oldest:.1f} s"
        who = f"; {_tasks_wait(len(device.tasks))} for them" if device.tasks else ""
        yield Sentence(
            topic="requests",
            text=f"{device.requests} {are} in flight to {device.name} ({what}), the oldest at sector {device.sector}"
            f"{age}{who}.",
            command="dev -d",
        )


def _of_pools(pools: Sequence[Pool]) -> Iterator[Sentence]:
    for pool in pools:
        where = "of no CPU" if pool.cpu is None else f"of CPU {pool.cpu}"
        running = f"; it runs {', '.join(pool.running[:3])}" if pool.running else "; no worker of it runs"
        yield Sentence(
            topic="workqueues",
            text=f"A worker pool {where} began no work for {pool.seconds:.1f} s; {len(pool.waiting)} wait{running}.",
            command="runq" if pool.cpu is None else f"bt -c {pool.cpu}",
        )


def dot(waits: Waits) -> str:
    """The graph in Graphviz's language: tasks, and for each wait an arrow to the owner, or to a lock without one."""
    commands = {one.pid: one.command for one in waits.waits} | {one.pid: one.command for one in waits.roots}
    deadlocked = {pid for cycle in waits.cycles for pid in cycle}
    lines = ["digraph waits {", "  rankdir=LR;", '  node [shape=box, fontname="monospace"];']
    for pid, command in commands.items():
        color = ", color=red" if pid in deadlocked else ""
        lines.append(f"  t{pid} [label={_quoted(f'{command} {pid}')}{color}];")
    for number, one in enumerate(waits.waits):
        label = f" [label={_quoted(' '.join(filter(None, (one.kind or one.function, one.lock))))}]"
        if one.owner is not None:
            lines.append(f"  t{one.pid} -> t{one.owner}{label};")
        elif one.lock is not None:
            lock = "l" + one.lock.rpartition("0x")[2].rstrip(")")
            lines.append(f"  {lock} [label={_quoted(one.lock)}, shape=ellipse];")
            lines.append(f"  t{one.pid} -> {lock}{label};")
        else:
            lines.append(f'  u{number} [label="?", shape=plaintext];')
            lines.append(f"  t{one.pid} -> u{number}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.encode("unicode_escape").decode().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
