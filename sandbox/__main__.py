"""The command `vmbox`: the two everyday forms without the command line library, everything else with it.

Importing typer takes fifty times as long as a warm crash takes to answer. So `vmbox run` with commands, and
`vmbox info` in its plain form, are recognised here; everything else, mistakes too, goes to `cli`, which knows all.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    # What is loaded depends on the command.
    from sandbox.commands.run_arguments import RunArguments
    from sandbox.model import Case


def main() -> None:
    """The entry point."""
    try:
        from sandbox.host import network_files

        stalls = network_files.first(sys.argv[1:])
        if stalls is None:
            _main()
        else:
            _run_apart(*stalls)
    except KeyboardInterrupt as error:
        # While modules were loaded: later `exit_on_error` says so. SIGINT has the number 2; a `Terminated` has its own.
        sys.stderr.write("vmbox: interrupted\n")
        sys.exit(128 + getattr(error, "number", 2))


def _run_apart(path: Path, of: str) -> None:
    """Runs the command in a process that can be left behind when the network file system of a path stalls."""
    from sandbox.host import abandoned
    from sandbox.render import exit_on_error

    open_standard_streams()
    with exit_on_error():
        abandoned.run(_main, path, of)


def _main() -> None:
    open_standard_streams()
    _end_on_signals()
    _drop_places_that_are_none()
    arguments = sys.argv[1:]
    from sandbox.render import exit_on_error

    with exit_on_error():
        if os.environ.get("VMBOX_LOG"):
            from sandbox.commands.verbose import begin_from_environment

            begin_from_environment()
        if not (_info(arguments) or _run(arguments)):
            _drop_odd_widths()
            from sandbox.cli import app

            app()


def open_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that the caller has closed, as daemons do.

    Else the next file that is opened gets the number, and what is meant for the caller goes there; and Python prints
    what is meant for a missing standard error on standard output.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As Python has it for standard error. Else a character that the locale does not have ends the command.
        sys.stdout.reconfigure(errors="backslashreplace")


def _end_on_signals() -> None:
    r"""Undo on SIGTERM (timeout(1), a service that is stopped), SIGHUP (a lost terminal) and SIGQUIT (Ctrl-\) what is
    undone on Ctrl-C.

    One that the caller ignores, as nohup does, stays ignored. A second SIGQUIT ends vmbox at once.
    """
    import signal

    def end(number: int, _: object) -> None:
        from sandbox.errors import Terminated

        # Not twice: what undoes things is not to be stopped by the next one.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGQUIT else signal.SIG_IGN)
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _drop_places_that_are_none() -> None:
    """Forget an empty $HOME, below which the user's places would be in /, and a $TMPDIR that is not there.

    Python's `tempfile` ignores such a one, and Podman dies of it (4.3.1: "nil pointer dereference").
    """
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]
    with suppress(OSError):
        if (place := os.environ.get("TMPDIR")) and not Path(place).is_dir():
            del os.environ["TMPDIR"]


def _drop_odd_widths() -> None:
    """Forget widths of a terminal that are none: the libraries read them as they are, and fill a help text to any."""
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        width = os.environ.get(name, "")
        if not (width.isascii() and width.isdecimal() and 20 <= int(width[:6]) < 10_000):
            os.environ.pop(name, None)


def _info(arguments: Sequence[str]) -> bool:
    """vmbox info VMCORE [--json]"""
    match arguments:
        case ["info", path] | ["info", path, "--json"] if path and not path.startswith("-"):
            from sandbox.commands.info import show
            from sandbox.remote.naming import named

            show(named(path), json=len(arguments) > 2)
            return True
        case _:
            return False


def _run(arguments: Sequence[str]) -> bool:
    """vmbox run VMCORE … with commands, a file of them, or code"""
    if arguments[:1] != ["run"]:
        return False
    from sandbox.commands.run_arguments import parse
    from sandbox.errors import UsageError

    try:
        asked = parse(arguments[1:])
    except UsageError:
        return False
    if asked is None or not (asked.commands or asked.input_file or asked.code):
        return False
    if asked.verbose:
        from sandbox.commands.verbose import begin

        begin("debug")
    case = None if asked.once else _open_case(asked)
    from sandbox import render
    from sandbox.commands.run import run_arguments

    sys.exit(run_arguments(asked, reporter=render.reporter(quiet=asked.quiet), case=case))


def _open_case(asked: RunArguments) -> Case | None:
    """The open case of the dump, if it is as it is asked for."""
    from sandbox.case import store
    from sandbox.remote.places import DESCRIBED

    options = asked.open_options()
    dump = asked.vmcore
    if dump.parent.suffix == DESCRIBED:
        from sandbox.remote import described

        if not described.is_known(dump):
            return None
        dump = described.known(dump)
    try:
        case = store.find(dump, engine=options.engine)
    except OSError:
        # No such file, no permission: opening it says so properly.
        return None
    return case if case is not None and options.accepts(case) else None


if __name__ == "__main__":
    main()
