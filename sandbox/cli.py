"""The command line: parse, call, render, exit status. Sole importer of typer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from sandbox import __version__, render
from sandbox.ending import ending
from sandbox.errors import VmboxError

app = typer.Typer(
    name="vmbox",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Opens any Linux kernel crash dump: the right crash, the matching debuginfo, a sandbox around both.",
)

Dump = Annotated[Path, typer.Argument(metavar="VMCORE", help="The crash dump.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine", envvar="VMBOX_ENGINE", metavar="NAME|URL", help="docker, podman, or the URL of an engine's API."
    ),
]
ImageName = Annotated[
    str | None, typer.Option("--image", metavar="PROFILE", help="Use this profile's crash, e.g. debian-13.")
]
GivenDebuginfo = Annotated[
    Path | None, typer.Option("--debuginfo", metavar="FILE|DIR", help="A vmlinux, a debug package, or where they are.")
]
Force = Annotated[bool, typer.Option("--force", help="Use debuginfo that does not match the dump.")]


def command(name: str | None = None, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command; whatever it raises becomes text and exit status here, before typer sees it."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with ending():
                function(*args, **kwargs)

        app.command(name, **settings)(guarded)
        return function

    return register


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"vmbox {__version__}")
        raise typer.Exit


@command()
def info(vmcore: Dump, json: Json = False) -> None:
    """Say what a dump is: kernel, build, time of the crash. Needs no engine and executes nothing."""
    from sandbox.description import show

    show(vmcore, json=json)


@command()
def dmesg(vmcore: Dump) -> None:
    """Print the kernel's log, as dmesg does. Needs no engine, no crash and no debuginfo."""
    from sandbox.dump import read_log

    output = render.Output()
    for line in read_log(vmcore):
        output(line + b"\n")


@command(context_settings={"ignore_unknown_options": True})
def run(
    vmcore: Dump,
    commands: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[--] COMMAND… [-- COMMAND…]",
            help="crash commands; - reads them from standard input.",
            show_default=False,
        ),
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", "-i", metavar="FILE", help="Read commands from a file, one a line.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per command.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop a command that takes longer.")
    ] = None,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run crash commands on a dump. The first time opens it; afterwards crash is warm and answers at once.

    vmbox run vmcore -- bt
    vmbox run vmcore -- bt -- ps -t -- log
    """
    from sandbox.commands import from_arguments, from_lines, run_all
    from sandbox.opening import Wishes

    if input_file is not None:
        wanted = from_lines(_read_lines(input_file))
    elif commands and commands != ["-"]:
        wanted = iter(from_arguments(commands))
    elif commands or not sys.stdin.isatty():
        wanted = from_lines(sys.stdin)
    else:
        raise typer.BadParameter("give a command, e.g. vmbox run vmcore -- bt")
    reporter = render.reporter(quiet=quiet)
    wishes = Wishes(engine=engine, image=image, debuginfo=debuginfo, force=force)
    status = run_all(vmcore, wanted, wishes=wishes, timeout=timeout, json=json, reporter=reporter)
    raise typer.Exit(status)


@command()
def shell(
    vmcore: Dump,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Open crash's own prompt on a dump. Does not disturb the warm crash of `vmbox run`."""
    from sandbox.opening import Wishes, case_of
    from sandbox.shell import interactive

    reporter = render.reporter(quiet=quiet)
    case = case_of(vmcore, Wishes(engine=engine, image=image, debuginfo=debuginfo, force=force), reporter)
    raise typer.Exit(interactive(case))


@command("list")
def list_cases(json: Json = False) -> None:
    """List the open cases."""
    from sandbox.ledger import open_cases as found

    cases = found()
    if json:
        render.as_json(cases)
    elif cases:
        columns = ("CASE", "RELEASE", "PROFILE", "ENGINE", "OPENED", "DUMP")
        rows = (
            (
                case.id,
                case.release,
                case.profile,
                case.engine,
                f"{case.opened.astimezone():%Y-%m-%d %H:%M}",
                str(case.dump),
            )
            for case in cases
        )
        render.table(columns, rows)
    else:
        render.note("no case is open")


@command()
def close(
    what: Annotated[str | None, typer.Argument(metavar="VMCORE|CASE", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Close all cases.")] = False,
) -> None:
    """Close the case of a dump: its container is removed, nothing is left behind."""
    from sandbox.case import close as end
    from sandbox.ledger import matching, open_cases as found

    if (what is None) != everything:
        raise typer.BadParameter("give a dump, a case, or --all")
    for case in found() if what is None else matching(what):
        end(case)
        render.note(f"closed {case.id} ({case.dump})")


@command()
def doctor(json: Json = False, engine: EngineName = None) -> None:
    """Check engines, directories and profiles, and say what would mend what is wrong."""
    from sandbox.doctor import examine

    findings = list(examine(engine))
    if json:
        render.as_json(findings)
    else:
        for finding in findings:
            mark = "ok" if finding.good else "MISSING" if finding.required else "note"
            hint = f"\n             {finding.hint}" if finding.hint else ""
            typer.echo(f"{mark:>7}  {finding.subject}: {finding.text}{hint}")
    raise typer.Exit(0 if all(finding.good for finding in findings if finding.required) else 1)


@command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where the vmcore goes.")] = Path(),
    profile: Annotated[str, typer.Option(metavar="PROFILE", help="Whose kernel dies.")] = "debian-12",
    kernel: Annotated[
        str, typer.Option(metavar="PACKAGE[=VERSION]", help="A kernel package of that distribution.")
    ] = "linux-image-cloud-amd64",
    trigger: Annotated[str, typer.Option(help="sysrq, oom or hung-task.")] = "sysrq",
    dump_format: Annotated[
        str,
        typer.Option("--format", help="kdump, kdump-lzo, flattened, elf, proc-vmcore, split, qemu-elf …"),
    ] = "kdump",
    level: Annotated[int, typer.Option(min=0, max=31, help="Pages left out, as of makedumpfile -d.")] = 31,
    memory: Annotated[int, typer.Option(metavar="MIB", min=512, help="Memory of the machine that dies.")] = 768,
    cpus: Annotated[int, typer.Option(min=1, max=16)] = 2,
    engine: EngineName = None,
    quiet: Quiet = False,
) -> None:
    """Make a genuine vmcore: boot a throw-away kernel in a container, make it panic, capture its memory."""
    from sandbox.demo import DemoSpec, make_vmcore
    from sandbox.engine import connect

    spec = DemoSpec(
        profile=profile, kernel=kernel, trigger=trigger, format=dump_format, level=level, memory=memory, cpus=cpus
    )
    with closing(connect(engine)) as connected:
        made = make_vmcore(spec, directory, engine=connected, reporter=render.reporter(quiet=quiet))
    typer.echo(made)


def _read_lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            yield from lines
    except OSError as error:
        raise VmboxError(f"{file}: {error.strerror}") from error
