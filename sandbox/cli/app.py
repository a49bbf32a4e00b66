"""The typer application, and the decorator that registers commands. Only `cli` imports typer."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
import typer.core

from sandbox.cli import completion
from sandbox.cli.options import VERBOSE, Verbose
from sandbox.errors import UsageError, pasteable, refuse_empty
from sandbox.host import config
from sandbox.render import error, exit_on_error, line
from sandbox.version import __version__

_ORDER = [
    "info",
    "dmesg",
    "decode",
    "explain",
    "waits",
    "run",
    "shell",
    "list",
    "close",
    "log",
    "report",
    "triage",
    "kube",
    "prepare",
    "debuginfo",
    "image",
    "verify",
    "demo",
    "doctor",
    "config",
    "mcp",
]
"""Commands in the order of the help. Others follow in the order in which they were registered."""


_ClickException: Final[type[Exception]] = typer.BadParameter.__mro__[2]
"""The library's errors; it has no name for them that all of its versions have."""


class _InOrder(typer.core.TyperGroup):
    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line. A mistake in it looks like any other error."""
        extra["windows_expand_args"] = windows_expand_args
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except UsageError as wrong:
            error(wrong)
            status = UsageError.exit_code
        except _ClickException as wrong:
            if type(wrong).__name__ == "NoArgsIsHelpError":
                wrong.show()  # type: ignore[attr-defined] # the help itself
            else:
                error(_in_words(wrong))
            status = UsageError.exit_code
        if standalone_mode:
            sys.exit(status)
        return status

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def _in_words(wrong: Any) -> UsageError:
    message = wrong.format_message()
    if isinstance(wrong, typer.BadParameter) and wrong.param is None and wrong.param_hint is None:
        # One about several parameters, or about how they go together.
        message = wrong.message
    elif message[1:2].islower():
        message = message[0].lower() + message[1:]
    context = getattr(wrong, "ctx", None)
    return UsageError(message.rstrip("."), hint=f"{'vmbox' if context is None else context.command_path} --help")


def start_log(wanted: bool) -> None:
    """Print the log on standard error from now on, if it is wanted."""
    if wanted:
        from sandbox.commands.verbose import begin

        begin("debug")


class Command(typer.core.TyperCommand):
    """A command with --verbose, which it need not declare."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any("--verbose" in parameter.opts for parameter in self.params):
            return
        verbose = typer.core.TyperOption(
            param_decls=["--verbose", "-v"],
            is_flag=True,
            default=False,
            expose_value=False,
            callback=lambda _context, _parameter, value: start_log(value),
            help=VERBOSE,
        )
        self.params.append(verbose)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # an incomplete command line, for completion
            return super().parse_args(ctx, args)
        try:
            # The words as they were given: as a `Path`, an empty one is the working directory.
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for value in () if given.get("help") else given.values():
                for word in value if isinstance(value, list | tuple) else (value,):
                    refuse_empty(word)
        except _ClickException as wrong:
            if (
                file := next((word for word in args if word.startswith("-") and os.path.lexists(word)), None)
            ) is not None:
                wrong_file = UsageError(_in_words(wrong).message, hint=f"if the file is meant: {pasteable(file)}")
                raise wrong_file from None
            # Its parser does not know which command it is of.
            if getattr(wrong, "ctx", None) is None:
                wrong.ctx = ctx  # type: ignore[attr-defined]
            raise
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="vmbox",
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Opens any Linux kernel crash dump: the right crash, the matching debuginfo, a sandbox around both.",
)


def command(
    name: str | None = None, *, group: typer.Typer = app, **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command. What it raises becomes text and an exit status before typer sees it."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with exit_on_error():
                function(*args, **kwargs)

        group.command(name, **{"cls": Command, **settings})(guarded)
        return function

    return register


@app.callback(invoke_without_command=True)
def _root(
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting for this command alone, e.g. idle=2h; keys: vmbox config show.",
            autocompletion=completion.settings,
        ),
    ] = None,
    verbose: Verbose = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if settings:
        with exit_on_error():
            config.override(settings)
    start_log(verbose)
    if version:
        line(f"vmbox {__version__}")
        raise typer.Exit
