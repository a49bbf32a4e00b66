"""Commands about dumps as evidence: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import Json, Quiet
from sandbox.remote.naming import named


@command()
def verify(
    vmcores: Annotated[
        list[Path],
        typer.Argument(metavar="VMCORE", help="The crash dumps.", show_default=False, parser=named),
    ],
    expected: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="The expected digest; also read from VMCORE.sha256.")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Record the file as it is now.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record a dump, or check that it has not changed: SHA-256, size, mode, owner, time, extended attributes."""
    from sandbox.commands.verify import verify as check

    found = check(vmcores, expected=expected, accept=accept, reporter=render.reporter(quiet=quiet))
    if json:
        render.as_json(found)
        return
    for one in found:
        # The format of sha256sum -c, which marks a line whose name has escapes.
        name = render.visible(one.name.replace("\\", r"\\").replace("\n", r"\n"))
        mark = "\\" if "\\" in one.name or "\n" in one.name else ""
        render.line(f"{mark}{one.found.sha256}  {name}")
        since = "recorded" if one.newly_recorded else f"unchanged since {one.recorded.astimezone():%Y-%m-%d %H:%M}"
        render.note(f"{render.one_line(one.name)}: {since}")
