"""Commands that report: report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import render
from sandbox.cli.application import command
from sandbox.cli.options import EngineName, Force, GivenDebuginfo, ImageName, Json, OptionalDump, Quiet

if TYPE_CHECKING:
    from sandbox.triage.report import Report

Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Stop a crash command that takes longer.")
]


@command()
def report(
    vmcore: OptionalDump = None,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="With --compare: the second dump.", show_default=False, readable=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; report.html by default.")
    ] = None,
    json: Json = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare the crashes of two dumps.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json.")] = False,
    timeout: Timeout = 60,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Look at a crash: one self-contained HTML page, or the same as JSON.

    vmbox report vmcore -o report.html
    vmbox report --compare vmcore.1 vmcore.2
    """
    from sandbox.opening import Wishes
    from sandbox.triage import documents
    from sandbox.triage.making import make
    from sandbox.triage.page import html

    if schema:
        render.as_json(documents.schema())
        return
    if vmcore is None or compare != (other is not None):
        raise typer.BadParameter("give a dump; or two with --compare")
    reporter = render.reporter(quiet=quiet)
    wishes = Wishes(engine=engine, image=image, debuginfo=debuginfo, force=force)
    made = make(vmcore, wishes, reporter, timeout=timeout)
    if other is not None:
        _compared(made, make(other, wishes, reporter, timeout=timeout), json=json)
        return
    if json:
        text = documents.as_json(made)
        if output is None:
            typer.echo(text)
        else:
            documents.write(output, text + "\n")
    else:
        path = output or Path("report.html")
        documents.write(path, html(made))
        typer.echo(path)
    if made.problem is not None:
        render.note(f"vmbox: {render.visible(made.problem)}")
        raise typer.Exit(made.exit_code)


def _compared(first: Report, second: Report, *, json: bool) -> None:
    from sandbox.triage.comparison import compare

    found = compare(first, second)
    if json:
        render.as_json(found)
    else:
        typer.echo(f"{found.verdict} (likeness {found.likeness:.0%})")
        if found.differences:
            render.table(("", "FIRST", "SECOND"), ((one.what, one.first, one.second) for one in found.differences))
    raise typer.Exit(0 if found.same else 1)
