"""One command, asked: what it needs is fetched, what it answers goes to its reader and into the transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sandbox.errors import CommandTimeout
from sandbox.model import CommandStatus, Transcript
from sandbox.progress import Reporter
from sandbox.session import module_debuginfo
from sandbox.session.session import Session, Sink
from sandbox.session.transcript import Recorder

_Ended = Callable[[CommandStatus, float], None]
"""Is told the status and the seconds."""


def _ignore(status: CommandStatus, seconds: float) -> None:
    del status, seconds


def run_recorded(
    command: str,
    session: Session,
    sink: Sink,
    *,
    recorder: Recorder,
    reporter: Reporter,
    timeout: float | None = None,
    ended: _Ended = _ignore,
) -> Transcript:
    """Runs `command`; its output goes to `sink` byte for byte, as it comes. Raises as `Session.run` does.

    `ended` is told (status, seconds) however it ends: ok, error, timeout, interrupted, or died when the debugger did.
    """
    module_debuginfo.fetch_for(command, session, reporter)
    with recording(command, session, sink, recorder, ended=ended) as outcome:
        done = session.run(command, outcome.give, timeout=timeout)
        outcome.status = done.status
    return done


@dataclass(slots=True)
class Outcome:
    """What is asked of a debugger, while it is asked."""

    give: Sink
    """Takes the output, for its reader and the transcript."""
    status: CommandStatus = CommandStatus.DIED
    """To be set by who asks, when it is answered."""


@contextmanager
def recording(
    command: str, session: Session, sink: Sink, recorder: Recorder, *, ended: _Ended = _ignore
) -> Iterator[Outcome]:
    """Writes what is asked within into the transcript as `command`, with how it ended, which `ended` is told, too."""

    def give(piece: bytes) -> None:
        recorder(piece)
        sink(piece)

    outcome = Outcome(give)
    recorder.begin()
    try:
        yield outcome
    except CommandTimeout:
        outcome.status = CommandStatus.TIMEOUT
        raise
    except (KeyboardInterrupt, BrokenPipeError):
        outcome.status = CommandStatus.INTERRUPTED
        raise
    finally:
        ended(outcome.status, recorder.end(command, outcome.status, by=session.choice, doubt=session.doubt))
