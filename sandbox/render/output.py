"""Results go to standard output, everything else to standard error."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from sandbox.errors import VmboxError
from sandbox.host.files import write_all
from sandbox.render.text import folded, one_line, plain, visible

STDOUT: Final = "standard output"
"""What an OSError names as its file where standard output could not be written."""

_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")
_NO_UTF8: Final = re.compile("[\ud800-\udfff]+")


def error(problem: VmboxError) -> None:
    """Print the message, the detail indented, and the hint.

    All three can contain file names and text from a dump, so their control characters are made visible.
    """
    lines = [f"vmbox: {one_line(problem.message)}"]
    if problem.detail:
        lines += ["    " + line for line in folded(visible(problem.detail)).splitlines()]
    if problem.hint:
        lines.append(f"hint: {visible(problem.hint)}")
    _say("\n".join(lines))


def note(text: str) -> None:
    _say(visible(text))


_unfinished = False
"""Whether a terminal shows a line of output without its end."""


def leave_line(*, unfinished: bool = True) -> None:
    """Say whether what is shown ends within a line: the next message then begins a new one, on a terminal."""
    global _unfinished  # noqa: PLW0603 - of the terminal, which is one
    _unfinished = unfinished


def _say(text: str) -> None:
    # The status says what failed where standard error cannot: a full disk, a reader that left.
    with suppress(OSError):
        print("\n" * (_unfinished and sys.stderr.isatty()) + text, file=sys.stderr)  # noqa: T201 - the one place errors and notes are shown
    leave_line(unfinished=False)


@contextmanager
def to_stdout() -> Iterator[None]:
    """Names standard output in an error, as OSError names a file: a full disk there is none of vmbox's places."""
    try:
        yield
    except OSError as error:
        error.filename = STDOUT
        raise


def _print(text: str, *, flush: bool = False) -> None:
    with to_stdout():
        print(text, flush=flush)  # noqa: T201 - results go to stdout


def line(text: object, *, end: str = "\n") -> None:
    """Print a path, a reference or a text of vmbox's own: byte for byte in a pipe, made visible on a terminal."""
    shown = visible(str(text)) if sys.stdout.isatty() else str(text)
    with to_stdout():
        sys.stdout.flush()
        sys.stdout.buffer.write(_bytes_of(f"{shown}{end}"))
        sys.stdout.buffer.flush()


def _bytes_of(text: str) -> bytes:
    # As file names are encoded, so that they can be used.
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def as_json(value: object) -> None:
    import json

    _print(json_for_terminal(json.dumps(plain(value), ensure_ascii=False, indent=2)))


def json_line(value: Mapping[str, object]) -> None:
    import json

    _print(json_for_terminal(json.dumps(plain(value), ensure_ascii=False)), flush=True)


def json_for_terminal(text: str) -> str:
    """JSON as it is; without the characters that no UTF-8 has, as which Python reads file names in other encodings.

    All ASCII where standard output is a terminal, to which some characters beyond are commands, or is not UTF-8.
    """
    import json

    utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    beyond = _NO_UTF8 if utf8 and not sys.stdout.isatty() else _BEYOND_ASCII
    return beyond.sub(lambda found: json.dumps(found[0])[1:-1], text)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print two columns, aligned like crash's `sys`."""
    shown = [(name, one_line(text)) for name, text in pairs if text]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        _print(f"{name:>{width}}: {text}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*(Text(one_line(cell)) for cell in row))
    # In a pipe each row is one line, for grep and awk.
    if sys.stdout.isatty():
        Console().print(made)
        return
    console = Console(width=1000, no_color=True)
    with console.capture() as captured:
        console.print(made)
    _print("\n".join(line.rstrip() for line in captured.get().splitlines()))


class Output:
    """Standard output for crash's bytes: unchanged in a pipe, control characters made visible on a terminal."""

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        # A character may be split between two pieces.
        self._decode = _decoder() if os.isatty(self._descriptor) else None

    def __call__(self, piece: bytes) -> None:
        if self._decode is None:
            with to_stdout():
                write_all(self._descriptor, piece)
        elif said := visible(self._decode.decode(piece)):
            _to_terminal(self._descriptor, said.encode())


class JsonAnswer:
    """One command's answer as one line of JSON on standard output. Written as it arrives, because it may be huge."""

    def __init__(self, command: str) -> None:
        self._descriptor = sys.stdout.fileno()
        self._decode = _decoder()
        self._ascii = os.isatty(self._descriptor)
        self._head = f'{{"command": {self._quoted(command)}, "output": "'

    def __call__(self, piece: bytes) -> None:
        head, self._head = self._head, ""
        self._write(head + self._quoted(self._decode.decode(piece))[1:-1])

    def end(self, status: str, seconds: float, more: Mapping[str, object] | None = None) -> None:
        """The command has ended. `more` are further keys of the object, with values as `plain` takes them."""
        rest = self._head + self._quoted(self._decode.decode(b"", final=True))[1:-1]
        added = "".join(f", {self._quoted(key)}: {self._quoted(plain(value))}" for key, value in (more or {}).items())
        self._write(f'{rest}", "status": {self._quoted(status)}, "seconds": {seconds:.6f}{added}}}\n')

    def _write(self, said: str) -> None:
        data = said.encode(errors="backslashreplace")
        if self._ascii:
            _to_terminal(self._descriptor, data)
            return
        with to_stdout():
            write_all(self._descriptor, data)

    def _quoted(self, value: object) -> str:
        import json

        return json.dumps(value, ensure_ascii=self._ascii)


def _to_terminal(descriptor: int, data: bytes) -> None:
    # It may be interrupted anywhere.
    leave_line()
    with to_stdout():
        write_all(descriptor, data)
    leave_line(unfinished=not data.endswith(b"\n"))


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")
