"""Commands about images: image build, list, push, pull, save, load, prune."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import app, command
from sandbox.cli.options import EngineName, GivenDebuginfo, ImageName, Json, Quiet
from sandbox.errors import unwritable
from sandbox.host.files import STDOUT, write_output

group = typer.Typer(
    no_args_is_help=True,
    help="Build images and share them: of one kernel, with its debuginfo inside, or of a distribution.",
)
app.add_typer(group, name="image")

Of = Annotated[
    str,
    typer.Argument(
        metavar="VMCORE|PROFILE",
        help="The image of a dump's kernel, with its debuginfo inside; or that of a distribution, e.g. el9.",
        show_default=False,
    ),
]
Registry = Annotated[
    str | None,
    typer.Option("--registry", envvar="VMBOX_REGISTRY", metavar="HOST[:PORT][/PATH]", help="Where images are shared."),
]


@command(group=group)
def build(
    of: Of,
    modules: Annotated[
        bool, typer.Option("--modules/--no-modules", help="Open the dump once, and add its modules' debug files.")
    ] = True,
    sbom: Annotated[
        Path | None,
        typer.Option("--sbom", metavar="FILE", help="Write what is in the image, as CycloneDX JSON; - to stdout."),
    ] = None,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    quiet: Quiet = False,
) -> None:
    """Put crash, vmlinux and the loaded modules' debug files of a dump's kernel into one image.

    An engine with that image opens dumps of that kernel and fetches nothing.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.commands.images import bill_of, build as make, check_place, resolve_target
    from sandbox.commands.sbom import check_library

    options = OpenOptions(engine=engine, image=image, debuginfo=debuginfo)
    reporter = render.reporter(quiet=quiet)
    elsewhere = "choose another place with --sbom"
    subject = resolve_target(of)
    if sbom is not None:
        check_place(subject, sbom, hint=elsewhere)
        check_library()
    ref = make(subject, options, modules=modules, reporter=reporter)
    if sbom is None:
        render.line(ref)
        return
    bill = bill_of(ref, engine, reporter)
    try:
        write_output(sbom, bill)
    except BrokenPipeError:
        raise  # the reader left
    except OSError as error:
        raise unwritable(sbom, error, hint=elsewhere) from error
    if sbom != STDOUT:
        render.line(ref)


@command("list", group=group)
def list_images(json: Json = False, engine: EngineName = None) -> None:
    """List vmbox's images: of kernels, of distributions, and the bases and tools from which they are made."""
    from sandbox.commands.images import list_images

    found = list_images(engine)
    if json:
        render.as_json(found)
    elif found:
        rows = (
            (
                one.kind,
                one.profile,
                one.release,
                one.arch,
                render.size(one.size),
                one.built[:10],
                one.ref + " (outdated)" * one.outdated,
            )
            for one in found
        )
        render.table(("KIND", "PROFILE", "RELEASE", "ARCH", "SIZE", "BUILT", "IMAGE"), rows)
    else:
        render.note("there are no images yet")


@command(group=group)
def push(
    of: Of, registry: Registry = None, engine: EngineName = None, image: ImageName = None, quiet: Quiet = False
) -> None:
    """Push an image to a registry, with the engine's credentials. It is built if necessary."""
    from sandbox.case.options import OpenOptions
    from sandbox.commands.images import push as send, resolve_target

    render.line(
        send(resolve_target(of), registry, OpenOptions(engine=engine, image=image), render.reporter(quiet=quiet))
    )


@command(group=group)
def pull(of: Of, registry: Registry = None, engine: EngineName = None, quiet: Quiet = False) -> None:
    """Pull an image from a registry. vmbox run does this by itself if $VMBOX_REGISTRY is set."""
    from sandbox.case.options import OpenOptions
    from sandbox.commands.images import pull as bring, resolve_target

    render.line(bring(resolve_target(of), registry, OpenOptions(engine=engine), render.reporter(quiet=quiet)))


@command(group=group)
def save(
    of: Of,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive; - is standard output.")],
    engine: EngineName = None,
    image: ImageName = None,
    quiet: Quiet = False,
) -> None:
    """Write an image to an archive, for a host without any network. It is built if necessary."""
    from sandbox.case.options import OpenOptions
    from sandbox.commands.images import resolve_target, save as write

    options = OpenOptions(engine=engine, image=image)
    render.note(f"saved {write(resolve_target(of), output, options, render.reporter(quiet=quiet))}")


@command(group=group)
def load(
    archive: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What vmbox image save wrote; - is standard input.", show_default=False),
    ],
    engine: EngineName = None,
    quiet: Quiet = False,
) -> None:
    """Load an archive. Then dumps of its kernels can be opened without any network."""
    from sandbox.commands.images import load_archive

    source = sys.stdin.buffer if str(archive) == "-" else archive
    for ref in load_archive(source, engine, render.reporter(quiet=quiet)):
        render.line(ref)


@command(group=group)
def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all of vmbox's images, and not only outdated ones.")
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Also those built longer ago than that, of kernels too: 30d."),
    ] = None,
    json: Json = False,
    engine: EngineName = None,
    quiet: Quiet = False,
) -> None:
    """Remove outdated images: those whose profiles have changed. Open cases keep theirs."""
    from sandbox.commands.images import prune as remove
    from sandbox.host.config import seconds

    try:
        older = None if older_than is None else seconds(older_than)
    except ValueError as error:
        raise typer.BadParameter(f"--older-than must be {error}") from None
    gone = remove(engine, everything=everything, older=older, reporter=render.reporter(quiet=quiet))
    if json:
        render.as_json(gone)
        return
    for one in gone:
        render.note(f"removed {one.ref}")
    if not gone:
        render.note("nothing to remove")
