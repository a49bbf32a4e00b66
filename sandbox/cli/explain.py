"""Commands that explain a crash: explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import EngineName, Force, GivenDebuginfo, Json, NoDebuginfo, Quiet, Timeout
from sandbox.remote.naming import named


@command()
def explain(
    vmcore: Annotated[Path, typer.Argument(metavar="VMCORE", help="A dump, or a log without its dump.", parser=named)],
    json: Json = False,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|PACKAGE",
            help="A checkout of the kernel or the module, or a package of its source (debugsource, linux-source): "
            "lines around the fault are shown.",
        ),
    ] = None,
    module: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="NAME.ko", help="Debug file of a module that no package has; beside the dump it is found."
        ),
    ] = None,
    engine: EngineName = None,
    debuginfo: GivenDebuginfo = None,
    no_debuginfo: NoDebuginfo = False,
    force: Force = False,
    timeout: Timeout = 60,
    quiet: Quiet = False,
) -> None:
    """Say what happened: what failed, where, how, what lies there, and what else is known; each with its command.

    Nothing is said that was not read: what is not known is listed, with the reason.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.errors import NotADump, pasteable
    from sandbox.remote.described import local
    from sandbox.report.fault import explain_dump

    # Messages name the dump, and a URL may be signed.
    vmcore = local(vmcore, render.reporter(quiet=quiet))
    options = OpenOptions(engine=engine, debuginfo=debuginfo, no_debuginfo=no_debuginfo, force=force)
    options.check()
    fault = explain_dump(
        vmcore,
        options,
        render.reporter(quiet=quiet),
        sources=source,
        modules=module or (),
        timeout=timeout,
    )
    if fault is None:
        raise NotADump(
            f"{vmcore} does not say why it was taken: its log has no oops and no panic",
            hint=f"vmbox report {pasteable(vmcore)}",
        )
    if json:
        render.as_json(render.plain(fault))
    else:
        from sandbox.explain.text import lines

        output = render.Output()
        output(("\n".join(lines(fault, pasteable(vmcore))) + "\n").encode("utf-8", "backslashreplace"))


@command()
def waits(
    vmcore: Annotated[Path, typer.Argument(metavar="VMCORE", parser=named)],
    json: Json = False,
    dot: Annotated[bool, typer.Option("--dot", help="Print the graph for Graphviz.")] = False,
    module: Annotated[
        list[Path] | None,
        typer.Option(metavar="NAME.ko", help="Debug file of a module, by which its locks have names."),
    ] = None,
    engine: EngineName = None,
    debuginfo: GivenDebuginfo = None,
    no_debuginfo: NoDebuginfo = False,
    force: Force = False,
    timeout: Timeout = 60,
    quiet: Quiet = False,
) -> None:
    """Say who waits for whom: deadlocks, the tasks that hold others up, and what each blocked task waits for.

    Owners are those of the locks' own words; for what the kernel records no owner of, that is said.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.errors import UsageError, pasteable
    from sandbox.explain import text
    from sandbox.explain.waits import dot as as_dot
    from sandbox.remote.described import local
    from sandbox.report.waits import waits_of

    if json and dot:
        raise UsageError("--json and --dot are two forms of one answer", hint="choose one of them")
    options = OpenOptions(engine=engine, debuginfo=debuginfo, no_debuginfo=no_debuginfo, force=force)
    options.check()
    vmcore = local(vmcore, render.reporter(quiet=quiet))
    found = waits_of(vmcore, options, render.reporter(quiet=quiet), modules=module or (), timeout=timeout)
    if json:
        render.as_json(render.plain(found))
        return
    shown = as_dot(found) if dot else "\n".join(text.wait_lines(found, pasteable(vmcore))) + "\n"
    render.Output()(shown.encode("utf-8", "backslashreplace"))
