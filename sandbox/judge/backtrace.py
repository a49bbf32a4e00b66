"""Parse backtraces that `bt` of crash or of drgn's crash commands prints, of one task or many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

INTEGER: Final = r"\d{1,15}"
"""A number as a debugger prints it. A damaged dump may have longer ones: Python refuses to read some, and others are of
more than 64 bits when they are multiplied."""

# task.c print_task_header(); the command's name is printed raw and may contain anything, including quotes.
_HEADER: Final = re.compile(rf'^PID: ({INTEGER})\s+TASK: ([0-9a-f]+)\s+CPU: ({INTEGER})\s+COMMAND: "(.*)"\s*$')
# x86_64.c x86_64_print_stack_entry(), arm64.c, s390.c, ppc64.c: " #3 [ADDRESS] NAME at ADDRESS [MODULE]"
# The name of a function of Rust has blanks: get<u8, u16>.
# drgn prints question marks where frame pointers do not tell the stack pointer.
_FRAME: Final = re.compile(
    rf"^\s*#({INTEGER}) \[([0-9a-f]+|\?+)\] (\S+(?: \S+){{0,30}}?)(?: \((?:via )?[^)]*\))?"
    r" at ([0-9a-f]+)(?: \[([\w-]+)\])?(?: \(unreliable\))?\s*$"
)
# drgn/commands/_builtin/crash/_bt.py
_INLINE: Final = re.compile(rf"^\s*#({INTEGER}) \(inline\)\s+(\S+)")
_SOURCE: Final = re.compile(rf"^\s{{4,}}(\S.*): ({INTEGER})\s*$")
_EXCEPTION: Final = re.compile(r"^\s*\[exception RIP: ([^\]+]+)(?:\+(?:0x)?([0-9a-f]+))?\]")
# drgn prints the registers that an exception or interrupt of the kernel saved below the frame of its handler.
_KERNEL_REGISTERS: Final = re.compile(r"^\s+CS: 0010\s")
_STACK: Final = re.compile(r"^--- <(.+)> ---\s*$")
_COMPLAINT: Final = re.compile(r"^bt: (.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One function on the stack, innermost first."""

    number: int
    function: str
    address: str | None
    """Address in the function, lower-case hexadecimal without 0x; None for an inlined one."""
    inline: bool = False
    """Whether the compiler put this function into the next one."""
    module: str | None = None
    """Module of the function; None for vmlinux."""
    file: str | None = None
    line: int | None = None
    exception: str | None = None
    """Function whose exception led to this frame, from "[exception RIP: …]"."""
    stopped: bool = False
    """An exception or an interrupt came while this function ran; crash has no frame for it, but `exception`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtrace:
    """One task's stack."""

    pid: int
    task: str
    """Address of its task_struct."""
    cpu: int
    command: str
    frames: tuple[Frame, ...] = ()
    complaint: str | None = None
    """Error with which crash ended the backtrace."""


def parse(text: str) -> tuple[Backtrace, ...]:
    """Parse every backtrace in `text`, in crash's order. Skips other lines, such as registers."""
    return tuple(_parse(text.splitlines()))


def _parse(lines: list[str]) -> Iterator[Backtrace]:
    current: Backtrace | None = None
    frames: list[Frame] = []
    interrupted = switched = False
    for line in lines:
        if header := _HEADER.match(line):
            if current is not None:
                yield replace(current, frames=tuple(frames))
            frames, interrupted, switched = [], False, False
            pid, task, cpu, command = header.groups()
            current = Backtrace(pid=int(pid), task=task, cpu=int(cpu), command=command)
        elif current is None:
            continue
        elif frame := _FRAME.match(line):
            number, _, function, address, module = frame.groups()
            function = function.lstrip(".")
            if switched and frames and frames[-1].exception == function:
                # Below an exception stack of its own (NMI, double fault) crash has the function as a frame, too.
                frames[-1] = replace(frames[-1], exception=None)
                interrupted = True
            switched = False
            frames.append(
                Frame(number=int(number), function=function, address=address, module=module, stopped=interrupted)
            )
            interrupted = False
        elif _STACK.match(line):
            switched = True
        elif inline := _INLINE.match(line):
            frames.append(Frame(number=int(inline[1]), function=inline[2], address=None, inline=True))
        elif (exception := _EXCEPTION.match(line)) and frames:
            # crash prints "unknown or invalid address" for user space or a jump to an invalid address.
            if not exception[1].startswith("unknown"):
                frames[-1] = replace(frames[-1], exception=exception[1])
        elif _KERNEL_REGISTERS.match(line) and frames:
            interrupted = frames[-1].exception is None
        elif (source := _SOURCE.match(line)) and frames and frames[-1].file is None:
            frames[-1] = replace(frames[-1], file=source[1], line=int(source[2]))
        elif complaint := _COMPLAINT.match(line):
            current = replace(current, complaint=complaint[1])
    if current is not None:
        yield replace(current, frames=tuple(frames))
