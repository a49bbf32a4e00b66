"""drgn: https://drgn.readthedocs.io/"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sandbox.debugger.protocol import StartMode
from sandbox.errors import UsageError

_PROGRAM: Final = ("drgn", "--no-default-symbols")
"""Modules have their symbols from the dump; without their debug files drgn would only complain."""

_PRELUDE: Final = "from drgn import *; from drgn.helpers.common import *; from drgn.helpers.linux import *\n"
"""The names that drgn's own prompt has; -e has them, too, in every version of drgn."""

_SESSION: Final = "/usr/libexec/vmbox/drgn-session.py"
"""Reads Python from standard input, a statement or expression a line."""

_ERROR: Final = b"drgn: error: "
"""The line that `drgn-session.py` prints for an exception begins so."""

_LONGEST_LINE: Final = 65536


class DrgnErrors:
    """Watches the output of one command for the line that `drgn-session.py` prints for an exception."""

    def __init__(self) -> None:
        self._tail = b"\n"
        self._found = False

    def feed(self, piece: bytes) -> None:
        text = self._tail + piece
        self._found = self._found or b"\n" + _ERROR in text
        self._tail = text[-len(_ERROR) - 1 :]

    def found(self) -> bool:
        return self._found


class Drgn:
    """The `Debugger` that is programmed in Python."""

    name = "drgn"
    reads_split_dumps = False
    reads_any_arch = True
    start_modes: Sequence[StartMode] = (StartMode("", ""),)
    quit_words = frozenset({"quit()", "exit()"})
    interrupt = "INT"
    list_modules = "print(*(m.name.string_().decode() for m in for_each_module(prog)), sep='\\n')"
    commands: Sequence[str] = ()

    def reads(self, kernel: tuple[int, int], ceiling: tuple[int, int] | None) -> bool:
        # Its helpers are tried with 4.9 and up; older kernels are read without them. It has no ceiling: it goes by the
        # types of the kernel, not by its version.
        del kernel, ceiling
        return True

    def session_argv(self, vmlinux: str, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        options = [mode.option] if mode.option else []
        return [*_PROGRAM, "-q", *options, "-c", self._one(dumps), "-s", vmlinux, _SESSION]

    def kernel_place(self, offset: int | None, phys_base: int | None) -> Sequence[str]:
        # It takes the whole text of VMCOREINFO, and no option for that.
        del offset, phys_base
        return ()

    def line(self, command: str) -> bytes:
        line = command.strip().encode(errors="surrogateescape")
        if b"\n" in line or b"\0" in line:
            raise UsageError("a command is one line", hint="give a script: vmbox run VMCORE --tool drgn -- script.py")
        if len(line) > _LONGEST_LINE:
            raise UsageError(f"the command has {len(line)} bytes, {_LONGEST_LINE} are read", hint="give a script")
        return line

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        del mode
        return b"print('" + marker + b"')"

    def complaints(self, command: str) -> DrgnErrors:
        del command
        return DrgnErrors()

    def error_line(self, said: str) -> str | None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return lines[-1] if lines else None

    def works_in(self, mode: StartMode, command: str) -> bool:
        del mode, command
        return True

    def check_reading(self, command: str) -> None:
        raise UsageError(f"{command!r} is Python, which does more than read", hint="crash has commands that only read")

    def output_files(self, command: str) -> frozenset[str]:
        del command
        return frozenset()

    def modules_requested(self, command: str) -> frozenset[str] | None:
        del command
        return None

    def parse_modules(self, output: bytes) -> frozenset[str]:
        return frozenset(output.decode(errors="replace").split())

    def prompt_argv(self, vmlinux: str, dumps: Sequence[str]) -> Sequence[str]:
        return [*_PROGRAM, "-c", self._one(dumps), "-s", vmlinux]

    def prompt_env(self, history: str) -> Mapping[str, str]:
        del history
        return {}

    def script_argv(self, vmlinux: str, dumps: Sequence[str], script: str) -> Sequence[str] | None:
        return [*_PROGRAM, "-c", self._one(dumps), "-s", vmlinux, script]

    def script_of(self, code: str) -> bytes:
        return (_PRELUDE + code + "\n").encode(errors="surrogateescape")

    @staticmethod
    def _one(dumps: Sequence[str]) -> str:
        if len(dumps) > 1:
            raise UsageError("drgn does not read split dumps", hint="join the parts first: makedumpfile --reassemble")
        return dumps[0]
