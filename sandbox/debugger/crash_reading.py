"""Which crash commands only read the dump: an allow-list, for callers that were perhaps talked into something.

crash hands much to others: pipes and redirections to a shell, what it does not know to gdb, and gdb's `print` has
functions that run programs (`$_shell`). So a command is refused unless its first word, its options and its characters
are known to do no such thing. This keeps a careless or deceived caller from more than it asked for; a dump that has
taken over crash is kept by the container.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final

from sandbox.errors import UsageError

_ANY: Final = re.compile(r"-[A-Za-z0-9]+")

_OPTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    **dict.fromkeys(
        "* ascii bpf bt btop dev dmesg eval files foreach fuser help ipcs irq kmem list log mach mount net ps pte ptob "  # noqa: SIM905 - forty quotes are harder to read
        "ptov runq sbitmapq search sig struct swap sym task timer tree union vm vtop waitq".split(),
        _ANY,
    ),
    # `dis -s` reads source files.
    "dis": re.compile(r"-[rflduxb]+"),
    # `rd -r` writes a file.
    "rd": re.compile(r"-(?:[adDsSupxmfNRoe]+|8|16|32|64)"),
    "sys": re.compile(r"-[cti]"),
    # What is loaded without a path is debuginfo that vmbox has checked.
    "mod": re.compile(r"-[tsS]"),
    **dict.fromkeys(("p", "px", "pd", "print", "whatis"), re.compile(r"-[xdu]")),
}
"""Options of each command."""

_EXPRESSIONS: Final = frozenset({"p", "px", "pd", "print", "whatis"})
"""Commands whose words are an expression of gdb's."""

_FORMAT: Final = re.compile(r"(p|print)/[0-9]*[a-z]{1,2}")
"""gdb's print with a format."""

_CHARACTERS: Final = re.compile(r"""[A-Za-z0-9_ .,:@%/*&()\[\]{}"'+=~^?-]*""")
"""Without what a shell, a redirection or a gdb variable begins with."""

_MODULE: Final = re.compile(r"[\w-]+")

_HINT: Final = "bt, ps, log, struct, rd, kmem, files, dis, sym, foreach … bt; no |, <, >, ! or $"


def check_reading(command: str) -> None:
    """Raises `UsageError` for a command that may do more than read the dump."""
    if command.lstrip().startswith(('"', "'")):
        # crash looks for a command with the whole name in quotes, and gdb for one with its first word.
        raise UsageError(f"{command!r} begins with a quote, and no command does", hint=_HINT)
    # crash takes quotes away before it looks for options.
    words = command.replace('"', " ").replace("'", " ").split()
    if not words:
        raise UsageError("there is no command", hint=_HINT)
    first, rest = words[0], words[1:]
    if first.startswith("*") and first != "*":
        first, rest = "*", [first[1:], *rest]
    if found := _FORMAT.fullmatch(first):
        first = found[1]
    if first not in _OPTIONS:
        raise UsageError(f"{first!r} is not a command that only reads", hint=_HINT)
    plain = command.replace("->", ".")
    if _CHARACTERS.fullmatch(plain) is None:
        wrong = sorted(set(_CHARACTERS.sub("", plain)))
        raise UsageError(f"{command!r} has {' '.join(map(repr, wrong))} in it, which may do more than read", hint=_HINT)
    expression = first in _EXPRESSIONS
    options = itertools.takewhile(_is_option, rest) if expression else filter(_is_option, rest)
    for word in options:
        if _OPTIONS[first].fullmatch(word) is None:
            raise UsageError(f"{first} {word} is not known to only read", hint=_HINT)
    # Not in `plain`: gdb reads a-->b as (a--) > b.
    if expression and re.search(r"(?<!=)=(?!=)|\+\+|--", command):
        raise UsageError(f"{command!r} changes a value", hint="p NAME, p NAME.MEMBER, p *(struct page *)0x…")
    if first == "foreach" and "gdb" in rest:
        raise UsageError("foreach gdb is not a command that only reads", hint=_HINT)
    if first == "mod" and not _only_reads_modules(rest):
        raise UsageError(f"{command!r} loads a file", hint="mod, mod -t, mod -S, mod -s NAME")


def _is_option(word: str) -> bool:
    return word.startswith("-")


def _only_reads_modules(words: list[str]) -> bool:
    match words:
        case [] | ["-t"] | ["-S"]:
            return True
        case ["-s", name]:
            return _MODULE.fullmatch(name) is not None
        case _:
            return False
