"""The command `vmbox`: the two everyday forms without the command line library, everything else with it.

Importing typer takes fifty times as long as a warm crash takes to answer. So `vmbox run` on an open case, and
`vmbox info` in its plain form, are recognised here; everything else goes to `cli`, which knows all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main() -> None:
    """The entry point."""
    open_standard_streams()
    arguments = sys.argv[1:]
    if os.environ.get("VMBOX_LOG"):
        from sandbox.commands.verbose import begin_from_environment
        from sandbox.render import exit_on_error

        with exit_on_error():
            begin_from_environment()
    if not (_info(arguments) or _warm_run(arguments)):
        from sandbox.cli import app
        from sandbox.render import exit_on_error

        with exit_on_error():
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


def _info(arguments: Sequence[str]) -> bool:
    """vmbox info VMCORE [--json]"""
    match arguments:
        case ["info", path] | ["info", path, "--json"] if path and not path.startswith("-"):
            from sandbox.render import exit_on_error

            with exit_on_error():
                from sandbox.commands.info import show

                show(Path(path), json=len(arguments) > 2)
            return True
        case _:
            return False


def _warm_run(arguments: Sequence[str]) -> bool:
    """vmbox run VMCORE … when the case is open as it is asked for; with commands, or a file of them."""
    if arguments[:1] != ["run"]:
        return False
    from sandbox.commands.run_arguments import parse
    from sandbox.errors import UsageError
    from sandbox.render import exit_on_error

    try:
        asked = parse(arguments[1:])
    except UsageError:
        return False
    if asked is None or asked.once or not (asked.commands or asked.input_file or asked.code):
        return False
    with exit_on_error():
        if asked.verbose:
            from sandbox.commands.verbose import begin

            begin("debug")
        from sandbox.case import store

        options = asked.open_options()
        try:
            case = store.find(asked.vmcore, engine=options.engine)
        except OSError:
            return False
        if case is None or not options.accepts(case):
            return False
        from sandbox import render
        from sandbox.commands.run import run_arguments

        sys.exit(run_arguments(asked, reporter=render.reporter(quiet=asked.quiet), case=case))


if __name__ == "__main__":
    main()
