"""Commands about this host: doctor, demo."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli import completion
from sandbox.cli.app import command
from sandbox.cli.options import EngineName, Json, Quiet
from sandbox.commands.demo_triggers import TRIGGERS


@command()
def doctor(
    json: Json = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry and no archive.")] = False,
    engine: EngineName = None,
    leaks: Annotated[
        bool, typer.Option("--leaks", help="Look for what a killed vmbox left behind; status 1 if there is any.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="With --leaks: remove it.")] = False,
) -> None:
    """Check engines, host, settings, directories and servers, and print the commands that fix what is wrong."""
    if remove and not leaks:
        raise typer.BadParameter("--remove goes with --leaks")
    if leaks:
        _leaks(engine, json=json, remove=remove)
        return
    from sandbox.commands.doctor import examine

    findings = []
    for finding in examine(engine, offline=offline):
        findings.append(finding)
        if not json:
            mark = "ok" if finding.good else "MISSING" if finding.required else "note"
            render.line(render.hanging(f"{mark:>7}  {finding.subject}: {finding.text}", indent=13))
            if finding.hint:  # in one line, so that it can be pasted
                render.line(f"{'':13}{finding.hint}")
    if json:
        render.as_json(findings)
    raise typer.Exit(0 if all(finding.good for finding in findings if finding.required) else 1)


def _leaks(engine: str | None, *, json: bool, remove: bool) -> None:
    from sandbox.commands.leaks import find

    found = list(find(engine))
    if json:
        render.as_json([{"kind": leak.kind, "name": leak.name, "why": leak.why} for leak in found])
    elif found:
        render.table(("KIND", "NAME", "WHY"), ((leak.kind, leak.name, leak.why) for leak in found))
    else:
        render.note("nothing is left behind")
    if remove:
        for leak in found:
            leak.remove()
        if found:
            render.note(f"{len(found)} removed")
    elif found:
        render.note("hint: vmbox doctor --leaks --remove")
    raise typer.Exit(1 if found and not remove else 0)


@command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the vmcore goes.")] = Path(),
    profile: Annotated[
        str, typer.Option(metavar="PROFILE", help="Whose kernel dies.", autocompletion=completion.profiles)
    ] = "debian-12",
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE[=VERSION]", help="A kernel package of that distribution; by default its newest for clouds."
        ),
    ] = None,
    trigger: Annotated[
        str,
        typer.Option(help=f"What ends the kernel: {', '.join(TRIGGERS)}.", autocompletion=completion.triggers),
    ] = "sysrq",
    dump_format: Annotated[
        str,
        typer.Option("--format", help="kdump, kdump-lzo, flattened, elf, proc-vmcore, split, qemu-elf …"),
    ] = "kdump",
    level: Annotated[int, typer.Option(min=0, max=31, help="Pages left out, as of makedumpfile -d.")] = 31,
    memory: Annotated[
        int | None, typer.Option(metavar="MIB", min=512, help="Memory of the machine that dies.", show_default=False)
    ] = None,
    fill: Annotated[
        int, typer.Option(metavar="MIB", min=0, help="Memory filled with noise, for a dump of that size: --level 1.")
    ] = 0,
    crashkernel: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory kept for the capture kernel.", show_default=False)
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, max=16)] = 2,
    engine: EngineName = None,
    quiet: Quiet = False,
) -> None:
    """Make a genuine vmcore: boot a throw-away kernel in a container, make it panic, capture its memory."""
    from sandbox.commands.demo import DemoSpec, make_vmcore
    from sandbox.engine import connect

    spec = DemoSpec(
        profile=profile,
        kernel=kernel,
        trigger=trigger,
        format=dump_format,
        level=level,
        memory=memory,
        fill=fill,
        crashkernel=crashkernel,
        cpus=cpus,
    )
    with closing(connect(engine)) as connected:
        made = make_vmcore(spec, directory, engine=connected, reporter=render.reporter(quiet=quiet))
    render.line(made)
