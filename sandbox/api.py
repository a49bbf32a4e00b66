"""The library, `import sandbox`: identify dumps, and open them as cases that answer crash commands.

The command line uses the same functions: `vmbox info` prints what `identify` returns, `vmbox run` and a script share
one warm crash, and the settings (`sandbox.host.config`) apply to both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sandbox.case import store
from sandbox.case.opening import find_or_open_case
from sandbox.case.options import OpenOptions
from sandbox.case.provision import prefetch
from sandbox.errors import refuse_empty
from sandbox.host import config
from sandbox.judge.verdict import Verdict
from sandbox.model import Case, CommandStatus, Debuginfo, Vmcore
from sandbox.progress import QUIET, Reporter
from sandbox.remote.naming import named
from sandbox.session.judging import Judge
from sandbox.session.run_recorded import run_recorded
from sandbox.session.second_stack import Confirmed, Given, SecondStack
from sandbox.session.session import Session, Sink
from sandbox.session.start import open_session
from sandbox.session.transcript import Recorder

if TYPE_CHECKING:
    from sandbox.report.model import Report

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one crash command ended, and what is known of its answer."""

    command: str
    status: CommandStatus
    """"ok", or "error" if the debugger reported one; then the output contains its message."""
    seconds: float
    bytes: int
    """Size of the output."""
    debugger: str
    """Name of the debugger that answered: crash or drgn."""
    reason: str
    """The reason why it was that one."""
    doubt: str | None
    """The reason why the answer may be wrong, e.g. a kernel that is newer than the debugger; None if none is known."""
    verdicts: tuple[Verdict, ...]
    """What was compared with the kernel's own words: the stack of the task that panicked; DATE, UPTIME and TASKS."""
    not_judged: str | None
    """The reason why a stack was compared with nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Outcome):
    """One crash command and its output."""

    output: bytes
    """The bytes that the debugger printed."""

    @property
    def text(self) -> str:
        """`output` decoded; bytes that are not UTF-8 (a dump can contain anything) become escapes."""
        return self.output.decode(errors="backslashreplace")

    def __str__(self) -> str:
        return self.text


class OpenCase:
    """A dump with a warm crash. Made by `open`.

    It holds the crash only while a command runs: a `vmbox run` in a terminal and a script take turns. The case stays
    open after the `with` block, as it does after `vmbox run`: it ends itself after being idle for the time in the
    setting `idle`. `close` ends it at once.
    """

    def __init__(self, dump: Path, options: OpenOptions, reporter: Reporter, *, transcript: bool = True) -> None:
        self._dump = dump
        self._transcript = transcript
        self._wishes = options
        self._reporter = reporter
        session, said = open_session(dump, options, reporter)
        session.close()
        self.warnings = said.decode(errors="replace").strip("\n")
        """crash's messages at its start; empty if it was already running."""

    @property
    def case(self) -> Case:
        """The open case: release, profile, image, proof of the debuginfo, engine, container."""
        return find_or_open_case(self._dump, self._wishes, self._reporter)

    def run(self, command: str, *, timeout: float | None = None) -> Answer:
        """Run one crash command, e.g. "bt -a", and hold its output in memory; `stream` does not hold it.

        A case that has ended meanwhile is opened again. Raises `CommandTimeout` after `timeout` seconds; the session
        stays usable. Raises `SessionDied` with crash's last output if crash ended.
        """
        pieces: list[bytes] = []
        done = self.stream(command, pieces.append, timeout=timeout)
        known = {field.name: getattr(done, field.name) for field in fields(done)}
        return Answer(**known, output=b"".join(pieces))

    def stream(self, command: str, sink: Sink, *, timeout: float | None = None) -> Outcome:
        """Run one crash command and pass its output to `sink` in pieces as they arrive. Raises as `run` does."""
        if timeout is not None:
            config.time_limit(timeout)
        with self.session() as session:
            recorder = Recorder(session.case, self._reporter, wanted=self._transcript)
            judge = Judge(session.case)
            second = SecondStack(session, recorder, self._reporter, wished=self._wishes.debugger is not None)
            held = second.holding(command, sink)
            shown: Confirmed | None = None
            try:
                done = run_recorded(
                    command,
                    session,
                    judge.listen(command, held),
                    recorder=recorder,
                    reporter=self._reporter,
                    timeout=timeout,
                )
                found = judge.judge(session)
                shown = second.confirmed(command, found, timeout=timeout)
            finally:
                held.give(shown)
            given = Given.of(session, done.status, done.seconds, found, shown)
            return Outcome(
                command=command,
                status=given.status,
                seconds=given.seconds,
                bytes=(done if shown is None else shown.done).bytes,
                debugger=given.choice.debugger,
                reason=given.choice.reason,
                doubt=given.doubt,
                verdicts=given.verdicts,
                not_judged=given.not_judged,
            )

    def report(self, *, timeout: float = 60) -> Report:
        """Make the report that `vmbox report` shows, as a value.

        A command that takes longer than `timeout` seconds is left out, and `Report.missing` says so. Opens the case
        again if it has ended. `sandbox.report.html.html` makes a page of the report, `sandbox.report.write` JSON.
        """
        from sandbox.report.build import make

        return make(self._dump, self._wishes, self._reporter, timeout=timeout)

    def session(self) -> Session:
        """Get exclusive use of the warm crash until the end of its `with` block, for many commands in sequence."""
        return open_session(self._dump, self._wishes, self._reporter)[0]

    def close(self) -> None:
        """End the case: the container is removed, and nothing is left behind."""
        from sandbox.case.container import close

        found = store.find(self._dump, engine=self._wishes.engine)
        if found is not None:
            close(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the case open and warm."""


def identify(path: AnyPath) -> Vmcore:
    """Identify a dump: kernel, build-id, time and cause of the crash. Executes nothing and needs no engine.

    Takes what `vmbox info` takes: a vmcore in any format, compressed or in an archive, a directory, a sosreport.
    Raises `DumpNotFound`, `DumpUnreadable`, `NotADump`, `DumpDamaged`.
    """
    from sandbox.case.dumps import identify as read

    refuse_empty(path)
    return read(named(os.fspath(path)))


def dmesg(path: AnyPath) -> Iterator[bytes]:
    """Yield the lines of the kernel's log as dmesg prints them. Needs no engine, no crash and no debuginfo.

    A dump deep in an archive is unpacked into the cache first, as `open` does.
    """
    from sandbox.case.dumps import read_log

    refuse_empty(path)
    return read_log(named(os.fspath(path)))


def open(  # noqa: A001 - sandbox.open is what a reader expects it to be
    path: AnyPath,
    *,
    engine: str | None = None,
    image: str | None = None,
    debuginfo: AnyPath | None = None,
    force: bool = False,
    no_debuginfo: bool = False,
    transcript: bool = True,
    reporter: Reporter = QUIET,
) -> OpenCase:
    """Open a dump, or find its open case, and wait until crash is at its prompt.

    `engine` is docker, podman or a URL, by default the setting of that name. `image` is a profile's name. `debuginfo`
    is a vmlinux, a debug package or a directory with one. `force` uses debuginfo that does not match. With
    `no_debuginfo` none is fetched: drgn reads the dump by what its kernel has of itself. Commands and their output are
    kept for `vmbox log` unless `transcript` is false. Progress goes to `reporter`.

    The first time fetches and builds what is missing, which takes minutes. Raises any `VmboxError`.
    """
    for name in (path, engine, image, debuginfo):
        refuse_empty(name)
    options = OpenOptions(
        engine=engine or config.current().engine,
        image=image,
        debuginfo=None if debuginfo is None else Path(debuginfo),
        force=force,
        no_debuginfo=no_debuginfo,
    )
    options.check()
    return OpenCase(named(os.fspath(path)), options, reporter, transcript=transcript)


def prepare(vmcore: Vmcore, *, engine: str | None = None, reporter: Reporter = QUIET) -> tuple[str, Debuginfo]:
    """Get (image, debuginfo) of an identified dump without opening it, e.g. before it has arrived."""
    return prefetch(vmcore, OpenOptions(engine=engine or config.current().engine), reporter)


def cases() -> list[Case]:
    """List the open cases of this user, oldest first."""
    return store.open_cases()
