"""Runs a script of the host in the warm debugger of a case."""

from __future__ import annotations

from pathlib import Path

from sandbox import render
from sandbox.commands.run_arguments import RunArguments
from sandbox.debugger import DEBUGGERS
from sandbox.errors import UsageError
from sandbox.model import Case, CommandStatus
from sandbox.progress import Reporter
from sandbox.session import choice
from sandbox.session.run_recorded import recording
from sandbox.session.script import run_script
from sandbox.session.start import open_session
from sandbox.session.transcript import Recorder


def run_tool(arguments: RunArguments, *, reporter: Reporter, case: Case | None = None) -> int:
    """`vmbox run --tool`: a script, which is streamed in and not mounted, or the code of -e.

    Its output goes to standard output as it comes, its errors to standard error when it has ended. Returns 0, or 1 when
    the script failed. Raises `CommandTimeout`.
    """
    debugger = DEBUGGERS[arguments.tool]
    if arguments.code is not None:
        code, name, words = debugger.script_of(arguments.code), "-e", arguments.commands
    else:
        path = Path(arguments.commands[0])
        code, name, words = _read(path), path.name, arguments.commands[1:]
    output = render.Output()
    with open_session(arguments.vmcore, arguments.open_options(), reporter, case=case)[0] as session:
        choice.remind(session.case, arguments.open_options(), reporter)
        record = Recorder(session.case, reporter, wanted=not arguments.no_transcript)
        with recording(" ".join((name, *words)), session, output, record) as outcome:
            outcome.status, errors = run_script(session, name, code, words, outcome.give, timeout=arguments.timeout)
            if errors:
                record(errors)
                render.note(render.visible(errors.decode(errors="backslashreplace")).rstrip("\n"))
        if session.doubt is not None:
            # Also with -q, as of a command.
            render.note(f"vmbox: {session.doubt}")
    return 0 if outcome.status is CommandStatus.OK else 1


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="the script is a file of this host") from error
