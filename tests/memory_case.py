"""The session script of a case and its debuggers, as a function: what a `MemoryEngine` runs in place of a case.

It takes the words of `Containerfile.d/files/session` over the FIFOs of the case, and a debugger comes up, or does not,
as a test says. What a debugger answers is made up: nothing about answers is tested on it.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from memory_process import Running
from sandbox.case.places import SESSION_VERSION, SLOTS, fifo
from sandbox.profiles import platforms

_ECHO: Final = re.compile(rb"^(?:gdb echo |!echo |%echo )(vmbox-[0-9a-f]{32})")
_LOOK: Final = 0.005
"""Seconds between two looks at whether the container was removed."""

Opens = Callable[[str, str, str], str | None]
"""What keeps a debugger from opening the dump, None where nothing does: of the image of a profile, the debugger's name,
and the option of its start mode ("" as it is)."""

KILLED: Final = "Killed"
"""What `Opens` returns where the kernel kills the debugger while it starts."""


@dataclass(kw_only=True)
class Cases:
    """`program` is what runs; `tried` is (profile, debugger, option) of each debugger that was started, in order."""

    opens: Opens = lambda _profile, _debugger, _option: None
    versions: str | None = None
    """What the image says of its debuggers, instead of what its profile has."""
    script: int = SESSION_VERSION
    """The version of the image's script; 0: it ends before it is ready."""
    tried: list[tuple[str, str, str]] = field(default_factory=list)

    def program(self, running: Running) -> int:
        if self.script == 0:
            os.write(running.stderr, b"sh: mkfifo: Permission denied\n")
            return 1
        return _Case(self, running).run()


class _Case:
    def __init__(self, cases: Cases, running: Running) -> None:
        self._cases = cases
        self._running = running
        shared = running.place("/run/vmbox")
        names = ["ctl", *(fifo(end, slot) for end in ("in", "out") for slot in SLOTS)]
        self._ends = {name: os.open(shared / name, os.O_RDWR | os.O_NONBLOCK) for name in names}
        self._read = dict.fromkeys(names, b"")
        self._token = b""
        self._up: dict[int, str] = {}
        """The debugger of each slot."""

    def run(self) -> int:
        try:
            while not self._running.killed.is_set():
                readers = ["ctl", *(fifo("in", slot) for slot in self._up)]
                for descriptor in select.select([self._ends[name] for name in readers], [], [], _LOOK)[0]:
                    name = next(name for name in readers if self._ends[name] == descriptor)
                    *lines, self._read[name] = (self._read[name] + os.read(descriptor, 65536)).split(b"\n")
                    for line in lines:
                        if not (self._told(line) if name == "ctl" else self._asked(name, line)):
                            return 0
            return 137
        finally:
            for descriptor in self._ends.values():
                os.close(descriptor)

    def _told(self, line: bytes) -> bool:
        """A word on `ctl`. Returns whether the case goes on."""
        if not self._token:
            self._token = line
            ready = f" ready {self._cases.script} {self._versions()}\n"
            os.write(self._ends[fifo("out", SLOTS[0])], self._token + ready.encode())
            return True
        word, *rest = line.decode().split()
        match word:
            case "start":
                self._start(int(rest[0]), rest[1], rest[2:])
            case "int":
                os.write(self._ends[fifo("out", int(rest[0]))], b"\n%b sent %b\n" % (self._token, rest[2].encode()))
            case "kill":
                self._exit(int(rest[0]), 137, "0")
            case "stop":
                return False
        return True

    def _versions(self) -> str:
        if self._cases.versions is not None:
            return self._cases.versions
        profile = platforms.by_name(self._profile())
        assert profile is not None
        drgn = ["drgn=0.0.32"] if "drgn" in profile.image.debuggers else []
        return " ".join([f"crash={profile.crash.version}", *drgn])

    def _profile(self) -> str:
        """The profile of the image that the case runs in, by its name."""
        return re.sub(r"^localhost/vmbox/(.*):.*$", r"\1", self._running.spec.image)

    def _start(self, slot: int, ident: str, argv: list[str]) -> None:
        name = "crash" if argv[0] == "crash" else "drgn"
        if self._up.get(slot):
            return
        options = [word for word in argv if re.fullmatch("--(zero_excluded|no_modules|minimal|partial)", word)]
        self._cases.tried.append((self._profile(), name, "".join(options)))
        wrong = self._cases.opens(*self._cases.tried[-1])
        if wrong is None:
            self._up[slot] = name
            return
        os.write(self._ends[fifo("out", slot)], wrong.encode() + b"\n")
        self._exit(slot, 137 if wrong == KILLED else 1, ident)

    def _exit(self, slot: int, status: int, ident: str) -> None:
        self._up.pop(slot, None)
        # As the script does: what the ended process had not read does not reach the next one.
        name = fifo("in", slot)
        while select.select([self._ends[name]], [], [], 0)[0]:
            os.read(self._ends[name], 65536)
        self._read[name] = b""
        os.write(self._ends[fifo("out", slot)], b"\n%b exit %d %b\n" % (self._token, status, ident.encode()))

    def _asked(self, name: str, line: bytes) -> bool:
        slot = next(slot for slot in SLOTS if fifo("in", slot) == name)
        echo = _ECHO.match(line)
        os.write(self._ends[fifo("out", slot)], (echo[1] if echo else b"answered: " + line) + b"\n")
        return True
