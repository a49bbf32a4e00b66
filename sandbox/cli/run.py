"""Commands of an open case: run, shell, list, close."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from sandbox import render
from sandbox.cli import completion
from sandbox.cli.app import Command, command, start_log
from sandbox.cli.options import (
    Dump,
    EngineName,
    Force,
    GivenDebuginfo,
    ImageName,
    Json,
    NoDebuginfo,
    NoTranscript,
    Quiet,
    Verbose,
    WithDebugger,
)
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import CaseNotFound, UsageError, VmboxError
from sandbox.host import paths
from sandbox.remote.naming import named

if TYPE_CHECKING:
    from sandbox.commands.run_arguments import RunArguments
    from sandbox.model import Case


class _Run(Command):
    """`run`, parsed by `run_arguments` as in a plain run, which does not load typer."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from sandbox.commands.run_arguments import parse

        if ctx.resilient_parsing:  # an incomplete command line, for completion
            return super().parse_args(ctx, args)
        try:
            ctx.obj = parse(args)
        except UsageError as wrong:
            # If typer also refuses the arguments, its message names the option.
            super().parse_args(ctx, args)
            if wrong.hint == UsageError.default_hint:
                wrong.hint = f"{ctx.command_path} --help"
            raise
        if ctx.obj is None:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, ["--", str(ctx.obj.vmcore)])


@command(cls=_Run, context_settings={"ignore_unknown_options": True})
def run(
    ctx: typer.Context,
    vmcore: Dump,
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND",
            help="Commands of crash; - reads them from standard input. With --tool drgn: a script and its arguments.",
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
            "--output",
            "-o",
            metavar="DIR",
            help="Bring the files that the commands redirect to ('bt > file') into a new or empty directory.",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop a command that takes longer.")
    ] = None,
    debugger: WithDebugger = None,
    tool: Annotated[
        str, typer.Option("--tool", metavar="|".join(DEBUGGERS), help="With drgn: run a script in place of commands.")
    ] = DEFAULT.name,
    code: Annotated[
        str | None, typer.Option("-e", metavar="CODE", help="With --tool drgn: Python code to run.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the case open until it is closed.")] = False,
    once: Annotated[bool, typer.Option("--once", help="A case for this run only; nothing stays warm.")] = False,
    no_transcript: NoTranscript = False,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    no_debuginfo: NoDebuginfo = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for debuginfo, where the answer could be given without.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run crash commands on a dump. The first time opens it; afterwards the debugger is warm and answers at once.

    crash answers where it knows the kernel, else drgn, which has most of its commands.

    vmbox run vmcore -- bt
    vmbox run vmcore -- bt -- ps -t -- log

    vmbox run vmcore --with drgn -- bt
    vmbox run vmcore --tool drgn -- script.py ARG…
    """
    from sandbox.commands.run import run_arguments

    # The parameters of this function are only for --help, completion and the manual.
    asked: RunArguments = ctx.obj
    start_log(asked.verbose)
    reporter = render.reporter(quiet=asked.quiet)
    if asked.tool == DEFAULT.name and not asked.commands and asked.input_file is None and sys.stdin.isatty():
        raise typer.BadParameter("give a command, e.g. vmbox run vmcore -- bt")
    raise typer.Exit(run_arguments(asked, reporter=reporter))


@command()
def shell(
    vmcore: Dump,
    debugger: WithDebugger = None,
    tool: Annotated[
        str | None,
        typer.Option(
            "--tool",
            metavar="|".join((*DEBUGGERS, "bash")),
            help="What to open: drgn's prompt for Python; bash is a shell in the sandbox.",
        ),
    ] = None,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    no_debuginfo: NoDebuginfo = False,
    quiet: Quiet = False,
) -> None:
    """Open the debugger's own prompt on a dump. Does not disturb the warm debuggers of `vmbox run`."""
    from sandbox.case.options import OpenOptions
    from sandbox.case.with_debugger import case_for_tool
    from sandbox.commands.shell import TOOLS, interactive, prompt_for
    from sandbox.session import choice

    if tool not in {None, *TOOLS}:
        raise typer.BadParameter(f"--tool is one of {', '.join(TOOLS)}")
    if tool is not None and debugger is not None:
        raise typer.BadParameter("--with or --tool")
    reporter = render.reporter(quiet=quiet)
    options = OpenOptions(
        engine=engine, image=image, debuginfo=debuginfo, force=force, no_debuginfo=no_debuginfo, debugger=debugger
    )
    options.check()
    chosen = tool or debugger or prompt_for(vmcore, options, reporter)
    with case_for_tool(chosen, vmcore, options, reporter) as case:
        if debugger is not None or tool in DEBUGGERS:
            choice.remind(case, options, reporter)
        raise typer.Exit(interactive(case, tool=chosen, python=tool is not None, reporter=reporter))


@command("list")
def list_cases(json: Json = False) -> None:
    """List the open cases."""
    from sandbox.case.store import open_cases as found
    from sandbox.remote import described

    cases = found()
    if json:
        # How clients speak to the case is no fact about it, and the token is not for bug reports.
        private = {"token", "script", "mounted"}
        render.as_json(
            [{name: value for name, value in render.plain(case).items() if name not in private} for case in cases]
        )
    elif cases:
        columns = ("CASE", "RELEASE", "PROFILE", "ENGINE", "OPENED", "DUMP")
        rows = (
            (
                case.id,
                case.release,
                case.profile,
                case.engine,
                f"{case.opened.astimezone():%Y-%m-%d %H:%M}",
                described.name(case.dump),
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
    """Close the cases of dumps: their containers are removed, and nothing is left behind.

    Also removes the unpacked copy of an archive and the index of a flattened dump, if the case has ended by itself too.
    """
    from sandbox.case import store
    from sandbox.case.container import close as end
    from sandbox.dump.unpacking import forget, unpacked_path
    from sandbox.log import without_secrets
    from sandbox.remote import described

    if bool(what) == everything:
        raise typer.BadParameter("give dumps, cases, or --all")
    copies = paths.unpacked_dir()
    # All are looked up before the first is closed, so that a typo in the last one closes none.
    ended: list[Path] = []
    found: dict[str, Case] = {}
    for given in what or ():
        one = str(described.known(named(given))) if ":/" in given else given  # what stands for a URL here
        try:
            found |= {case.id: case for case in store.find_by_id_or_dump(one)}
        except CaseNotFound:
            there = os.path.exists(one)  # noqa: PTH110 - Path's raises where a directory may not be entered
            if not there or not (
                described.is_description(Path(one))
                or described.is_copy(Path(one))
                or unpacked_path(Path(one), copies).parent.is_dir()
            ):
                if one == given:
                    raise
                raise CaseNotFound(f"no open case matches {without_secrets(given)}") from None
            ended.append(Path(one))
    failures: list[VmboxError] = []
    for case in store.open_cases() if everything else found.values():
        try:
            end(case)
        except VmboxError as error:
            # The other cases are still closed.
            failures.append(error)
            render.error(error)
            continue
        render.note(render.one_line(f"closed {case.id} ({described.name(case.dump)})"))
        if not case.remote:
            ended.append(case.dump)
    for dump in dict.fromkeys(ended):
        # The name of a copy is made from the dump's file, so a missing or inaccessible dump has none.
        if not os.access(dump, os.F_OK) or store.find(dump) is not None:
            continue
        # The index of a flattened one is called after the description.
        if any((forget(dump, copies), described.forget(dump))):
            render.note(render.one_line(f"removed what was kept of {dump.name}"))
    if failures:
        raise typer.Exit(failures[0].exit_code)
