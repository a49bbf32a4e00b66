"""Scripts in a warm debugger: one is sent to it, and its output and its end are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.errors import UsageError
from sandbox.host import decode
from sandbox.model import CommandStatus
from sandbox.session.channel import new_marker
from sandbox.session.session import Session, Sink

_LONGEST: Final = 1 << 20
"""Bytes that are read of a script's messages."""


def run_script(
    session: Session,
    name: str,
    code: bytes,
    arguments: Sequence[str],
    sink: Sink,
    *,
    timeout: float | None = None,
) -> tuple[CommandStatus, bytes]:
    """Runs a script in the language of the session's debugger; its output goes to `sink` as it comes.

    Returns whether it failed, and its messages of errors. Raises as `Session.run` does, and `UsageError` where the
    debugger runs no scripts.
    """
    mark = new_marker()
    line = session.debugger.script(name, code, arguments, mark.decode())
    if line is None:
        raise UsageError(f"{session.debugger.name} runs no scripts")
    output = BeforeMark(mark, sink)
    session.ask(line, output, timeout, name)
    return output.ended()


def ask_question(session: Session, command: str, sink: Sink, *, timeout: float) -> tuple[CommandStatus, str]:
    """Asks by the debugger's command, or by the script that it has for it (`Debugger.question`).

    Returns its status, and a script's messages of errors. Raises as `Session.run` does.
    """
    script = session.debugger.question(command)
    if script is None:
        return session.run(command, sink, timeout=timeout).status, ""
    status, errors = run_script(session, command, script, (), sink, timeout=timeout)
    return status, errors.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScriptEnd:
    """What a debugger prints after the mark; see `Debugger.script`."""

    failed: bool
    errors: str


class BeforeMark:
    """A sink that passes on what comes before a mark, and keeps what follows it."""

    def __init__(self, mark: bytes, sink: Sink) -> None:
        self._mark = mark
        self._sink = sink
        self._held = b""
        self._after: bytes | None = None

    def __call__(self, piece: bytes) -> None:
        if self._after is not None:
            self._after = (self._after + piece)[:_LONGEST]
            return
        text = self._held + piece
        before, found, after = text.partition(self._mark)
        if found:
            self._held, self._after = b"", after
        else:
            # What may be the beginning of a mark.
            longest = min(len(text), len(self._mark) - 1)
            keep = next(size for size in range(longest, -1, -1) if self._mark.startswith(text[len(text) - size :]))
            before, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if before:
            self._sink(before)

    def ended(self) -> tuple[CommandStatus, bytes]:
        """Whether the script failed, and its messages; to be asked when the output has ended."""
        try:
            said = decode.decode(_ScriptEnd, decode.parse_json(self._after or b""))
        except ValueError:
            # What runs in a case may be a hostile dump's.
            return CommandStatus.ERROR, b"the script did not say how it ended"
        status = CommandStatus.ERROR if said.failed else CommandStatus.OK
        return status, said.errors.encode(errors="surrogateescape")
