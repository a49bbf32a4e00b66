"""Commands of an open case: run, shell, list, close."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import render
from sandbox.cli import completion
from sandbox.cli.app import command
from sandbox.cli.options import Dump, EngineName, Force, GivenDebuginfo, ImageName, Json, NoTranscript, Quiet
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.errors import CaseNotFound, UsageError
from sandbox.host import paths

if TYPE_CHECKING:
    from sandbox.case.options import OpenOptions
    from sandbox.commands.run import RunOptions
    from sandbox.model import Case
    from sandbox.progress import Reporter


@command(context_settings={"ignore_unknown_options": True})
def run(
    vmcore: Dump,
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND",
            help="crash commands; - reads them from standard input. With --tool drgn: a script and its arguments.",
            show_default=False,
            autocompletion=completion.debugger_commands,
        ),
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", "-i", metavar="FILE", help="Read commands from a file, one a line.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per command.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Bring out the files that the commands write ('bt > file')."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop a command that takes longer.")
    ] = None,
    tool: Annotated[
        str, typer.Option("--tool", metavar="|".join(DEBUGGERS), help="What runs the commands.")
    ] = DEFAULT.name,
    code: Annotated[
        str | None, typer.Option("-e", metavar="CODE", help="With --tool drgn: Python code to run.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="The case stays open until it is closed.")] = False,
    once: Annotated[bool, typer.Option("--once", help="A case for this run only; nothing stays warm.")] = False,
    no_transcript: NoTranscript = False,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run crash commands on a dump. The first time opens it; afterwards crash is warm and answers at once.

    vmbox run vmcore -- bt
    vmbox run vmcore -- bt -- ps -t -- log

    vmbox run vmcore --tool drgn -- script.py ARG…
    """
    from sandbox.case.options import OpenOptions
    from sandbox.commands.run import RunOptions, commands_from, run_all

    if commands and commands[0] != "-" and commands[0].startswith("-"):
        # No command of crash's begins so: it is an option that vmbox does not have.
        raise typer.BadParameter(f"no such option: {commands[0]}")
    if keep and once:
        raise typer.BadParameter("--keep or --once")
    options = OpenOptions(
        engine=engine, image=image, debuginfo=debuginfo, force=force, idle=0 if keep else None, once=once
    )
    run_options = RunOptions(timeout=timeout, json=json, transcript=not no_transcript, output=output)
    reporter = render.reporter(quiet=quiet)
    debugger = DEBUGGERS.get(tool)
    if debugger is None:
        raise typer.BadParameter(f"--tool is {' or '.join(DEBUGGERS)}")
    if debugger is not DEFAULT:
        if json or output or input_file:
            raise typer.BadParameter("--json, --output and --input are for crash commands")
        raise typer.Exit(_script(debugger, vmcore, commands or [], code, options, run_options, reporter))
    if code is not None:
        raise typer.BadParameter("-e CODE needs --tool drgn")
    if not commands and input_file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a command, e.g. vmbox run vmcore -- bt")
    status = run_all(
        vmcore, commands_from(commands or [], input_file), options=options, run_options=run_options, reporter=reporter
    )
    raise typer.Exit(status)


def _script(
    debugger: Debugger,
    vmcore: Path,
    words: list[str],
    code: str | None,
    options: OpenOptions,
    run_options: RunOptions,
    reporter: Reporter,
) -> int:
    from sandbox.case.opening import case_for_tool
    from sandbox.commands.shell import run_script

    if code is not None:
        script, name, arguments = debugger.script_of(code), "-e", words
    elif words:
        script, name, arguments = _read(Path(words[0])), Path(words[0]).name, words[1:]
    else:
        raise typer.BadParameter(f"give a script, or -e CODE: vmbox run vmcore --tool {debugger.name} -- script.py")
    with case_for_tool(debugger.name, vmcore, options, reporter) as case:
        return run_script(
            debugger,
            case,
            script,
            name,
            arguments,
            timeout=run_options.timeout,
            transcript=run_options.transcript,
            reporter=reporter,
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="the script is a file of this host") from error


@command()
def shell(
    vmcore: Dump,
    tool: Annotated[
        str,
        typer.Option(
            "--tool", metavar="|".join((*DEBUGGERS, "bash")), help="What to open; bash is a shell in the sandbox."
        ),
    ] = DEFAULT.name,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Open crash's own prompt on a dump. Does not disturb the warm crash of `vmbox run`."""
    from sandbox.case.opening import case_for_tool
    from sandbox.case.options import OpenOptions
    from sandbox.commands.shell import TOOLS, interactive

    if tool not in TOOLS:
        raise typer.BadParameter(f"--tool is one of {', '.join(TOOLS)}")
    reporter = render.reporter(quiet=quiet)
    options = OpenOptions(engine=engine, image=image, debuginfo=debuginfo, force=force)
    with case_for_tool(tool, vmcore, options, reporter) as case:
        raise typer.Exit(interactive(case, tool=tool, reporter=reporter))


@command("list")
def list_cases(json: Json = False) -> None:
    """List the open cases."""
    from sandbox.case.store import open_cases as found

    cases = found()
    if json:
        render.as_json(cases)
    elif cases:
        columns = ("CASE", "RELEASE", "PROFILE", "ENGINE", "OPENED", "DUMP")
        rows = (
            (
                case.id,
                case.release,
                case.profile,
                case.engine,
                f"{case.opened.astimezone():%Y-%m-%d %H:%M}",
                str(case.dump),
            )
            for case in cases
        )
        render.table(columns, rows)
    else:
        render.note("no case is open")


@command()
def close(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="VMCORE|CASE", show_default=False, autocompletion=completion.cases)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Close all cases.")] = False,
) -> None:
    """Close the cases of dumps: their containers are removed, nothing is left behind.

    What an archive was unpacked to goes as well, also when the case has ended by itself.
    """
    from sandbox.case import store
    from sandbox.case.container import close as end
    from sandbox.dump.unpacking import forget, unpacked_path

    if bool(what) == everything:
        raise typer.BadParameter("give dumps, cases, or --all")
    copies = paths.unpacked_dir()
    # All of them are looked up before the first is closed: a slip in the last one closes none.
    ended: list[Path] = []
    found: dict[str, Case] = {}
    for one in what or ():
        try:
            found |= {case.id: case for case in store.find_by_id_or_dump(one)}
        except CaseNotFound:
            if not Path(one).exists() or not unpacked_path(Path(one), copies).is_file():
                raise
            ended.append(Path(one))
    for case in store.open_cases() if everything else found.values():
        end(case)
        render.note(f"closed {case.id} ({case.dump})")
        if not case.remote:
            ended.append(case.dump)
    for dump in dict.fromkeys(ended):
        # A dump that is gone, or cannot be looked at any more, has no name for a copy either.
        if os.access(dump, os.F_OK) and store.find(dump) is None and forget(dump, copies):
            render.note(f"removed what {dump.name} was unpacked to")
