"""What the log says of a crash in which no instruction faulted, and of errors before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from sandbox.explain.model import Sentence

_CANARY: Final = re.compile(r"stack-protector: Kernel stack is corrupted in: (?P<function>\S+(?: \[[\w-]+\])?)")
_BLOCKED: Final = re.compile(r"INFO: task (.{1,16}):(\d{1,10}) blocked")
_BLOCKER: Final = re.compile(
    r"^INFO: (?P<words>task .{1,16}:\d{1,10} (?:is |<\w{1,16}> )?blocked on an? [\w-]{1,32}(?:,| likely) .{1,80})$"
)
"""debug_show_blocker() in kernel/hung_task.c, since 6.15."""
_INIT: Final = re.compile(r"Attempted to kill init!? exitcode=0x(?P<code>[0-9a-f]{8})")
_SIGNALS: Final = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
_EARLIER: Final = re.compile(
    r"^(?:BUG: (?![Kk]ernel NULL|[Uu]nable to handle|stack guard|\w+ stack guard)\S|BUG [\w:-]+ \("
    r"|rcu: INFO: rcu_\w+ detected|watchdog: BUG: )"
)
"""Errors after which a kernel goes on: of memory (mm/page_alloc.c, mm/slub.c), of the scheduler, of locks."""
_LED: Final = (
    (re.compile(r"BUG: scheduling while atomic: "), re.compile(r"not syncing: scheduling while atomic")),
    (re.compile(r"BUG: workqueue lockup - "), re.compile(r"not syncing: workqueue: ")),
    (re.compile(r"(?:traps: )?\S{1,16}\[1\]:? (?:segfault at|trap|general protection)"), _INIT),
)
"""Errors that a kernel may panic of, and what the panic says then: kernel/sched/core.c, kernel/workqueue.c."""
_INVOKED: Final = re.compile(r"^(?P<name>.{1,16}) invoked oom-killer: .*?order=(?P<order>-?\d+)")
_TABLE: Final = re.compile(r"^\[ *pid *\] +(?P<columns>uid .* name)$")
_ROW: Final = re.compile(r"^\[ *(?P<pid>\d{1,10})\] +(?P<values>\S.*)$")
_NUMBER: Final = re.compile(r"-?\d{1,20}")
_MOST: Final = 6


def what(lines: Sequence[str], panic: str | None, *, survived: bool = False) -> Iterator[Sentence]:
    """The panic, and what the log says of its cause. `survived`: an oops of this boot did not end the kernel."""
    if canary := _CANARY.search(panic or ""):
        yield _said(
            "what",
            f"The stack frame of {canary['function']} was overwritten: the canary below its return address had changed "
            "when the function was to return. Most often a variable there was written past its end.",
        )
        return
    said = (
        "The kernel went on after a fault, and panicked later" if survived else "No instruction of the kernel faulted"
    )
    yield _said("what", f"{said}: {(panic or '').rstrip('. :!')}.")
    yield from _of_init(panic or "")
    for name, pid in list(dict.fromkeys(_BLOCKED.findall("\n".join(lines))))[:_MOST]:
        yield Sentence(topic="what", text=f"{name} (PID {pid}) was blocked.", command=f"bt {pid}")
    for holder in list(dict.fromkeys(filter(None, map(_BLOCKER.search, lines))))[:_MOST]:
        yield _said("what", f"The kernel's own search for who holds it: {holder['words'].rstrip('.')}.")
    if (cause := next((said for said, led in _LED if led.search(panic or "")), None)) is not None and (
        line := next((one.strip() for one in reversed(lines) if cause.match(one.strip())), None)
    ):
        yield _said("what", f"Before it the kernel said: {line.rstrip('.!')}.")
    if re.search(r"[Oo]ut of memory|deadlocked on memory", panic or ""):
        yield from _memory(lines)


def earlier(lines: Sequence[str], before: int | None, panic: str | None = None) -> tuple[int, str] | None:
    """(index, text) of the first error that the kernel survived, above line `before`; None without one.

    An error that `panic` says the kernel did not survive is none.
    """
    own = next((said for said, led in _LED if led.search(panic or "")), None)
    for at, line in enumerate(lines[:before]):
        text = line.strip()
        if _EARLIER.match(text) and not (own is not None and own.match(text)):
            return at, text
    return None


def _of_init(panic: str) -> Iterator[Sentence]:
    """How process 1 ended: its exit code is in the form of wait(2)."""
    if (found := _INIT.search(panic)) is None:
        return
    code = int(found["code"], 16)
    if signal := code & 0x7F:
        name = f" ({_SIGNALS[signal]})" if signal in _SIGNALS else ""
        yield _said("what", f"Process 1 was ended by signal {signal}{name}.")
    else:
        yield _said("what", f"Process 1 ended itself, with status {code >> 8}.")


def _memory(lines: Sequence[str]) -> Iterator[Sentence]:
    """Who asked for memory, and who had most of it, by the table that the kernel printed last (mm/oom_kill.c)."""
    invoked = next((match for line in reversed(lines) if (match := _INVOKED.match(line.strip()))), None)
    if invoked is not None:
        pages = 1 << max(0, int(invoked["order"]))
        asked = "a page" if pages == 1 else f"{pages} pages in one piece"
        yield _said("what", f"{invoked['name']} asked for {asked}, and none could be found.")
    columns: list[str] = []
    for begin in range(len(lines) - 1, -1, -1):
        if header := _TABLE.match(lines[begin].strip()):
            columns = header["columns"].split()[:-1]
            break
    if "rss" not in columns:
        return
    found = []
    for line in lines[begin + 1 :]:
        row = _ROW.match(line.strip())
        if row is None:
            break
        # Behind the numbers is the name, which may have spaces.
        *values, name = row["values"].split(maxsplit=len(columns))
        if len(values) == len(columns) and all(map(_NUMBER.fullmatch, values)):
            found.append((int(values[columns.index("rss")]), int(row["pid"]), name))
    if found:
        pages, pid, name = max(found)
        listed = "1 process" if len(found) == 1 else f"{len(found)} processes"
        yield Sentence(
            topic="what",
            text=f"{name} (PID {pid}) had most memory of {listed} that the kernel listed: {pages} pages.",
            command=f"ps {pid}",
        )


def _said(topic: str, text: str) -> Sentence:
    return Sentence(topic=topic, text=text, command="log")
