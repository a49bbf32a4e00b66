"""Output for the terminal. Results go to stdout, everything else to stderr. The only importer of rich."""

from __future__ import annotations

import codecs
import errno
import itertools
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from sandbox.errors import ConfigurationError, NoSpace, Terminated, UsageError, VmboxError
from sandbox.host.files import write_all
from sandbox.log import Log
from sandbox.model import key_of
from sandbox.progress import QUIET, Reporter, Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_log = Log("steps")
_ending = Log("vmbox")


def reporter(*, quiet: bool) -> Reporter:
    """Progress on stderr: live on a terminal, otherwise plain lines, or nothing if quiet. Never live beside the log."""
    if _log.on():
        return _Logged(QUIET if quiet else _Plain())
    if quiet:
        return QUIET
    return _Live() if sys.stderr.isatty() else _Plain()


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


def folded(text: str) -> str:
    """A line that is repeated, once with its count: crash warns for each note of a file in the same words."""
    return "\n".join(
        line if (times := len(list(same))) == 1 else f"{line}   ({times} times)"
        for line, same in itertools.groupby(text.splitlines())
    )


def note(text: str) -> None:
    _say(visible(text))


def _say(text: str) -> None:
    # The status says what failed where standard error cannot: a full disk, a reader that left.
    with suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201 - the one place errors and notes are shown


_STDOUT: Final = "standard output"


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Names standard output in an error, as OSError names a file: a full disk there is none of vmbox's places."""
    try:
        yield
    except OSError as error:
        error.filename = _STDOUT
        raise


def _print(text: str, *, flush: bool = False) -> None:
    with _to_stdout():
        print(text, flush=flush)  # noqa: T201 - results go to stdout


def as_json(value: object) -> None:
    import json

    _print(json_for_terminal(json.dumps(plain(value), ensure_ascii=False, indent=2)))


def json_line(value: Mapping[str, object]) -> None:
    import json

    _print(json_for_terminal(json.dumps(plain(value), ensure_ascii=False)), flush=True)


def json_for_terminal(text: str) -> str:
    """JSON as it is, or all ASCII where standard output is a terminal: some characters beyond are commands to it."""
    if not sys.stdout.isatty():
        return text
    import json

    return _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def plain(value: object) -> Any:
    """Convert values to JSON types: dataclasses to objects, times to ISO 8601, paths to text."""
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case Path():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case str() | int() | float() | bool() | None:
            return value
        case Iterable():
            return [plain(item) for item in value]
        case _ if is_dataclass(value):
            return {key_of(item): plain(getattr(value, item.name)) for item in fields(value)}
        case _:
            return str(value)


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


_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]+")

_UNSURE: Final = re.compile(r"[^\n\t -~]")
"""Characters that may not be printable. Checking every character of a long log would be slow."""


def hanging(text: str, *, indent: int) -> str:
    """Wrap a line at words to the terminal's width, further lines indented. Without a terminal, return it unchanged."""
    if not sys.stdout.isatty():
        return text
    import textwrap

    width = max(shutil.get_terminal_size().columns, indent + 20)
    broken = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(broken)


