"""Programs in a case beside its warm debugger: the prompt of a debugger, a script, a shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox import render
from sandbox.case.places import RELAY, VMLINUX, dump_paths
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.engine import Engine, Exec, connect
from sandbox.errors import CommandTimeout, SessionDied, UsageError, VmboxError, pasteable
from sandbox.model import Case, CommandStatus
from sandbox.progress import QUIET, Reporter
from sandbox.session import module_debuginfo, terminal
from sandbox.session.history import History, TypedLines
from sandbox.session.session import Session
from sandbox.session.transcript import Recorder

SHELL: Final = "bash"
"""The tool that is no debugger: a shell in the sandbox."""

TOOLS: Final = (*DEBUGGERS, SHELL)

_WRAPPER: Final = "/usr/libexec/vmbox/shell"
_NOT_FOUND: Final = 127
_PATIENCE: Final = 60.0
"""Seconds that a case on another host has to say that the lock of a tool is held."""
_SHELL_ARGV: Final = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi")


def interactive(case: Case, *, tool: str = DEFAULT.name, reporter: Reporter = QUIET) -> int:
    """Runs a tool at the user's terminal until it ends. Returns its exit status."""
    if not sys.stdin.isatty():
        raise UsageError(
            "vmbox shell needs a terminal",
            hint=f"for scripts: vmbox run {pasteable(case.dump)} -- COMMAND, or commands on stdin",
        )
    env = {"TERM": os.environ.get("TERM", "xterm")}
    engine = connect(case.endpoint)
    try:
        with _presence(case, engine) as ident:
            debugger = DEBUGGERS.get(tool)
            if debugger is DEFAULT and case.doubt is not None:
                render.note(f"vmbox: {case.doubt}")
            watcher = None if debugger is None else _with_history(debugger, case, ident, env, reporter)
            argv = list(_SHELL_ARGV)
            if debugger is not None:
                argv = [*debugger.prompt_argv(VMLINUX, dump_paths(case.files))]
                argv += debugger.kernel_place(case.kernel_offset, case.phys_base)
            with _started(engine, case, ident, argv, tty=True, env=env) as process:
                return _checked(terminal.attach(process, watcher), case, tool)
    finally:
        engine.close()


def run_script(
    debugger: Debugger,
    case: Case,
    script: bytes,
    name: str,
    arguments: Sequence[str],
    *,
    timeout: float | None = None,
    transcript: bool = True,
    reporter: Reporter = QUIET,
) -> int:
    """Runs a script of the host by a debugger in the case; it is streamed in, not mounted.

    Its output goes to standard output as it comes, its errors to standard error when it has ended. Returns 0, or 1
    when the script failed. Raises `CommandTimeout` after `timeout` seconds.
    """
    record = Recorder(case, reporter, wanted=transcript)
    output = render.Output()
    deadline = None if timeout is None else time.monotonic() + timeout
    engine = connect(case.endpoint)
    status = CommandStatus.INTERRUPTED
    record.begin()
    try:
        with _presence(case, engine) as ident:
            path = f"/tmp/.tool-{ident}/{name}"  # noqa: S108 - in the container
            program = debugger.script_argv(VMLINUX, dump_paths(case.files), path)
            if program is None:
                raise UsageError(f"{debugger.name} runs no scripts")
            with _started(engine, case, ident, [*program, *arguments], script=(path, len(script))) as process:
                process.write(script)
                process.close_stdin()
                for piece in _output(process, deadline):
                    record(piece)
                    output(piece)
                code = process.exit_code()
                errors = process.errors
        if errors:
            record(errors)
            render.note(render.visible(errors.decode(errors="backslashreplace")).rstrip("\n"))
        status = CommandStatus.OK if code == 0 else CommandStatus.ERROR
        return min(_checked(code, case, debugger.name), 1)
    except TimeoutError:
        status = CommandStatus.TIMEOUT
        raise CommandTimeout(f"{name} was stopped after {timeout:g} seconds") from None
    finally:
        engine.close()
        record.end(" ".join((name, *arguments)), status, tool=debugger.name)


def _output(process: Exec, deadline: float | None) -> Iterator[bytes]:
    while True:
        if deadline is not None and not process.ready(max(deadline - time.monotonic(), 0)):
            raise TimeoutError
        piece = process.read()
        if not piece:
            return
        yield piece


def _started(
    engine: Engine,
    case: Case,
    ident: str,
    argv: Sequence[str],
    *,
    tty: bool = False,
    script: tuple[str, int] = ("", 0),
    env: Mapping[str, str] | None = None,
) -> contextlib.AbstractContextManager[Exec]:
    path, size = script
    return engine.exec(case.container, [_WRAPPER, ident, path, str(size), *argv], tty=tty, stdin=True, env=env)


def _checked(code: int, case: Case, tool: str) -> int:
    if code == _NOT_FOUND and tool in DEBUGGERS:
        raise UsageError(
            f"image {case.profile} has no {tool}",
            hint=f"--image latest has one: vmbox shell --image latest --tool {tool} {pasteable(case.dump)}",
        )
    return code


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
    """A lock held for as long as we live: the script in the container ends the program when it is let go."""
    ident = secrets.token_hex(4)
    if case.remote:
        with engine.exec(case.container, [RELAY, "hold", ident], stdin=True) as holding:
            if not holding.ready(_PATIENCE) or not holding.read():
                raise SessionDied(f"the case of {case.dump.name} does not answer")
            yield ident
        return
    path = case.shared / f"shell-{ident}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield ident
    finally:
        path.unlink(missing_ok=True)
        Path(case.shared / f"history-{ident}").unlink(missing_ok=True)
        os.close(descriptor)
