"""The manual page vmbox(1), made from the command line itself: `python -m sandbox.cli.manual > vmbox.1`.

A wheel contains it in share/man/man1, where pipx and distributions look for it (hatch_build.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer

from sandbox import errors
from sandbox.host import config
from sandbox.version import __version__


def page() -> str:
    """vmbox(1) in roff."""
    # The package and not only the application: its import registers the commands.
    from sandbox.cli import app

    root = typer.main.get_command(app)
    context: Any = root.make_context("vmbox", [], resilient_parsing=True)
    lines = [
        f'.TH VMBOX 1 "" "vmbox {__version__}" "User Commands"',
        ".SH NAME",
        "vmbox \\- open any Linux kernel crash dump with one command",
        ".SH SYNOPSIS",
        ".B vmbox",
        "\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        _text(root.help or ""),
        ".SH COMMANDS",
        *_commands(root, context),
        ".SH ENVIRONMENT",
        _text("Each setting is also a key of ~/.config/vmbox/config.toml; the environment overrides the file."),
    ]
    settings = {config.variable(key): meaning for key, meaning in config.meanings().items()}
    for name, meaning in (settings | dict(config.ONLY_ENVIRONMENT)).items():
        lines += [".TP", f".B {_escaped(name)}", _text(meaning)]
    lines += [".SH EXIT STATUS"]
    for status, meaning in statuses():
        lines += [".TP", f".B {status}", _text(meaning)]
    lines += [".SH SEE ALSO", ".BR crash (8),", ".BR makedumpfile (8),", ".BR kdump (8)"]
    return "\n".join(lines) + "\n"


def statuses() -> Iterator[tuple[int, str]]:
    """Yield every exit status and its meaning."""
    yield 0, "every command was answered"
    yield 1, "crash reported an error for a command, or doctor found something missing"
    for kind in errors.kinds():
        yield kind.exit_code, kind.__name__ + (f": {kind.default_hint}" if kind.default_hint else "")
    yield errors.VmboxError.exit_code, "an internal error of vmbox"
    yield 130, "Ctrl-C"
    yield 141, "the reader of a pipe left"


def _commands(group: Any, context: Any) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        own = type(context)(command, parent=context, info_name=name)
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, own)
            continue
        usage = command.get_usage(own).removeprefix("Usage: ").replace("{", "").replace("}", "")
        yield from (".SS " + _escaped(" ".join(usage.split())), _text(command.help or ""))
        for parameter in command.get_params(own):
            record = parameter.get_help_record(own)
            if record is not None and record[1] and "--help" not in record[0]:
                term = re.sub(r" <[\w\[\]]+>$", "", record[0])
                yield from (".TP", f".B {_escaped(term)}", _text(record[1]))


def _text(text: str) -> str:
    paragraphs = [_escaped(paragraph.strip()) for paragraph in text.split("\n\n")]
    return "\n.PP\n".join(re.sub(r"\n", "\n.br\n", paragraph) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    sys.stdout.write(page())
