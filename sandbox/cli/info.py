"""Commands that read a dump, or only its kernel's name: info, dmesg, prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import (
    Dump,
    EngineName,
    GivenDebuginfo,
    ImageName,
    Json,
    OptionalDump,
    Quiet,
    Release,
    UtsnameVersion,
)


@command()
def info(
    vmcore: OptionalDump = None,
    json: Json = False,
    release: Release = None,
    utsname_version: UtsnameVersion = None,
    unpack: Annotated[
        bool,
        typer.Option(
            "--unpack",
            help="Unpack a large archive into the cache, once, to read its log; search all memory for VMCOREINFO.",
        ),
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Download a dump that is given as a URL, once, for all commands.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="URL", help="ssh:// or tcp://: the dump is a path of this engine's host."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json.")] = False,
) -> None:
    """Print what a dump is: kernel, build, time and cause of the crash. Needs no engine and executes nothing."""
    from sandbox.commands.info import show, show_release, show_schema

    match vmcore, release:
        case None, None if schema:
            show_schema()
        case Path(), None:
            show(vmcore, json=json, unpack=unpack, download=download, engine=engine)
        case None, str():
            show_release(release, utsname_version, json=json)
        case _:
            raise typer.BadParameter("give a dump, or --release")


@command()
def prepare(
    vmcore: OptionalDump = None,
    release: Release = None,
    utsname_version: UtsnameVersion = None,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    quiet: Quiet = False,
) -> None:
    """Get image and debuginfo ready before the dump has arrived: from a sosreport, a log, or a release."""
    from sandbox.case.dumps import identify
    from sandbox.case.options import OpenOptions
    from sandbox.case.provision import prefetch
    from sandbox.dump.release import of_release

    match vmcore, release:
        case Path(), None:
            wanted = identify(vmcore)
        case None, str():
            wanted = of_release(release, utsname_version)
        case _:
            raise typer.BadParameter("give a sosreport, a log or a dump, or --release")
    # Without a dump there is no build-id to compare: the match is checked when the dump is opened.
    unproven = wanted.build_id is None and wanted.banner is None
    options = OpenOptions(engine=engine, image=image, debuginfo=debuginfo, force=unproven)
    ready = prefetch(wanted, options, render.reporter(quiet=quiet))
    render.facts([("IMAGE", ready[0]), ("DEBUGINFO", str(ready[1].vmlinux)), ("PROOF", ready[1].proof)])


@command()
def dmesg(vmcore: Dump, quiet: Quiet = False) -> None:
    """Print the kernel's log, as dmesg does. Needs no engine, no crash and no debuginfo.

    A dump deep in an archive is unpacked into the cache first, as `vmbox run` does.
    """
    from contextlib import nullcontext

    from sandbox.case.dumps import read_log
    from sandbox.host import standard_input

    output = render.Output()
    with standard_input.as_file() if str(vmcore) == "-" else nullcontext(vmcore) as dump:
        for line in read_log(dump, render.reporter(quiet=quiet)):
            output(line + b"\n")
