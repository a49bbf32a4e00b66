"""crash: https://crash-utility.github.io/"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.debugger.crash_errors import ErrorDetector
from sandbox.debugger.crash_reading import check_reading
from sandbox.debugger.crash_redirection import output_files
from sandbox.debugger.protocol import StartMode
from sandbox.debugger.stack_options import translated
from sandbox.errors import UsageError
from sandbox.model import KernelPlace

MAX_COMMAND: Final = 1498
"""Bytes of one command: crash reads lines into a buffer of 1500 (BUFSIZE in defs.h), its end included."""

MINIMAL: Final = StartMode("--minimal", "only log, dis, rd, sym, eval, set and exit work")
"""crash without its gdb."""

_MINIMAL_COMMANDS: Final = frozenset({"log", "dis", "rd", "sym", "eval", "set", "exit"})

_MODULE_LINE: Final = re.compile(r"(?m)^[ \t]*[0-9a-f]{8,16}[ \t]+([\w-]+)\s")
"""A line of crash's `mod`: address of struct module, name."""


def _given(vmlinux: str | None) -> Sequence[str]:
    if vmlinux is None:
        raise UsageError("crash opens no dump without debuginfo", hint="drgn does: --with drgn")
    return [vmlinux]


class Crash:
    """The `Debugger` that users know."""

    name = "crash"
    slot = 1
    reads_split_dumps = True
    reads_any_arch = False
    needs_debuginfo = True
    start_modes: Sequence[StartMode] = (
        StartMode("", ""),
        StartMode("--zero_excluded", "pages that are missing read as zeros, so what is shown may be wrong"),
        StartMode("--no_modules", "modules are not known: addresses in them have no names"),
        MINIMAL,
    )
    quit_words = frozenset({"q", "Q", "quit", "exit"})
    interrupt = "INT"
    list_modules = "mod"
    # diskdump.c, of each compression.
    damaged_page = re.compile(rb"uncompress failed: ")
    # As `help` lists them (7.2 to 9.0).
    commands: Sequence[str] = tuple(
        "alias ascii bpf bt btop dev dis eval exit extend files foreach fuser gdb help ipcs irq kmem list log mach "  # noqa: SIM905 - forty quotes are harder to read
        "mod mount net p ps pte ptob ptov rd repeat runq sbitmapq search set sig struct swap sym sys task timer tree "
        "union vm vtop waitq whatis wr".split()
    )

    def is_early(self, command: str) -> bool:
        del command
        return False

    def session_argv(self, vmlinux: str | None, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        options = [mode.option] if mode.option else []
        return ["crash", "-s", "--no_crashrc", "--no_scroll", *options, *_given(vmlinux), *dumps]

    def told(self, argv: Sequence[str], place: KernelPlace | None) -> Sequence[str]:
        if place is None or place.offset is None or place.phys_base is None:
            return argv
        # It may be negative, and crash reads an unsigned number.
        return [*argv, "--kaslr", hex(place.offset), "-m", f"phys_base={place.phys_base & (1 << 64) - 1:#x}"]

    def line(self, command: str) -> bytes:
        line = command.strip().encode(errors="surrogateescape")
        if not line:
            raise UsageError("the command is empty", hint="is the variable set?")
        if b"\n" in line or b"\0" in line:
            raise UsageError(
                "a crash command is one line", hint="give several commands separated by --, or a file with -i"
            )
        if len(line) > MAX_COMMAND:
            raise UsageError(
                f"the command has {len(line)} bytes, crash reads {MAX_COMMAND}", hint="split it, or use crash's < FILE"
            )
        if line[:1] in {b"*", b"<"} and line[1:2].strip():
            # crash separates them only in what is typed at a terminal (`check_special_handling` in cmdline.c).
            line = line[:1] + b" " + line[1:]
        if line in {b"!", b"|"}:
            raise UsageError(f"crash's {command.strip()} is a shell", hint="vmbox shell --tool bash VMCORE opens one")
        return line

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        # Its gdb prints within the process, also after `set gdb on`, where "!echo" costs two forks of all of crash;
        # without gdb there is only that. No alias can hide the name of a command.
        return b"!echo " + marker if mode == MINIMAL else b"gdb echo " + marker + rb"\n"

    def complaints(self, command: str, version: str) -> ErrorDetector:
        return ErrorDetector(command, version)

    def error_line(self, said: str) -> str | None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return next((line for line in lines if line.startswith("crash: ")), lines[-1] if lines else None)

    def works_in(self, mode: StartMode, command: str) -> bool:
        return mode != MINIMAL or command.split(maxsplit=1)[0] in _MINIMAL_COMMANDS

    def check_reading(self, command: str) -> None:
        check_reading(command)

    def output_files(self, command: str) -> frozenset[str]:
        return output_files(command)

    def line_command(self, address: str) -> str:
        return f"dis -l {address} 1"

    def instruction_command(self, address: str) -> str:
        return f"dis -l {address} 1"

    def layout_command(self, structure: str) -> str:
        return f"struct -o {structure}"

    def stacks_command(self, command: str) -> str | None:
        # Of drgn's: variables (-V) and its own form of frames (-d), a letter that has another meaning here.
        return translated(command, known="acpfFl", looks="Vd")

    def modules_requested(self, command: str) -> frozenset[str] | None:
        return modules_loaded_by(command)

    def parse_modules(self, output: bytes) -> frozenset[str]:
        return module_names(output)

    def prompt_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str]:
        return ["crash", "--no_crashrc", *_given(vmlinux), *dumps]

    def prompt_env(self, history: str) -> Mapping[str, str]:
        return {"GDBHISTFILE": history}

    def python_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str] | None:
        del vmlinux, dumps
        return None

    def script(self, name: str, code: bytes, arguments: Sequence[str], mark: str) -> bytes | None:
        del name, code, arguments, mark
        return None

    def question(self, command: str) -> bytes | None:
        del command
        return None

    def script_of(self, code: str) -> bytes:
        raise UsageError(f"crash runs no scripts: {code}", hint="vmbox run VMCORE --tool drgn -e CODE")


def modules_loaded_by(command: str) -> frozenset[str] | None:
    """The modules that a `mod` command loads debug information of; see `Debugger.modules_requested`."""
    words = command.split()
    if not words or words[0] not in {"mod", "lsmod"} or len(words) < 2:
        return None
    match words[1]:
        case "-S" if len(words) == 2:
            # With a directory, the user says where to look; the container has none but ours.
            return frozenset()
        case "-s" if len(words) == 3:
            return frozenset({words[2]})
        case _:
            return None


def module_names(output: bytes) -> frozenset[str]:
    """Names of modules out of what `mod` prints."""
    return frozenset(_MODULE_LINE.findall(output.decode(errors="replace")))
