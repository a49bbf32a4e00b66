"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from sandbox.cli import completion
from sandbox.debugger import DEBUGGERS
from sandbox.errors import UsageError
from sandbox.host import config
from sandbox.remote.naming import named


def _sane(seconds: float) -> float:
    try:
        return config.time_limit(seconds)
    except UsageError:
        raise typer.BadParameter("it is a number of seconds above 0") from None


def _configured(value: str | None) -> str | None:
    """The setting replaces a missing option."""
    return value or config.current().engine


def _debugger(value: str | None) -> str | None:
    if value not in {None, *DEBUGGERS}:
        raise typer.BadParameter(f"it is one of {', '.join(DEBUGGERS)}")
    return value


Dump = Annotated[Path, typer.Argument(metavar="VMCORE", help="The crash dump.", show_default=False, parser=named)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
VERBOSE: Final = "Print what is done, and why, on standard error: for a bug report."
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help=VERBOSE)]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME|URL",
        help=f"docker, podman, or the URL of an engine's API; also ${config.variable('engine')}.",
        callback=_configured,
        autocompletion=completion.engines,
    ),
]
ImageName = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="PROFILE",
        help="Use this profile's crash, e.g. debian-13.",
        autocompletion=completion.profiles,
    ),
]
WithDebugger = Annotated[
    str | None,
    typer.Option(
        "--with",
        metavar="|".join(DEBUGGERS),
        help="The debugger that answers; by default one that knows the kernel.",
        callback=_debugger,
        autocompletion=completion.debuggers,
    ),
]
GivenDebuginfo = Annotated[
    Path | None,
    typer.Option(
        "--debuginfo", metavar="FILE|DIR", help="A vmlinux, a debug package, or where they are.", readable=False
    ),
]
NoDebuginfo = Annotated[
    bool,
    typer.Option("--no-debuginfo", help="Fetch none: read the dump by what its kernel has of itself."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Use debuginfo that does not match; open a split dump without all its parts.")
]


Release = Annotated[
    str | None, typer.Option("--release", metavar="UNAME-R", help="A kernel release instead of a dump.")
]
UtsnameVersion = Annotated[
    str | None,
    typer.Option(
        "--utsname-version", metavar="UNAME-V", help="With --release: Debian and Ubuntu need it for the package."
    ),
]
OptionalDump = Annotated[
    Path | None, typer.Argument(metavar="VMCORE", help="The crash dump.", show_default=False, parser=named)
]
NoTranscript = Annotated[bool, typer.Option("--no-transcript", help="Keep no record of commands and answers.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=1, callback=_sane, help="Stop a debugger's command that takes longer."
    ),
]