def visible(text: str) -> str:
    """Replace control characters by escapes, because a dump can contain escape sequences."""
    return _UNSURE.sub(lambda one: one[0] if one[0].isprintable() else one[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`visible`, with line ends as well: a file name with one would add a line that looks like one of vmbox's own."""
    return visible(text).replace("\n", r"\n")


def size(amount: float) -> str:
    """Bytes for people: 512 B, 1.5 MiB. Units are of 1,024 wherever vmbox prints some, as the kernel's own are."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


class _Live:
    """Shows a line for each step in progress, with bar and rate if an amount is known."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._steps = 0
        # Image and debuginfo are fetched by two threads.
        import threading

        self._lock = threading.Lock()

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        return _LiveStep(self, title, total, unit)

    def notice(self, line: str) -> None:
        if self._progress is None:
            note(f"vmbox: {one_line(line)}")
        else:
            self._progress.console.print(f"vmbox: {one_line(line)}", markup=False, highlight=False)

    def enter(self) -> Progress:
        with self._lock:
            if self._progress is None:
                from rich.console import Console
                from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
                from rich.table import Column

                self._progress = Progress(
                    SpinnerColumn(),
                    # A narrow terminal cuts the titles, not the time.
                    TextColumn("{task.description}", markup=False, table_column=Column(max_width=44, no_wrap=True)),
                    BarColumn(bar_width=20),
                    TextColumn("{task.fields[amount]}", markup=False),
                    TimeElapsedColumn(table_column=Column(min_width=7)),
                    TextColumn(
                        "{task.fields[said]}",
                        style="dim",
                        markup=False,
                        table_column=Column(max_width=36, no_wrap=True),
                    ),
                    console=Console(stderr=True),
                    transient=True,
                )
                self._progress.start()
            self._steps += 1
            return self._progress

    def leave(self) -> None:
        with self._lock:
            self._steps -= 1
            if self._steps == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None


class _LiveStep:
    def __init__(self, owner: _Live, title: str, total: int | None, unit: str) -> None:
        self._owner = owner
        self._title = one_line(title)
        self._total = total
        self._unit = unit
        self._done = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._progress = self._owner.enter()
        self._task: TaskID = self._progress.add_task(self._title, total=self._total, amount="", said="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.remove_task(self._task)
        self._owner.leave()

    def advance(self, amount: int) -> None:
        self._done += amount
        self._progress.update(
            self._task, advance=amount, amount=_amount(self._done, self._total, self._unit, self._began)
        )

    def total(self, amount: int) -> None:
        self._total = amount
        self._progress.update(self._task, total=amount)

    def detail(self, line: str) -> None:
        self._progress.update(self._task, said=_newest(line)[-60:])


class _Plain:
    """Prints one line when a step begins and one when a long step ends: suitable for a log file."""

    def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
        return _PlainStep(title, total, unit)

    def notice(self, line: str) -> None:
        note(f"vmbox: {one_line(line)}")


class _PlainStep:
    _EVERY = 10.0

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title = one_line(title)
        self._total = total
        self._unit = unit
        self._done = 0
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        note(f"{self._title} …")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = time.monotonic() - self._began
        if took >= 1 and kind is None:
            note(f"{self._title}: {took:.1f} s{', ' + size(self._done) if self._unit == 'B' and self._done else ''}")

    def advance(self, amount: int) -> None:
        self._done += amount
        if time.monotonic() - self._shown > self._EVERY:
            self._shown = time.monotonic()
            note(f"{self._title}: {_amount(self._done, self._total, self._unit, self._began)}")

    def total(self, amount: int) -> None:
        self._total = amount

    def detail(self, line: str) -> None:
        if time.monotonic() - self._shown > self._EVERY:
            self._shown = time.monotonic()
            note(f"{self._title}: {_newest(line)}")


class _Logged:
    """Shows steps as `inner` does, and logs how long each took."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Step]:
        began = time.monotonic()
        ended = "failed after "
        try:
            with self._inner.step(title, total=total, unit=unit) as step:
                yield step
            ended = ""
        finally:
            _log.info("%s: %s%.3f s", title, ended, time.monotonic() - began)

    def notice(self, line: str) -> None:
        # Not logged: a notice may repeat what crash prints about a dump.
        self._inner.notice(line)


def _newest(line: str) -> str:
    """The last state of a line that is rewritten with carriage returns, as by dpkg ("Reading database … 5%")."""
    return visible(line.strip().rpartition("\r")[2])


def _amount(done: int, total: int | None, unit: str, began: float) -> str:
    if unit != "B":
        return f"{done}/{total}" if total else str(done)
    rate = size(done / max(time.monotonic() - began, 0.001))
    return f"{size(done)} of {size(total)}, {rate}/s" if total else f"{size(done)}, {rate}/s"


class Output:
    """Standard output for crash's bytes: unchanged in a pipe, control characters made visible on a terminal."""

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        # A character may be split between two pieces.
        self._decode = _decoder() if os.isatty(self._descriptor) else None

    def __call__(self, piece: bytes) -> None:
        with _to_stdout():
            write_all(self._descriptor, piece if self._decode is None else visible(self._decode.decode(piece)).encode())


class JsonAnswer:
    """One command's answer as one line of JSON on standard output. Written as it arrives, because it may be huge."""

    def __init__(self, command: str) -> None:
        self._descriptor = sys.stdout.fileno()
        self._decode = _decoder()
        self._ascii = os.isatty(self._descriptor)
        self._head = f'{{"command": {self._quoted(command)}, "output": "'

    def __call__(self, piece: bytes) -> None:
        head, self._head = self._head, ""
        said = head + self._quoted(self._decode.decode(piece))[1:-1]
        with _to_stdout():
            write_all(self._descriptor, said.encode(errors="backslashreplace"))

    def end(self, status: str, seconds: float, more: Mapping[str, object] | None = None) -> None:
        """The command has ended. `more` are further keys of the object, with values as `plain` takes them."""
        rest = self._head + self._quoted(self._decode.decode(b"", final=True))[1:-1]
        added = "".join(f", {self._quoted(key)}: {self._quoted(plain(value))}" for key, value in (more or {}).items())
        said = f'{rest}", "status": {self._quoted(status)}, "seconds": {seconds:.6f}{added}}}\n'
        with _to_stdout():
            write_all(self._descriptor, said.encode(errors="backslashreplace"))

    def _quoted(self, value: object) -> str:
        import json

        return json.dumps(value, ensure_ascii=self._ascii)


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("backslashreplace")


_UNEXPECTED: Final = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, NameError, AssertionError),
    *(ArithmeticError, RecursionError, NotImplementedError, MemoryError, EOFError),
)
"""What a mistake of vmbox's raises. SystemExit and what the command line library raises are none."""

_NO_MEMORY: Final = NoSpace("no memory is left", hint="free some, or raise the limit: ulimit -v unlimited -d unlimited")
_NO_PROCESSES: Final = ConfigurationError("no more processes can be started", hint="ulimit -u unlimited, or end some")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what a command raises into a message, a hint and an exit status; never a traceback."""
    try:
        yield
        with _to_stdout():
            sys.stdout.flush()
    except VmboxError as problem:
        _ending.info("%s, exit status %d", type(problem).__name__, problem.exit_code)
        error(problem)
        sys.exit(problem.exit_code)
    except Terminated as ended:
        # Its terminal may be gone.
        with suppress(OSError):
            note(f"vmbox: ended by a signal ({ended.number})")
        sys.exit(128 + ended.number)
    except KeyboardInterrupt:
        note("vmbox: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader closed the pipe. Python would raise again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The status that a shell gives a program that was ended by SIGPIPE.
        sys.exit(141)
    except (*_UNEXPECTED, RuntimeError, ExceptionGroup) as problem:
        # The command line library ends a command by errors that are RuntimeErrors.
        strange = not isinstance(problem, _UNEXPECTED) and _of_the_place(problem) is None
        if strange or os.environ.get("VMBOX_DEBUG"):
            raise
        if (known := _of_the_place(problem)) is not None:
            error(known)
            sys.exit(known.exit_code)
        error(
            VmboxError(
                f"internal error: {type(problem).__name__}: {problem}",
                hint="set VMBOX_DEBUG=1 for the traceback, and report it with what vmbox -v and vmbox doctor print",
            )
        )
        sys.exit(VmboxError.exit_code)


def _of_the_place(problem: Exception) -> VmboxError | None:
    """The error for what any part of a command may find: a disk that is full or read-only, a limit of the process
    (setrlimit(2)), a removed working directory. None for another one.
    """
    if isinstance(problem, ExceptionGroup):  # of what runs side by side
        return next(filter(None, map(_of_the_place, problem.exceptions)), None)
    if isinstance(problem, MemoryError):
        return _NO_MEMORY
    if isinstance(problem, RuntimeError):
        return _NO_PROCESSES if "start new thread" in str(problem) else None
    if not isinstance(problem, OSError):
        return None
    where = f"{problem.filename}: " if problem.filename else ""
    match problem.errno:
        case errno.ENOSPC | errno.EDQUOT if problem.filename == _STDOUT:
            return NoSpace("no space left where standard output goes", hint="free some, or write to another disk")
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(f"{where}no space left", hint="free some, or choose other places: vmbox config show")
        case errno.ENOENT if _working_directory_is_gone():
            return UsageError("the working directory was removed", hint="go to one that is there: cd /")
        case errno.EFBIG:
            return NoSpace(f"{where}files may not become so large", hint="ulimit -f unlimited")
        case errno.EMFILE | errno.ENFILE:
            return ConfigurationError(f"{where}too many files are open", hint="let more be open: ulimit -n 1024")
        case errno.EAGAIN:
            return _NO_PROCESSES
        case errno.ENOMEM:
            return _NO_MEMORY
        case errno.EROFS:
            hint = "choose a place that can be written: export VMBOX_CACHE_DIR=DIRECTORY; vmbox config show"
            return ConfigurationError(f"{where}the file system is read-only", hint=hint)
        case _:
            return None


def _working_directory_is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False
