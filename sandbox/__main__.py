"""The command `vmbox`: the two everyday forms without the command line library, everything else with it.

Importing typer takes fifty times as long as a warm crash takes to answer. So `vmbox run` on an open
case and `vmbox info` are recognised here in their plain forms; whatever looks otherwise goes to `cli`, which knows all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main() -> None:
    """The entry point."""
    arguments = sys.argv[1:]
    if not (_info(arguments) or _warm_run(arguments)):
        from sandbox.cli import app
        from sandbox.render import exit_on_error

        with exit_on_error():
            app()


def _info(arguments: Sequence[str]) -> bool:
    """vmbox info VMCORE [--json]"""
    match arguments:
        case ["info", path] | ["info", path, "--json"] if not path.startswith("-"):
            from sandbox.render import exit_on_error

            with exit_on_error():
                from sandbox.commands.info import show

                show(Path(path), json=len(arguments) > 2)
            return True
        case _:
            return False


def _warm_run(arguments: Sequence[str]) -> bool:
    """vmbox run VMCORE [options] -- COMMAND…, when the case is open; also with -i FILE, or - for standard input."""
    asked = _plain_run(arguments)
    if asked is None:
        return False
    dump, options, words = asked
    from sandbox.case import store
    from sandbox.host import config
    from sandbox.render import exit_on_error

    with exit_on_error():
        try:
            engine = config.current().engine
            if store.find(dump, engine=engine) is None:
                return False
        except OSError:
            return False
        from sandbox import render
        from sandbox.case.options import OpenOptions
        from sandbox.commands.run import RunOptions, commands_from, run_all

        status = run_all(
            dump,
            commands_from(words, Path(options["-i"]) if "-i" in options else None),
            options=OpenOptions(engine=engine),
            run_options=RunOptions(
                timeout=float(options["--timeout"]) if "--timeout" in options else None,
                json="--json" in options,
                transcript="--no-transcript" not in options,
            ),
            reporter=render.reporter(quiet="-q" in options),
        )
        sys.exit(status)


_FLAGS = {"-q": "-q", "--quiet": "-q", "--json": "--json", "--no-transcript": "--no-transcript"}
_VALUES = {"-i": "-i", "--input": "-i", "--timeout": "--timeout"}


def _plain_run(arguments: Sequence[str]) -> tuple[Path, dict[str, str], Sequence[str]] | None:
    """Dump, options and words of a plain `run`; None for any other, and for one with a mistake in it."""
    if len(arguments) < 2 or arguments[0] != "run" or arguments[1].startswith("-"):
        return None
    options: dict[str, str] = {}
    rest = list(arguments[2:])
    while rest and rest[0] not in {"--", "-"}:
        word = rest.pop(0)
        if word in _FLAGS:
            options[_FLAGS[word]] = ""
        elif word in _VALUES and rest:
            options[_VALUES[word]] = rest.pop(0)
        else:
            return None
    if "--timeout" in options and not options["--timeout"].replace(".", "", 1).isdecimal():
        return None
    words = rest if rest == ["-"] else [*rest[1:]]
    if rest[:1] == ["-"] and len(rest) > 1:
        return None
    return (Path(arguments[1]), options, words) if bool(words) != ("-i" in options) else None


if __name__ == "__main__":
    main()
