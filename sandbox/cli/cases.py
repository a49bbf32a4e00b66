"""Commands of an open case: run, shell, list, close."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli import completion
from sandbox.cli.application import command
from sandbox.cli.options import Dump, EngineName, Force, GivenDebuginfo, ImageName, Json, NoTranscript, Quiet


@command(context_settings={"ignore_unknown_options": True})
def run(
    vmcore: Dump,
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[--] COMMAND… [-- COMMAND…]",
            help="crash commands; - reads them from standard input.",
            show_default=False,
            autocompletion=completion.crash_commands,
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
    """
    from sandbox.commands import Manner, run_all, wanted
    from sandbox.opening import Wishes

    if not commands and input_file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a command, e.g. vmbox run vmcore -- bt")
    if keep and once:
        raise typer.BadParameter("--keep or --once")
    status = run_all(
        vmcore,
        wanted(commands or [], input_file),
        wishes=Wishes(
            engine=engine, image=image, debuginfo=debuginfo, force=force, idle=0 if keep else None, once=once
        ),
        manner=Manner(timeout=timeout, json=json, transcript=not no_transcript, output=output),
        reporter=render.reporter(quiet=quiet),
    )
    raise typer.Exit(status)


@command()
def shell(
    vmcore: Dump,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Open crash's own prompt on a dump. Does not disturb the warm crash of `vmbox run`."""
    from sandbox.opening import Wishes, case_of
    from sandbox.shell import interactive

    reporter = render.reporter(quiet=quiet)
    case = case_of(vmcore, Wishes(engine=engine, image=image, debuginfo=debuginfo, force=force), reporter)
    raise typer.Exit(interactive(case))


@command("list")
def list_cases(json: Json = False) -> None:
    """List the open cases."""
    from sandbox.ledger import open_cases as found

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
        str | None, typer.Argument(metavar="VMCORE|CASE", show_default=False, autocompletion=completion.cases)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Close all cases.")] = False,
) -> None:
    """Close the case of a dump: its container is removed, nothing is left behind."""
    from sandbox.case import close as end
    from sandbox.ledger import matching, open_cases as found

    if (what is None) != everything:
        raise typer.BadParameter("give a dump, a case, or --all")
    for case in found() if what is None else matching(what):
        end(case)
        render.note(f"closed {case.id} ({case.dump})")
