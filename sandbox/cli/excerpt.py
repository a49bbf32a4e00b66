"""Commands that make a dump of a dump: excerpt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import (
    Dump,
    EngineName,
    Force,
    GivenDebuginfo,
    ImageName,
    Json,
    NoDebuginfo,
    Quiet,
    Timeout,
    WithDebugger,
)
from sandbox.host.files import STDOUT, is_file_output, refuse_planted

if TYPE_CHECKING:
    from sandbox.excerpt.model import Excerpt


@command()
def excerpt(
    vmcore: Dump,
    commands: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD…", help="Commands whose pages are taken, too.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the excerpt goes; excerpt.vmcore by default, NAME.gz is compressed, - is standard output.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Where the list of pages goes; FILE.json beside the excerpt by default."
        ),
    ] = None,
    exclude_user: Annotated[
        bool, typer.Option("--exclude-user", help="Leave out all pages that are not proven to be the kernel's own.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make the report of the excerpt as well, and compare the two.")
    ] = False,
    json: Json = False,
    timeout: Timeout = 60,
    debugger: WithDebugger = None,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    no_debuginfo: NoDebuginfo = False,
    quiet: Quiet = False,
) -> None:
    """Make a small dump of the pages that a report reads, to send where the whole cannot go.

    vmbox excerpt vmcore -o small.vmcore
    vmbox excerpt vmcore -o small.vmcore --exclude-user --verify -- bt -f -- ps -t
    """
    from sandbox.case.options import OpenOptions
    from sandbox.commands.run_arguments import from_arguments
    from sandbox.excerpt.make import make

    options = OpenOptions(
        engine=engine, image=image, debuginfo=debuginfo, force=force, no_debuginfo=no_debuginfo, debugger=debugger
    )
    options.check()
    if output is None:
        output = Path("excerpt.vmcore")
        refuse_planted(output, hint="choose another place with -o")
    listed = manifest
    if listed is None and is_file_output(output):
        listed = output.with_name(output.name + ".json")
        refuse_planted(listed, hint="choose another place with --manifest")
    made = make(
        vmcore,
        output,
        options,
        render.reporter(quiet=quiet),
        commands=from_arguments(commands or ()),
        exclude_user=exclude_user,
        verify=verify,
        timeout=timeout,
        listed=listed,
    )
    if json and output != STDOUT:
        render.as_json(made)
    else:
        _say(made, None if listed == STDOUT else listed, render.note if STDOUT in {output, listed} else render.line)
    if made.unanswered or made.differences:
        raise typer.Exit(1)


def _say(made: Excerpt, listed: Path | None, say: Callable[[str], None]) -> None:
    told = made.manifest
    say(
        f"{render.visible(made.path)}: {render.size(made.bytes)}, {told.pages} of {told.pages_in_dump} pages"
        + (f"; {render.visible(str(listed))} lists them" if listed else "")
    )
    if told.user_pages_left_out is not None:
        say(
            f"no page of user memory is in it: {told.user_pages_left_out} that were read are left out, "
            f"and {told.unknown_pages_left_out} of which the dump does not say what they are"
        )
    for name in made.unanswered:
        render.note(f"vmbox: {render.visible(name)}: the dump has no answer, of which an excerpt could be made")
    if made.differences == ():
        say("the excerpt answers as the dump does")
    for one in made.differences or ():
        render.note(f"vmbox: {one.question}: {one.command} differs: {render.visible(one.line)}")
