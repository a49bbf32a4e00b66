"""The protocol of a debugger: what vmbox needs of it, and nothing that only one of them has.

A third debugger is a module that satisfies `Debugger`, a line in `sandbox.debugger.DEBUGGERS`, a fragment of
`Containerfile.d/` that installs it, and its name in `debuggers` of the profiles that have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

from sandbox.model import KernelPlace

VMCOREINFO: Final = PurePosixPath("/run/vmbox/vmcoreinfo")
"""In a case whose dump does not tell its VMCOREINFO: the text."""

COUNT_TASKS: Final = "rd -32 -d nr_threads"
"""The command of either debugger that prints how many tasks the kernel counted; idle ones are not among them
(kernel/fork.c). `p` would add to gdb's history of values, by whose numbers a user may refer to one. As a question
(`Debugger.question`) it may have a line more, "walk: NUMBER": the tasks in the kernel's list of processes.
"""


@dataclass(frozen=True, slots=True)
class StartMode:
    """One way to start a debugger on a dump."""

    option: str
    """The word that is added to its command line; empty for the debugger as it is."""
    limitation: str
    """What no longer works, in words; empty for the debugger as it is."""


class Complaints(Protocol):
    """Watches the output of one command for the debugger's own error messages."""

    def feed(self, piece: bytes) -> None:
        """Takes output as it comes."""

    def found(self) -> bool:
        """Whether the debugger complained; to be asked when the output has ended."""

    def missing(self) -> str | None:
        """What was asked for by name and is not in the answer, in words, where the debugger does not say so: it is a
        complaint then. To be asked when the output has ended.
        """

    def note(self) -> str | None:
        """What has to be known of an answer that is right or wrong, as only the debugger can tell; None of others."""

    def unknown(self) -> bool:
        """Whether it complained of a command or an option that it does not have."""


class Debugger(Protocol):
    """One debugger: how it is started on a case, asked, stopped, and what it reads."""

    @property
    def name(self) -> str:
        """As users call it, and as a profile's `debuggers` has it."""

    @property
    def slot(self) -> int:
        """The FIFOs of a case that it has (`sandbox.case.places.SLOTS`): those of another slot are warm beside it."""

    # What it reads.

    @property
    def reads_split_dumps(self) -> bool: ...

    @property
    def reads_any_arch(self) -> bool:
        """Whether it reads dumps of other architectures than its own, so that it needs no emulation."""

    @property
    def needs_debuginfo(self) -> bool:
        """Whether it opens no dump without a vmlinux. Where it does not, `vmlinux` is None below: then types and names
        are those that the kernel has of itself in the dump.
        """

    # The warm process of a session, which has its input and output on FIFOs.

    def is_early(self, command: str) -> bool:
        """Whether `command` has without debuginfo the answer that it has with it, but for source lines that were not
        asked for: it is answered while debuginfo is still on its way.
        """

    @property
    def start_modes(self) -> Sequence[StartMode]:
        """The debugger as it is first; then each lesser mode, to be tried when the one before it failed."""

    def session_argv(self, vmlinux: str | None, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        """The command line, of words without white space. It reads commands from standard input, a line each."""

    def told(self, argv: Sequence[str], place: KernelPlace | None) -> Sequence[str]:
        """A command line of the methods here, with what says where the kernel is in a dump whose file does not.

        In the case, the text of VMCOREINFO is at `VMCOREINFO`. Unchanged without `place`, and where the debugger cannot
        be told.
        """

    def line(self, command: str) -> bytes:
        """A command as the debugger reads it. Raises `UsageError` for one that it cannot read or never returns from."""

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        """The command that prints `marker` on a line of its own: it marks the end of an answer."""

    @property
    def quit_words(self) -> frozenset[str]:
        """Commands that leave it. A session ends its commands there and stays warm."""

    @property
    def interrupt(self) -> str:
        """The signal that stops a running command, e.g. INT."""

    def complaints(self, command: str, version: str) -> Complaints:
        """For the output of `command` by the debugger in `version`, empty where it is not known."""

    def error_line(self, said: str) -> str | None:
        """The line that says why it did not start; None where it said nothing."""

    @property
    def damaged_page(self) -> re.Pattern[bytes]:
        """What it says of a page of the dump that cannot be unpacked."""

    def works_in(self, mode: StartMode, command: str) -> bool:
        """Whether `command` can be answered in a lesser mode."""

    def check_reading(self, command: str) -> None:
        """Raises `UsageError` for a command that is not known to do nothing but read the dump."""

    def output_files(self, command: str) -> frozenset[str]:
        """The names of files that `command` redirects its output to, as they stand in it."""

    @property
    def commands(self) -> Sequence[str]:
        """Names of its commands, for completion."""

    def line_command(self, address: str) -> str:
        """The command that shows the source line of the code address (hexadecimal) at which the panicking task was."""

    def instruction_command(self, address: str) -> str:
        """The command that shows the instruction there, or the kernel's log where none does: it has its bytes, and the
        registers.
        """

    def layout_command(self, structure: str) -> str:
        """The command that shows the members of a structure, with their offsets if there is one that does."""

    def stacks_command(self, command: str) -> str | None:
        """The command that shows the stacks which `command`, a `bt` or `foreach … bt` of another debugger, shows.

        Options that only change how a frame is printed are left out where it does not have them. None where it has no
        such command.
        """

    # The debug files of modules.

    def modules_requested(self, command: str) -> frozenset[str] | None:
        """The modules that a command loads debug information of; empty for all that are loaded, None for no such."""

    @property
    def list_modules(self) -> str:
        """The command that lists the modules of the dead kernel."""

    def parse_modules(self, output: bytes) -> frozenset[str]:
        """Names of modules out of the answer to `list_modules`."""

    # A process of its own beside the warm one.

    def prompt_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str]:
        """The command line of its prompt at a terminal. Raises `UsageError` for a dump that it cannot read."""

    def prompt_env(self, history: str) -> Mapping[str, str]:
        """Environment of the prompt. `history` is a file of earlier lines; empty where the prompt takes none."""

    def python_argv(self, vmlinux: str | None, dumps: Sequence[str]) -> Sequence[str] | None:
        """The command line of its prompt for the language of its scripts; None where it has none."""

    # Scripts, which the warm process runs.

    def script(self, name: str, code: bytes, arguments: Sequence[str], mark: str) -> bytes | None:
        """The line that runs a script; None where the debugger runs none. After the script's output it prints `mark`
        and a JSON object: "failed", whether the script did, and "errors", its messages.
        """

    def question(self, command: str) -> bytes | None:
        """The script that answers a command of crash in crash's words, for reports; None where the command does."""

    def script_of(self, code: str) -> bytes:
        """A script of what a user gave with -e."""
