"""drgn: https://drgn.readthedocs.io/"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.debugger.crash import module_names, modules_loaded_by
from sandbox.debugger.crash_reading import check_reading
from sandbox.debugger.crash_redirection import redirected_by_shell
from sandbox.debugger.drgn_questions import QUESTIONS
from sandbox.debugger.protocol import VMCOREINFO, StartMode
from sandbox.debugger.selection import Selection
from sandbox.debugger.stack_options import translated
from sandbox.errors import UsageError
from sandbox.model import KernelPlace

_PROGRAM: Final = ("drgn", "--no-default-symbols")
"""Modules have their symbols from the dump; without their debug files drgn would only complain."""

_PRELUDE: Final = "from drgn import *; from drgn.helpers.common import *; from drgn.helpers.linux import *\n"
"""The names that drgn's own prompt has; -e has them, too."""

_SESSION: Final = "/usr/libexec/vmbox/drgn-session.py"
"""Answers drgn's crash commands on standard input, a line each, and runs scripts."""

_PROMPT: Final = "from drgn.commands import run_command; run_command(prog, 'crash')"

_PREFIX: Final = "drgn: crash: "

_PYTHON: Final = "from drgn.cli import run_interactive; run_interactive(prog)"

_WITHOUT: Final = (
    "import sys; sys.path.insert(0, '/usr/libexec/vmbox'); import no_debuginfo; "
    "print(*no_debuginfo.open_dump(prog), sep='\\n', end=''); "
)
"""Opens a dump without debuginfo, before a prompt."""

_ERROR: Final = re.compile(rb"(?m)^drgn: crash: ")
"""A line that `drgn-session.py` prints of an error begins so."""

_UNKNOWN: Final = re.compile(
    rb"(?m)^drgn: crash: \S+: (?:command not found$|error: (?:unrecognized arguments: |argument .*invalid choice))"
)

_EARLY: Final = re.compile(
    r"(?:bt|task|files|ps(?: -[ackmpt])?)(?: (?:0x)?[0-9a-f]+)*|bt -a|foreach bt|log(?: -[tT])?|irq(?: -s)?"
    r"|kmem -s|sys|mount|net|mod|runq|dev"
)
"""The commands of `Drgn.is_early`. Only what tests/e2e/test_no_debuginfo.py has compared belongs here."""

_REFUSALS: Final[Mapping[str, bytes]] = {
    **dict.fromkeys(
        ("bt", "files", "foreach", "net", "ps", "set", "sig", "task", "vm"),
        b"no such process with PID |invalid task_struct: ",
    ),
    "sym": b"symbol not found: ",
    "irq": b"irq: invalid IRQ number",
    "help": b"No command named ",
    "bpf": b"invalid BPF (?:program|map) ID: ",
    "ipcs": b"invalid (?:address|id): ",
}
"""How lines begin in which a command of drgn 0.3.0 refuses what it was asked, by its name: it prints them as answers.
"""

_LONGEST_LINE: Final = 65536

_KEPT: Final = 4096
"""Bytes of a line in which an error is found."""


class DrgnErrors:
    """Watches the output of one command for the lines that `drgn-session.py` prints of errors, and for refusals."""

    def __init__(self, command: str) -> None:
        words = command.split()
        refusals = _REFUSALS.get(words[0]) if words else None
        self._refused = None if refusals is None else re.compile(b"(?m)^(?:%b)" % refusals)
        self._selection = Selection(command)
        self._tail = b""
        self._found = self._unknown = False

    def feed(self, piece: bytes) -> None:
        self._selection.feed(piece)
        text = self._tail + piece
        self._found = self._found or _ERROR.search(text) is not None
        self._found = self._found or (self._refused is not None and self._refused.search(text) is not None)
        self._unknown = self._unknown or _UNKNOWN.search(text) is not None
        # The last line, which may go on. What is cut off does not look like the beginning of one.
        rest = text[text.rfind(b"\n") + 1 :]
        self._tail = rest if len(rest) <= _KEPT else b" " + rest[-_KEPT:]

    def found(self) -> bool:
        return self._found or self.missing() is not None

    def missing(self) -> str | None:
        return self._selection.missing()

    def note(self) -> str | None:
        return None

    def unknown(self) -> bool:
        return self._unknown


