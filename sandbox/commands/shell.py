"""Programs in the case container beside the warm crash, without disturbing it: crash's own prompt, drgn, a shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox import render
from sandbox.case.container import RELAY, VMLINUX, dump_paths
from sandbox.engine import Engine, Exec, connect
from sandbox.errors import CommandTimeout, SessionDied, UsageError, VmboxError
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter
from sandbox.session import module_debuginfo, terminal
from sandbox.session.history import History, TypedLines
from sandbox.session.session import Session
from sandbox.session.transcript import Recorder

TOOLS: Final = ("crash", "drgn", "bash")

_WRAPPER: Final = "/usr/libexec/vmbox/shell"
_NOT_FOUND: Final = 127
_PRELUDE: Final = "from drgn import *; from drgn.helpers.common import *; from drgn.helpers.linux import *\n"
"""What drgn's own prompt has at hand; -e has it, too, in every version of drgn."""


def interactive(case: Case, *, tool: str = "crash", reporter: Reporter = QUIET) -> int:
    """Runs a tool at the user's terminal until it ends. Returns its exit status."""
    if not sys.stdin.isatty():
        raise UsageError(
            "vmbox shell needs a terminal", hint=f"for scripts: vmbox run {case.dump} -- COMMAND, or commands on stdin"
        )
    env = {"TERM": os.environ.get("TERM", "xterm")}
    engine = connect(case.endpoint)
    try:
        with _presence(case, engine) as ident:
            watcher = _with_history(case, ident, env, reporter) if tool == "crash" else None
            with _started(engine, case, ident, tool, (), tty=True, env=env) as process:
                return _checked(terminal.attach(process, watcher), case, tool)
    finally:
        engine.close()


def run_script(
    case: Case,
    script: bytes,
    name: str,
    arguments: Sequence[str],
    *,
    timeout: float | None = None,
    transcript: bool = True,
    reporter: Reporter = QUIET,
) -> int:
    """Runs a drgn script of the host in the case, with the dump as its program; it is streamed in, not mounted.

    Its output goes to standard output as it comes, its errors to standard error when it has ended. Returns 0, or 1
    when the script failed. Raises `CommandTimeout` after `timeout` seconds.
    """
    record = Recorder(case, reporter, wanted=transcript)
    output = render.Output()
    deadline = None if timeout is None else time.monotonic() + timeout
    engine = connect(case.endpoint)
    status = "interrupted"
    record.begin()
    try:
        with _presence(case, engine) as ident:
            path = f"/tmp/.tool-{ident}/{name}"  # noqa: S108 - in the container
            with _started(engine, case, ident, "drgn", (path, *arguments), script=(path, len(script))) as process:
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
        status = "ok" if code == 0 else "error"
        return min(_checked(code, case, "drgn"), 1)
    except TimeoutError:
        status = "timeout"
        raise CommandTimeout(f"{name} was stopped after {timeout:g} seconds") from None
    finally:
        engine.close()
        record.end(" ".join((name, *arguments)), status, tool="drgn")


def script_of(code: str) -> bytes:
    """A script of what -e was given."""
    return (_PRELUDE + code + "\n").encode()


def _output(process: Exec, deadline: float | None) -> Iterator[bytes]:
    while True:
        if not process.pending():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not select.select([process.fileno()], [], [], left)[0]):
                raise TimeoutError
        piece = process.read()
        if not piece:
            return
        yield piece


def _started(
    engine: Engine,
    case: Case,
    ident: str,
    tool: str,
    arguments: Sequence[str],
    *,
    tty: bool = False,
    script: tuple[str, int] = ("", 0),
    env: Mapping[str, str] | None = None,
) -> contextlib.AbstractContextManager[Exec]:
    dumps = dump_paths(case.files)
    match tool:
        case "crash":
            argv = ["crash", "--no_crashrc", VMLINUX, *dumps]
        case "drgn":
            if len(dumps) > 1:
                raise UsageError(
                    "drgn does not read split dumps", hint="join the parts first: makedumpfile --reassemble"
                )
            # Modules have their symbols from the dump; without their debug files drgn would only complain.
            argv = ["drgn", "--no-default-symbols", "-c", dumps[0], "-s", VMLINUX, *arguments]
        case _:
            argv = ["sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh; fi"]
    path, size = script
    return engine.exec(case.container, [_WRAPPER, ident, path, str(size), *argv], tty=tty, stdin=True, env=env)


def _checked(code: int, case: Case, tool: str) -> int:
    if code == _NOT_FOUND and tool == "drgn":
        raise UsageError(
            f"image {case.profile} has no drgn", hint=f"--image latest has one: vmbox shell --image latest {case.dump}"
        )
    return code


def _with_history(case: Case, ident: str, env: dict[str, str], reporter: Reporter) -> TypedLines:
    """Gives crash the case's history, and keeps what is typed."""
    history = History(case)
    given = case.directory / f"history-{ident}"
    if not case.remote:  # there, what is typed is kept, and not at hand again
        given.touch(mode=0o600)
        given.write_text("".join(f"{line}\n" for line in history.lines()), encoding="utf-8")
    env["GDBHISTFILE"] = f"/run/vmbox/{given.name}"
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
        names = module_debuginfo.modules_requested(line)
        if names is None or not module_debuginfo.any_missing(case, names):
            return
        with terminal.cooked_output():
            try:
                if not names:
                    # The warm crash knows which modules there are.
                    with Session(case) as session:
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
            if not holding.read():
                raise SessionDied(f"the case of {case.dump.name} does not answer")
            yield ident
        return
    path = case.directory / f"shell-{ident}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield ident
    finally:
        path.unlink(missing_ok=True)
        Path(case.directory / f"history-{ident}").unlink(missing_ok=True)
        os.close(descriptor)
