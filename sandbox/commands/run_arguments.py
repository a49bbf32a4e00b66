"""The grammar of `vmbox run`, for the command line library and for a plain run, which does without the library.

Options stand anywhere before the first `--`. After it every word is a command's, or a script's, whatever it
looks like. A word before it that looks like an option and is none belongs to a command too, unless it is the first: a
file may be named so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import UsageError, refuse_empty
from sandbox.host import config
from sandbox.remote.naming import named

FLAGS: Final[Mapping[str, str]] = {
    "--json": "json",
    "--keep": "keep",
    "--once": "once",
    "--no-transcript": "no_transcript",
    "--force": "force",
    "--no-debuginfo": "no_debuginfo",
    "--wait": "wait",
    "--quiet": "quiet",
    "-q": "quiet",
    "--verbose": "verbose",
    "-v": "verbose",
    "--help": "help",
    "-h": "help",
}
"""Options without a value -> the field of `RunArguments` they set."""

VALUES: Final[Mapping[str, str]] = {
    "--input": "input_file",
    "-i": "input_file",
    "--output": "output",
    "-o": "output",
    "--timeout": "timeout",
    "--with": "debugger",
    "--tool": "tool",
    "-e": "code",
    "--engine": "engine",
    "--image": "image",
    "--debuginfo": "debuginfo",
}
"""Options with a value -> the field of `RunArguments` they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """The arguments of `vmbox run`."""

    vmcore: Path
    commands: tuple[str, ...] = ()
    """Words of crash commands with "--" between two commands; with drgn, a script and its arguments."""
    input_file: Path | None = None
    json: bool = False
    output: Path | None = None
    timeout: float | None = None
    """Seconds."""
    debugger: str | None = None
    """The name of the debugger that answers the commands; None: the one that is chosen for the dump."""
    tool: str = DEFAULT.name
    """The name of a debugger; of one that is not the default, a script is run."""
    code: str | None = None
    keep: bool = False
    once: bool = False
    no_transcript: bool = False
    engine: str | None = None
    image: str | None = None
    debuginfo: Path | None = None
    force: bool = False
    no_debuginfo: bool = False
    wait: bool = False
    """For debuginfo, also where the commands can be answered without."""
    quiet: bool = False
    verbose: bool = False

    def open_options(self) -> OpenOptions:
        """The options of them that concern the case."""
        return OpenOptions(
            engine=self.engine or config.current().engine,
            image=self.image,
            debuginfo=self.debuginfo,
            force=self.force,
            no_debuginfo=self.no_debuginfo,
            idle=0 if self.keep else None,
            once=self.once,
            debugger=self.debugger if self.tool == DEFAULT.name else self.tool,
            early=self._is_early(),
        )

    def _is_early(self) -> bool:
        """Whether the commands are answered without debuginfo where that is on its way.

        Not commands of a file or of standard input: a script is answered by one debugger, from its first command on.
        """
        commands = from_arguments(self.commands)
        return (
            not (self.wait or self.once or self.image or self.input_file or config.current().wait_for_debuginfo)
            and self.tool == DEFAULT.name
            and bool(commands)
            and all(any(one.is_early(command) for one in DEBUGGERS.values()) for command in commands)
        )


def from_arguments(arguments: Sequence[str]) -> list[str]:
    """["bt", "-a", "--", "ps", "-t"] -> ["bt -a", "ps -t"]. Words are joined as crash will split them again."""
    commands: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            commands.append([])
        else:
            commands[-1].append(argument)
    return [" ".join(words) for words in commands if words]


def parse(arguments: Sequence[str]) -> RunArguments | None:
    """The arguments after the word `run`; None when help is asked for. Raises `UsageError`."""
    options, before, after = _split(arguments)
    if "help" in options:
        return None
    words = (*before, *after)
    if not words:
        raise UsageError("Missing argument 'VMCORE'.")
    if len(before) > 1 and before[1].startswith("-") and before[1] != "-":
        # No command of crash's begins so: it is an option that vmbox does not have.
        raise UsageError(f"no such option: {before[1]}")
    if before and before[0].startswith("-") and before[0] != "-" and not os.path.lexists(before[0]):
        raise UsageError(f"no such option: {before[0]}")
    for word in (words[0], *options.values()):
        refuse_empty(word)
    values: dict[str, Any] = {name: _READERS.get(name, _as_it_is)(value) for name, value in options.items()}
    parsed = RunArguments(vmcore=named(words[0]), commands=words[1:], **values)
    _check(parsed)
    return parsed


def _check(parsed: RunArguments) -> None:
    if parsed.keep and parsed.once:
        raise UsageError("--keep or --once")
    if parsed.debugger not in {None, *DEBUGGERS}:
        raise UsageError(f"--with is {' or '.join(DEBUGGERS)}")
    if parsed.debugger is not None and parsed.tool != DEFAULT.name:
        raise UsageError("--with is for commands, --tool for scripts")
    if parsed.tool not in DEBUGGERS:
        raise UsageError(f"--tool is {' or '.join(DEBUGGERS)}")
    if parsed.wait and parsed.no_debuginfo:
        raise UsageError("--wait or --no-debuginfo")
    parsed.open_options().check()
    if parsed.tool == DEFAULT.name:
        if parsed.code is not None:
            raise UsageError("-e CODE needs --tool drgn")
    elif parsed.json or parsed.output or parsed.input_file:
        raise UsageError("--json, --output and --input are for commands")
    elif parsed.code is None and not parsed.commands:
        raise UsageError(f"give a script, or -e CODE: vmbox run vmcore --tool {parsed.tool} -- script.py")


def _split(arguments: Sequence[str]) -> tuple[dict[str, str | bool], list[str], list[str]]:
    """Options by field, and the other words: those before the first `--` and those after it."""
    options: dict[str, str | bool] = {}
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if word.startswith("--") and name in FLAGS:
            if equals:
                raise UsageError(f"Option {name!r} does not take a value.")
            options[FLAGS[name]] = True
        elif word.startswith("--") and name in VALUES:
            options[VALUES[name]] = value if equals else _value(name, left)
        elif word.startswith("-") and not word.startswith("--") and len(word) > 1:
            words += _letters(word, options, left)
        else:
            words.append(word)
    return options, words, left


def _letters(word: str, options: dict[str, str | bool], left: list[str]) -> list[str]:
    """Reads one-letter options, e.g. -q, -qi FILE, -iFILE. Returns the word of the letters that are none, if any."""
    unknown = ""
    for at, letter in enumerate(word[1:], 2):
        option = f"-{letter}"
        if option in FLAGS:
            options[FLAGS[option]] = True
        elif option in VALUES:
            options[VALUES[option]] = word[at:] or _value(option, left)
            break
        else:
            unknown += letter
    return [f"-{unknown}"] if unknown else []


def _value(option: str, left: list[str]) -> str:
    if not left:
        raise UsageError(f"Option {option!r} requires an argument.")
    return left.pop(0)


def _seconds(value: str | bool) -> float:
    try:
        return config.time_limit(float(value))
    except (ValueError, UsageError):
        raise UsageError(f"invalid value for '--timeout': {value!r} is not a number of seconds above 0") from None


def _as_it_is(value: str | bool) -> str | bool:
    return value


_READERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "input_file": Path,
    "output": Path,
    "debuginfo": Path,
    "timeout": _seconds,
}
"""Fields that hold neither words nor flags."""