class Drgn:
    """The `Debugger` that is programmed in Python, and has crash's commands since 0.3.0."""

    name = "drgn"
    slot = 2
    reads_split_dumps = False
    reads_any_arch = True
    needs_debuginfo = False
    start_modes: Sequence[StartMode] = (
        StartMode("", ""),
        StartMode("--partial", "the dump lacks pages that many commands need; a command that meets one says so"),
    )
    quit_words = frozenset({"q", "quit", "exit"})
    interrupt = "INT"
    list_modules = "mod"
    # libkdumpfile's words (decompress.c and diskdump.c of 0.5), which drgn passes on.
    damaged_page = re.compile(rb"Decompress?ion failed|Wrong uncompressed size")
    # As `help` lists them (0.3.0).
    commands: Sequence[str] = tuple(
        "ascii bpf bt btop dev drgn eval exit files foreach help ipcs irq kmem list log mod mount net p ps ptob ptov "  # noqa: SIM905 - forty quotes are harder to read
        "rd runq search set sig struct swap sym sys task timer tree union vm vtop waitq whatis".split()
    )

    def is_early(self, command: str) -> bool:
        words = re.split(r"[|>]", command, maxsplit=1)[0].split()
        return _EARLY.fullmatch(" ".join(words)) is not None

    def session_argv(self, vmlinux: str | None, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        options = [mode.option] if mode.option else []
        argv = [*_PROGRAM, "-q", "-c", self._one(dumps)]
        return (
            [*argv, _SESSION, "--no-debuginfo", *options]
            if vmlinux is None
            else [*argv, "-s", vmlinux, _SESSION, *options]
        )

    def told(self, argv: Sequence[str], place: KernelPlace | None) -> Sequence[str]:
        # What comes behind a script is the script's.
        return argv if place is None else [argv[0], "--vmcoreinfo", str(VMCOREINFO), *argv[1:]]

    def line(self, command: str) -> bytes:
        line = command.strip().encode(errors="surrogateescape")
        if b"\n" in line or b"\0" in line:
            raise UsageError("a command is one line", hint="give a script: vmbox run VMCORE --tool drgn -- script.py")
        if len(line) > _LONGEST_LINE:
            raise UsageError(f"the command has {len(line)} bytes, {_LONGEST_LINE} are read", hint="give a script")
        if line in {b"!", b"drgn"}:
            raise UsageError(
                f"drgn's {command.strip()} is a prompt", hint="vmbox shell --tool bash VMCORE, or --tool drgn"
            )
        if line.startswith(b"%"):
            raise UsageError(f"{command!r} is no command", hint="bt, ps, log …, as at drgn's own prompt after %crash")
        return line

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        del mode
        return b"%echo " + marker

    def complaints(self, command: str, version: str) -> DrgnErrors:
        del version
        return DrgnErrors(command)

    def error_line(self, said: str) -> str | None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        own = next((line for line in lines if line.startswith(_PREFIX)), lines[-1] if lines else None)
        return None if own is None else own.removeprefix(_PREFIX).removeprefix("error: ")

    def works_in(self, mode: StartMode, command: str) -> bool:
        del mode, command
        return True

    def check_reading(self, command: str) -> None:
        # Its commands are crash's, with fewer options; `p` evaluates no expressions.
        check_reading(command)

    def output_files(self, command: str) -> frozenset[str]:
        return frozenset(name for name in redirected_by_shell(command) if not name.startswith("/dev/"))

    def line_command(self, address: str) -> str:
        # `sym` has the line at which the function begins.
        del address
        return "bt -l"

    def instruction_command(self, address: str) -> str:
        # It has no disassembler.
        del address
        return "log"

    def layout_command(self, structure: str) -> str:
        # It knows no -o.
        return f"struct {structure}"

    def stacks_command(self, command: str) -> str | None:
        # Of crash's: offsets (-s) and their base (-x, -d); its own -d is another form of stacks.
        return translated(command, known="acpfFl", looks="sxd")

    def modules_requested(self, command: str) -> frozenset[str] | None:
        return modules_loaded_by(command)

    def parse_modules(self, output: bytes) -> frozenset[str]:
        return module_names(output)

    def prompt_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str]:
        argv = [*_PROGRAM, "-q", "-c", self._one(dumps)]
        return [*argv, "-e", _WITHOUT + _PROMPT] if vmlinux is None else [*argv, "-s", vmlinux, "-e", _PROMPT]

    def prompt_env(self, history: str) -> Mapping[str, str]:
        del history
        return {}

    def python_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str] | None:
        argv = [*_PROGRAM, "-c", self._one(dumps)]
        return [*argv, "-q", "-e", _WITHOUT + _PYTHON] if vmlinux is None else [*argv, "-s", vmlinux]

    def script(self, name: str, code: bytes, arguments: Sequence[str], mark: str) -> bytes | None:
        request = {
            "name": name,
            "code": base64.b64encode(code).decode(),
            "arguments": list(arguments),
            "mark": mark,
        }
        return b"%script " + json.dumps(request).encode()

    def question(self, command: str) -> bytes | None:
        code = QUESTIONS.get(command)
        return None if code is None else code.encode()

    def script_of(self, code: str) -> bytes:
        return (_PRELUDE + code + "\n").encode(errors="surrogateescape")

    @staticmethod
    def _one(dumps: Sequence[str]) -> str:
        if len(dumps) > 1:
            raise UsageError(
                "drgn does not read split dumps",
                hint="crash does: --with crash; or join the parts: makedumpfile --reassemble PART… WHOLE",
            )
        return dumps[0]
