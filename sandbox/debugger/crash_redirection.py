"""The files that a crash command writes: crash's own redirection, and those of the shell behind a pipe."""

from __future__ import annotations

import itertools
import shlex
from typing import Final

_TO_A_FILE: Final = frozenset({">", ">>", ">|", "&>", "&>>"})


def output_files(command: str) -> frozenset[str]:
    """The names that `command` redirects to: all that follows crash's `>` or `>>` (`setup_redirect` in cmdline.c), and
    each such word of what is given to a shell. Devices are no files.
    """
    command = command.strip()
    own = before_pipeline(command)
    rest = command[len(own) :]
    if rest.startswith(">"):
        names = {rest[2 if rest.startswith(">>") else 1 :].strip()}
    else:
        names = redirected_by_shell(rest.lstrip("|!"))
    return frozenset(name for name in names if name and not name.startswith("/dev/"))


def before_pipeline(command: str) -> str:
    """A command up to its pipe or redirection, found as crash finds it (`setup_redirect` in cmdline.c)."""
    depth, quote = 0, ""
    for at, char in enumerate(command):
        if char in "\"'" and quote in {"", char}:
            quote = "" if quote else char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif not depth and not quote and (char in "|!" or (char == ">" and command[at - 1 : at] != "-")):
            return command[:at]
    return command


def redirected_by_shell(text: str) -> set[str]:
    """The names that words of a shell's command redirect to."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quote without its end: the shell does not run it either
        return set()
    return {name for sign, name in itertools.pairwise(words) if sign in _TO_A_FILE}
