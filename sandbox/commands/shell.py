"""Programs in a case beside its warm debuggers: the prompt of a debugger, a shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox import render
from sandbox.case.opening import find_or_open_case
from sandbox.case.options import OpenOptions
from sandbox.case.places import RELAY, dump_paths, vmlinux
from sandbox.case.store import is_running
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.engine import Engine, Exec, connect
from sandbox.errors import SessionDied, UsageError, VmboxError, pasteable
from sandbox.host.locks import locked
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter
from sandbox.session import choice, module_debuginfo, terminal
from sandbox.session.history import History, TypedLines
from sandbox.session.session import Session

SHELL: Final = "bash"
"""The tool that is no debugger: a shell in the sandbox."""

TOOLS: Final = (*DEBUGGERS, SHELL)

_WRAPPER: Final = "/usr/libexec/vmbox/shell"
_PATIENCE: Final = 60.0
"""Seconds that a case on another host has to say that the lock of a tool is held."""
_SHELL_ARGV: Final = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi")


_TERMS: Final = frozenset(
    {
        "ansi",
        "dumb",
        "linux",
        "rxvt",
        "screen",
        "screen-256color",
        "tmux",
        "tmux-256color",
        "vt100",
        "vt102",
        "vt220",
        "xterm",
        "xterm-256color",
        "xterm-color",
    }
)
"""Terminals that an image describes: ncurses-base of each distribution has them."""


def term_of(name: str) -> str:
    """The $TERM of a case for that of the user: newer terminals (kitty, foot, ghostty) work like an xterm.

    Of one that the image does not describe, crash's pager says at each answer that it is not fully functional.
    """
    if name in _TERMS:
        return name
    multiplexer = next((one for one in ("screen", "tmux") if name.startswith(one)), None)
    return f"{multiplexer}-256color" if multiplexer else "xterm-256color" if name else "xterm"


def interactive(case: Case, *, tool: str = DEFAULT.name, python: bool = False, reporter: Reporter = QUIET) -> int:
    """Runs a tool at the user's terminal until it ends. Returns its exit status.

    Raises `SessionDied` when the case ends before it: another process has closed it.

    `python`: the prompt for the language of the debugger's scripts in place of that for its commands.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "vmbox shell needs a terminal",
            hint=f"for scripts: vmbox run {pasteable(case.dump)} -- COMMAND, or commands on stdin",
        )
    env = {"TERM": term_of(os.environ.get("TERM", ""))}
    engine = connect(case.endpoint)
    try:
        with _presence(case, engine) as ident:
            debugger = DEBUGGERS.get(tool)
            if (doubt := case.doubts.get(tool)) is not None:
                render.note(f"vmbox: {doubt}")
            watcher = None if debugger is None else _with_history(debugger, case, ident, env, reporter)
            argv = _SHELL_ARGV if debugger is None else _prompt(debugger, case, python=python)
            with _started(engine, case, ident, argv, env) as process:
                # What it raises is said below the prompt.
                render.leave_line()
                status = terminal.attach(process, watcher)
                render.leave_line(unfinished=bool(status))
        if status and not is_running(case):
            again = f"vmbox shell {pasteable(case.dump)}"
            raise SessionDied(f"the case of {case.dump.name} was closed, or has ended", hint=f"open it again: {again}")
        return status
    finally:
        engine.close()


def prompt_for(dump: Path, options: OpenOptions, reporter: Reporter = QUIET) -> str:
    """The name of the debugger whose prompt is opened on a dump when the user names none: as `vmbox run` chooses."""
    case = find_or_open_case(dump, options, reporter)
    chosen = choice.kept(case)
    if chosen is None:
        chosen = choice.by_kernel(case)
        reporter.notice(f"{chosen.debugger} answers: {chosen.reason}")
    else:
        choice.remind(case, options, reporter)
    return chosen.debugger


def _prompt(debugger: Debugger, case: Case, *, python: bool) -> Sequence[str]:
    dumps = dump_paths(case.files)
    argv = debugger.python_argv(vmlinux(case), dumps) if python else None
    return debugger.told(argv or debugger.prompt_argv(vmlinux(case), dumps), case.place)


def _started(
    engine: Engine, case: Case, ident: str, argv: Sequence[str], env: Mapping[str, str]
) -> contextlib.AbstractContextManager[Exec]:
    return engine.exec(case.container, [_WRAPPER, ident, *argv], tty=True, stdin=True, env=env)


def _with_history(
    debugger: Debugger, case: Case, ident: str, env: dict[str, str], reporter: Reporter
) -> TypedLines | None:
    """Gives the prompt the history of the case, and keeps what is typed. None where the prompt takes no history."""
    place = f"/run/vmbox/history-{ident}"
    given_env = debugger.prompt_env(place)
    if not given_env:
        return None
    history = History(case)
    given = case.shared / f"history-{ident}"
    if not case.remote:  # there, what is typed is kept, and not at hand again
        given.touch(mode=0o600)
        given.write_text("".join(f"{line}\n" for line in history.lines()), encoding="utf-8")
    env.update(given_env)
    failed = False

    def keep(line: str) -> None:
        nonlocal failed
        try:
            history.add(line)
        except OSError as error:
            if not failed:
                reporter.notice(f"no history is kept: {error.strerror}\r")
            failed = True

    def load(line: str) -> None:
        names = debugger.modules_requested(line)
        if names is None or not module_debuginfo.any_missing(case, names):
            return
        with terminal.cooked_output():
            try:
                if not names:
                    # The warm debugger knows which modules there are.
                    with Session(case, debugger=debugger) as session:
                        session.start()
                        names = module_debuginfo.loaded_modules(session)
                    if not module_debuginfo.any_missing(case, names):
                        return
                print(flush=True)  # noqa: T201 - the line that was typed stays as it is
                module_debuginfo.fetch(case, names, reporter)
            except VmboxError as error:
                reporter.notice(f"debug files of modules could not be fetched: {error.message}")
            except KeyboardInterrupt:
                reporter.notice("interrupted: crash goes on with the modules that are there")

    return TypedLines(keep, lambda: os.get_terminal_size(sys.stdout.fileno()).columns, load)


@contextmanager
def _presence(case: Case, engine: Engine) -> Iterator[str]:
    """Locks held for as long as we live: one by which the case counts as used, out of its reach, and one in it."""
    ident = secrets.token_hex(4)
    mark = case.directory / f"shell-{ident}"
    try:
        with locked(mark), _held_inside(case, engine, ident):
            yield ident
    finally:
        mark.unlink(missing_ok=True)


@contextmanager
def _held_inside(case: Case, engine: Engine, ident: str) -> Iterator[None]:
    """The script in the container ends the program when this lock is let go."""
    if case.remote:
        with engine.exec(case.container, [RELAY, "hold", ident], stdin=True) as holding:
            if not holding.ready(_PATIENCE) or not holding.read():
                raise SessionDied(f"the case of {case.dump.name} does not answer")
            yield
        return
    path = case.shared / f"shell-{ident}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        Path(case.shared / f"history-{ident}").unlink(missing_ok=True)
        os.close(descriptor)
