"""The tools: what each asks, and how its answer is put for an assistant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

from sandbox import api
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEFAULT
from sandbox.errors import UsageError, refuse_empty
from sandbox.explain.source import can_read
from sandbox.mcp.answers import MOST, Held, Lines, newest, paged
from sandbox.model import Case, CommandStatus
from sandbox.progress import QUIET, Reporter

_PATIENCE: Final = 120.0
"""Seconds for one command."""

_LONGEST_SCRIPT: Final = 1 << 16
"""Characters."""

_REPORTER: ContextVar[Reporter] = ContextVar("reporter", default=QUIET)
"""That of the call that a thread answers."""

Path_ = Annotated[str, "Path of the crash dump (vmcore, compressed, in an archive, or a directory with one)."]
Page = Annotated[int, "Which page of a long answer, from 1."]


class Tools:
    """The tools of one server: methods whose docstrings and parameters an assistant reads."""

    def __init__(self, directories: Sequence[Path], engine: str | None, sources: Path | None) -> None:
        if sources is not None and not can_read(sources):
            raise UsageError(f"{sources} is neither a directory nor a package of source", hint="--source, a checkout")
        self._directories = [directory.resolve() for directory in directories]
        self._options = OpenOptions(engine=engine)
        self._sources = sources
        self._held = Held()

    def all(self) -> Sequence[Callable[..., str]]:
        return (
            self.identify,
            self.explain,
            self.waits,
            self.run,
            self.dmesg,
            self.decode,
            self.search,
            self.source,
            self.drgn,
            self.report,
            self.log,
        )

    def answer(self, call: Callable[[], str], reporter: Reporter) -> str:
        """What `call`, a tool with its arguments, returns; its progress goes to `reporter`."""
        token = _REPORTER.set(reporter)
        try:
            with self._confined():
                return call()
        finally:
            _REPORTER.reset(token)

    def identify(self, path: Path_) -> str:
        """Identify a crash dump: kernel, machine, time, cause of the panic, completeness. Instant; executes nothing."""
        from dataclasses import fields

        from sandbox.commands.info import log_remark

        vmcore = api.identify(self._allowed(path))
        known = [(item.name, getattr(vmcore, item.name)) for item in fields(vmcore)]
        known.append(("log_remark", log_remark(vmcore)))
        skipped = {"vmcoreinfo", "origins", "files"}
        return "\n".join(f"{name}: {value}" for name, value in known if name not in skipped and value not in {None, ()})

    def explain(self, path: Path_, page: Page = 1) -> str:
        """Say what happened: what failed, where, how, what lies there. Each sentence has the command that shows it.

        Only what was read is said; what is not known follows with the reason. For a log without a dump, too.
        """
        where = self._allowed(path)

        def text() -> str:
            from sandbox.explain.text import lines
            from sandbox.report.fault import explain_dump

            fault = explain_dump(where, self._options, _REPORTER.get(), sources=self._sources, timeout=_PATIENCE)
            return "the log has neither an oops nor a panic" if fault is None else "\n".join(lines(fault, None))

        return self._held.page(("explain", str(where)), page, text)

    def waits(self, path: Path_, page: Page = 1) -> str:
        """Say who waits for whom: deadlocks, the tasks that hold others up, stalled workqueues."""
        where = self._allowed(path)

        def text() -> str:
            from sandbox.explain.text import wait_lines
            from sandbox.report.waits import waits_of

            return "\n".join(wait_lines(waits_of(where, self._options, _REPORTER.get(), timeout=_PATIENCE), None))

        return self._held.page(("waits", str(where)), page, text)

    def run(
        self,
        path: Path_,
        command: Annotated[str, "One crash command, e.g. bt -a. No pipes and no redirections."],
        page: Page = 1,
        *,
        grep: Annotated[str, "Only lines with this text, or with one of several that | separates. No patterns."] = "",
        ignore_case: Annotated[bool, "Whether grep takes capitals for small letters."] = False,
        head: Annotated[int, "Only so many of these lines, from the first."] = 0,
        tail: Annotated[int, "Only so many of these lines, to the last."] = 0,
    ) -> str:
        """Run one crash command on a dump and return the answer. Reading commands only; no shell."""
        DEFAULT.check_reading(command)
        if head < 0 or tail < 0:
            raise UsageError("head and tail are numbers of lines", hint="0 is all of them")
        where = self._allowed(path)
        key = ("run", str(where), command, grep, str(ignore_case), str(head), str(tail))
        return self._held.page(
            key, page, lambda: self._asked(where, command, Lines(grep, head, tail, ignore_case=ignore_case))
        )

    def dmesg(self, path: Path_, page: Page = 1) -> str:
        """Return the crashed kernel's log, as dmesg prints it. Needs no container. The panic is on the last page."""
        where = self._allowed(path)
        return self._held.page(("dmesg", str(where)), page, lambda: _log(where))

    def decode(self, path: Path_, page: Page = 1) -> str:
        """Return the kernel's log with the source line behind each symbol+0xoffset/0xsize, and "Code:" disassembled.

        For a dump, and for a log without one: the sizes behind the slashes prove the debuginfo. The lines are those of
        dmesg.
        """
        where = self._allowed(path)

        def text() -> str:
            from sandbox.commands.decode import decode, decoded_lines, remarks

            found = decode(str(where), self._options, _REPORTER.get())
            return newest([*decoded_lines(found), "[" + "; ".join(remarks(found)) + "]"])

        return self._held.page(("decode", str(where)), page, text)

    def search(
        self,
        path: Path_,
        pattern: Annotated[str, "A regular expression of Python; it is matched with each line."],
        page: Page = 1,
        *,
        ignore_case: Annotated[bool, "Whether capitals count as small letters."] = False,
    ) -> str:
        """Find lines in the kernel's log and in the answers of this dump that were given and are still held.

        Each line has what shows it before it, and its number there: `dmesg:120: …`, `run bt -a:14: …`.
        """
        where = self._allowed(path)

        def text() -> str:
            from sandbox.mcp.search import MOST as MOST_LINES, search

            texts = [
                (" ".join((key[0], *filter(None, key[2:3]))), answer)
                for key, answer in self._held.of(str(where))
                if key[0] not in {"dmesg", "search"}
            ]
            found = search(pattern, [("dmesg", _log(where)), *texts], ignore_case=ignore_case)
            lines = [f"{one.name}:{one.number}: {one.line}" for one in found.lines]
            if found.more:
                lines.append(f"[there are more: the first {MOST_LINES} are shown]")
            return "\n".join(lines) or "no line matches"

        return self._held.page(("search", str(where), pattern, str(ignore_case)), page, text)

    def source(
        self,
        path: Path_,
        place: Annotated[str, "An address of the kernel's code, or symbol+0xoffset, as bt and the log have them."],
        *,
        returns: Annotated[
            bool, "Whether it is an address that a call returns to, as of all frames but the top."
        ] = False,
    ) -> str:
        """Return file, line and inlined functions of an address, and the source itself where the server has it."""
        where = self._allowed(path)
        from sandbox.report.source_at import read, words

        found = read(where, place, self._options, _REPORTER.get(), returns=returns, timeout=_PATIENCE)
        return "\n".join(words(found, self._sources))

    def drgn(
        self,
        path: Path_,
        script: Annotated[
            str, "Python; prog is the dump's drgn.Program, drgn is imported. What it prints is the answer."
        ],
        page: Page = 1,
    ) -> str:
        """Run a drgn script on a dump, for what no crash command shows.

        It runs in a sandbox of its own, without a network and for this script alone: it changes no later answer.
        """
        where = self._allowed(path)
        if not script.strip() or len(script) > _LONGEST_SCRIPT:
            raise UsageError(f"a script has 1 to {_LONGEST_SCRIPT} characters", hint='print(prog["jiffies"])')
        return self._held.page(("drgn", str(where), script), page, lambda: self._scripted(where, script))

    def report(self, path: Path_, page: Page = 1) -> str:
        """Return an overview as JSON: panic, signature, backtraces, tasks, memory, log, modules."""
        where = self._allowed(path)

        def text() -> str:
            from sandbox.report import write
            from sandbox.report.build import make

            made = make(where, self._options, _REPORTER.get(), timeout=_PATIENCE)
            # Without the output of the commands, which is most of the report: `run` returns it.
            return write.as_json(replace(made, commands=()))

        return self._held.page(("report", str(where)), page, text)

    def log(self, path: Path_, page: Page = 1) -> str:
        """Return the transcript of earlier commands on this dump, newest last. It does not record who ran them."""
        from sandbox.session.transcript import find, records

        where = self._allowed(path)
        kept = (record for file in find(str(where)) for record in records(file))
        text = newest(f"{one.get('time', '')} crash> {one['command']}\n{one['output']}" for one in kept)
        # Not kept, because it grows with every command.
        return paged(text, page)

    def _confined(self) -> AbstractContextManager[None]:
        """Refuse dumps and files beside them that, once opened, are not below the directories."""
        from sandbox.dump.source import confined
        from sandbox.host import paths

        # What an archive was unpacked to is in the user's own cache.
        return confined((*self._directories, paths.unpacked_dir().resolve()) if self._directories else ())

    def _allowed(self, path: str) -> Path:
        refuse_empty(path)
        if "\0" in path:
            raise UsageError("a path has no NUL in it", hint="identify PATH")
        from sandbox.remote.described import refuse_url

        refuse_url([path], "vmbox run URL -- bt, in a terminal")
        where = Path(path).expanduser().resolve()
        if self._directories and not any(where.is_relative_to(directory) for directory in self._directories):
            below = ", ".join(map(str, self._directories))
            raise UsageError(f"{path} is not below {below}", hint="this server was started for those directories")
        return where

    def _asked(self, path: Path, command: str, lines: Lines) -> str:
        remarks: list[str] = []
        with api.open(path, engine=self._options.engine, reporter=_REPORTER.get()) as case:
            try:
                done = case.stream(command, lines, timeout=_PATIENCE)
                remarks += _remarks(done)
            except BrokenPipeError:
                remarks += _cut_short(case.case)
                if lines.full:
                    remarks.append(f"stopped after {MOST >> 20} MiB; ask for less, e.g. with grep")
        return lines.text() + ("\n[" + "; ".join(remarks) + "]" if remarks else "")

    def _scripted(self, path: Path, script: str) -> str:
        from sandbox.report.shipped_scripts import SCRIPTED
        from sandbox.session.run_recorded import recording
        from sandbox.session.script import run_script
        from sandbox.session.start import open_session
        from sandbox.session.transcript import Recorder

        lines, said = Lines(), ""
        # A script may change what a debugger answers from then on.
        options = replace(self._options, debugger=SCRIPTED.name, once=True)
        with open_session(path, options, _REPORTER.get())[0] as session:
            record = Recorder(session.case, _REPORTER.get(), wanted=True)
            code = SCRIPTED.script_of(script)
            try:
                with recording(script, session, lines, record) as outcome:
                    outcome.status, errors = run_script(session, "script", code, (), outcome.give, timeout=_PATIENCE)
                    record(errors)
                    said = errors.decode(errors="backslashreplace")
            except BrokenPipeError:
                said = f"stopped after {MOST >> 20} MiB; print less"
            remarks = [one for one in (said.strip(), session.doubt) if one]
        return lines.text() + ("\n[" + "; ".join(remarks) + "]" if remarks else "")


