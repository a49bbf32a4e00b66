"""The files that a crash command writes: crash's own redirection, and those of the shell behind a pipe."""

from __future__ import annotations

import itertools
import shlex
from typing import Final

from sandbox.debugger.crash_errors import before_pipeline

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


def redirected_by_shell(text: str) -> set[str]:
    """The names that words of a shell's command redirect to."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quote without its end: the shell does not run it either
        return set()
    return {name for sign, name in itertools.pairwise(words) if sign in _TO_A_FILE}
