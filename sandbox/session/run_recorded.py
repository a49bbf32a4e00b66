"""One command, asked: what it needs is fetched, what it answers goes to its reader and into the transcript."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.errors import CommandTimeout
from sandbox.model import CommandStatus, Transcript
from sandbox.progress import Reporter
from sandbox.session import module_debuginfo
from sandbox.session.session import Session, Sink
from sandbox.session.transcript import Recorder


def run_recorded(
    command: str,
    session: Session,
    sink: Sink,
    *,
    recorder: Recorder,
    reporter: Reporter,
    timeout: float | None = None,
    ended: Callable[[CommandStatus, float], None] = lambda status, seconds: None,  # noqa: ARG005 - ignored by default
) -> Transcript:
    """Runs `command`; its output goes to `sink` byte for byte, as it comes. Raises as `Session.run` does.

    `ended` is told (status, seconds) however it ends: ok, error, timeout, interrupted, or died when the debugger did.
    """
    module_debuginfo.fetch_for(command, session, reporter)

    def give(piece: bytes) -> None:
        recorder(piece)
        sink(piece)

    recorder.begin()
    status = CommandStatus.DIED
    try:
        done = session.run(command, give, timeout=timeout)
        status = done.status
    except CommandTimeout:
        status = CommandStatus.TIMEOUT
        raise
    except (KeyboardInterrupt, BrokenPipeError):
        status = CommandStatus.INTERRUPTED
        raise
    finally:
        ended(status, recorder.end(command, status, by=session.choice, doubt=session.doubt))
    return done