def _log(path: Path) -> str:
    return newest(line.decode(errors="backslashreplace") for line in api.dmesg(path))


def _remarks(done: api.Outcome) -> Iterator[str]:
    """What an assistant has to know of an answer."""
    if done.status is not CommandStatus.OK:
        yield str(done.status)
    if done.debugger != DEFAULT.name:
        yield f"answered by {done.debugger}: {done.reason}"
    if done.doubt is not None:
        yield done.doubt
    for verdict in done.verdicts:
        yield f"{verdict.subject}{f' of {verdict.task}' if verdict.task else ''} {verdict.line}"
        if verdict.witness and not verdict.agrees:
            yield f"{verdict.against} has {' < '.join(verdict.witness)}"
            if verdict.task and done.command.split()[:1] == ["foreach"]:
                yield f"bt {verdict.pid} asks the other debugger, too"
    if done.not_judged is not None:
        yield f"the stack is not compared with the kernel's own: {done.not_judged}"


def _cut_short(case: Case) -> Iterator[str]:
    """The same of one of which only the beginning was asked for: it is not judged."""
    from sandbox.session.choice import kept

    chosen = kept(case)
    if chosen is not None and chosen.debugger != DEFAULT.name:
        yield f"answered by {chosen.debugger}: {chosen.reason}"
    if chosen is not None and chosen.debugger in case.doubts:
        yield case.doubts[chosen.debugger]
