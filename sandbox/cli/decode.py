"""Commands about logs without a dump: decode."""

from __future__ import annotations

from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import EngineName, Force, GivenDebuginfo, Json, Quiet, Release, UtsnameVersion


@command()
def decode(
    log: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL|-",
            help="A log in any form, a dump, or a link of drm_panic; - is standard input.",
            show_default=False,
        ),
    ],
    json: Json = False,
    release: Release = None,
    utsname_version: UtsnameVersion = None,
    engine: EngineName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Print a log with the source line behind each symbol+0xoffset/0xsize, and the instructions of "Code:".

    Needs no dump. The debuginfo is that of the release that the log names; the sizes behind the slashes prove it.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.commands.decode import decode as decoded, show
    from sandbox.dump.release import of_release

    if utsname_version is not None and release is None:
        raise typer.BadParameter("--utsname-version goes with --release")
    kernel = None if release is None else of_release(release, utsname_version)
    options = OpenOptions(engine=engine, debuginfo=debuginfo, force=force)
    raise typer.Exit(show(decoded(log, options, render.reporter(quiet=quiet), kernel=kernel), json=json))
