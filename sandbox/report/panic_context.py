"""Ask a warm debugger about the task that panicked, whatever its user has `set`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sandbox.errors import CommandTimeout, SessionDied, VmboxError
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.session.session import Session

_TASK: Final = re.compile(r"(?m)^ *TASK: ([0-9a-f]{8,16})\b")
"""The line of `set` with the address of the context's task_struct; crash's and drgn's are alike."""


@contextmanager
def panic_context(session: Session, *, timeout: float) -> Iterator[None]:
    """Make the task that panicked the context of the debugger's commands, and give back the user's own at the end.

    A debugger that cannot tell the task, or that ends, keeps the context it starts with, which is that task.
    """
    earlier = _task(session, "set", timeout)
    panicked = _task(session, "set -p", timeout)
    yield
    if earlier is not None and earlier != panicked:
        with suppress(VmboxError):
            session.run(f"set {earlier}", lambda _piece: None, timeout=timeout)


def _task(session: Session, command: str, timeout: float) -> str | None:
    """Address of the task that is the context after `command`; None where the debugger does not say."""
    answer = BoundedAnswer(PER_ANSWER)
    try:
        session.run(command, answer, timeout=timeout)
    except (CommandTimeout, SessionDied):
        return None
    found = _TASK.search(answer.text())
    return found[1] if found else None
