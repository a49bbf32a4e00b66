"""Commands for other programs: mcp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox.cli.app import command
from sandbox.cli.options import EngineName


@command()
def mcp(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Only dumps below these may be read.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="DIR|PACKAGE", help="Source of the kernel, of which lines are shown.", show_default=False),
    ] = None,
    engine: EngineName = None,
) -> None:
    """Serve assistants and editors over the Model Context Protocol, on standard input and output. Reading only."""
    from sandbox.mcp import serve

    serve(directories or (), engine=engine, sources=source)
