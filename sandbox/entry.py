"""The command `vmbox`: the two everyday forms without the command line library, everything else with it.

Importing typer takes fifty times as long as a warm crash takes to answer. So `vmbox run` on an open
case and `vmbox info` are recognised here in their plain forms; whatever looks otherwise goes to `cli`, which knows all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_FLAGS = frozenset({"-q", "--quiet", "--json"})


def main() -> None:
    """The entry point."""
    arguments = sys.argv[1:]
    if not (_info(arguments) or _warm_run(arguments)):
        from sandbox.cli import app
        from sandbox.ending import ending

        with ending():
            app()


def _info(arguments: Sequence[str]) -> bool:
    """vmbox info VMCORE [--json]"""
    match arguments:
        case ["info", path] | ["info", path, "--json"] if not path.startswith("-"):
            from sandbox.ending import ending

            with ending():
                from sandbox.description import show

                show(Path(path), json=len(arguments) > 2)
            return True
        case _:
            return False


def _warm_run(arguments: Sequence[str]) -> bool:
    """vmbox run VMCORE [-q] [--json] -- COMMAND…, when the case is open."""
    if arguments[:1] != ["run"] or "--" not in arguments:
        return False
    cut = arguments.index("--")
    path, flags, commands = arguments[1:2], set(arguments[2:cut]), arguments[cut + 1 :]
    if cut < 2 or path[0].startswith("-") or not flags <= _FLAGS or not commands or commands == ["-"]:
        return False
    from sandbox import config, ledger
    from sandbox.ending import ending

    with ending():
        try:
            engine = config.current().engine
            if ledger.find(Path(path[0]), engine=engine) is None:
                return False
        except OSError:
            return False
        from sandbox import render
        from sandbox.commands import from_arguments, run_all
        from sandbox.opening import Wishes

        status = run_all(
            Path(path[0]),
            from_arguments(commands),
            wishes=Wishes(engine=engine),
            timeout=None,
            json="--json" in flags,
            reporter=render.reporter(quiet=bool(flags & {"-q", "--quiet"})),
        )
        sys.exit(status)
