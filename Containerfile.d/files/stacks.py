"""Stacks of a kernel without debuginfo, as far as they are known.

drgn unwinds: by ORC, or by frame pointers where an x86_64 kernel was built with these in its place
(CONFIG_UNWINDER_FRAME_POINTER, e.g. Ubuntu's). This module checks each frame, goes on where there is a hole and the
stack itself shows the caller, and ends a stack where nothing does. Its `Unwinder.stack` replaces drgn's own
`kernel_stack_trace` for drgn's commands.
"""

import re
import struct
from dataclasses import dataclass

from drgn import Architecture, FaultError, Object
from drgn.helpers.linux.sched import task_cpu
from drgn.helpers.linux.stack import (
    LinuxKernelStack,
    _classify_segment,
)

_FRAME_WORDS = 128
"""Words above a frame among which its return address is looked for. The frame of __crash_kexec has 24."""

_MOST_HOLES = 4
"""Functions without ORC in one stack."""

_CALL = 0xE8
"""The first byte of a direct call, which has 5."""

_MAKES_FRAME = bytes.fromhex("55 4889e5")
"""push %rbp; mov %rsp,%rbp."""

_PROLOGUE = 64
"""Bytes of a function in which its frame is made: the tracer's and the stack protector's code is before."""

_LEAVES = (0xC3, 0xE9, 0xEB, 0xCC)
"""ret and the jumps that may stand in its place; int3 is behind a ret."""

_JUMPS = re.compile(rb"\xe8\x01\x00\x00\x00\xcc[\x48\x4c]\x89|(?:\x0f\xae\xe8)?\x41?\xff[\xe0-\xe7]", re.DOTALL)
"""A retpoline, which puts a register in place of its own return address; or jmp *reg, maybe behind lfence
(arch/x86/lib/retpoline.S, and alternatives that replace it)."""

_JUMPS_BYTES = 8

_ENTRY_OF_ARM64 = re.compile(r"el1[ht]_64_(?:sync|irq|fiq|error)$")

KERNEL = 1 << 63
PAGE = 4096


@dataclass(frozen=True)
class Stack(LinuxKernelStack):
    """A stack that may end before its outermost frame."""

    gap: str = ""
    """Why the frames below the last one are not known; empty for a whole stack."""


class Unwinder:
    """Unwinds the tasks of one program.

    `orc_of(pc)` returns the ORC table that has an address, or None; `tables` are the addresses (first, end) of the
    kernel's own, equal where it has none.
    """

    def __init__(self, prog, orc_of, tables):
        self._prog = prog
        self._orc_of = orc_of
        self._tables = tables
        self._x86 = prog.platform.arch == Architecture.X86_64
        self._by_frame_pointers = self._x86 and tables[0] == tables[1]

    def stack(self, task):
        """The stack of a `struct task_struct *`. Raises what `Program.stack_trace` raises, e.g. for a running task."""
        try:
            frames, gap = self._known(self._prog.stack_trace(task), _MOST_HOLES)
        except FaultError as error:
            first, end = self._tables
            if first <= error.address < end:
                why = f"pages of the kernel's ORC, by which stacks are unwound, are not in the dump: {error.message}"
                raise FaultError(why, error.address) from error
            raise
        cpu = task_cpu(task)
        segments = [_classify_segment(task, cpu, part) for part in _parted(frames)]
        return Stack(self._prog, segments, gap)

    def _known(self, trace, holes, *, null=False):
        """([(frame, whether it begins a part)], why there are no more). `null`: the first is a caller of NULL."""
        known, expected = [], None
        for number, frame in enumerate(trace):
            # The first of a trace is where it was begun; others are interrupted where an exception was. So drgn says of
            # the caller of NULL, too.
            by_null, null = null, False
            begins = frame.interrupted and number > 0 and not by_null
            if _is_user(frame):
                known.append((frame, begins))
                break
            if expected is not None and _sp(frame) != expected:
                return known, f"drgn does not unwind {known[-1][0].name} as its ORC says"
            expected = None
            at = frame.pc - 1 if by_null else self._place(frame)
            function = self._symbol(at)
            if function is None:
                entry = known[-1][0] if known and holes else None
                if (caller := caller_of_null(self._prog, frame, entry)) is not None:
                    more, gap = self._known(caller, holes - 1, null=True)
                    return [*known, (frame, True), *more], gap
                if not self._called_null(frame, trace[number + 1] if number + 1 < len(trace) else None):
                    return known, f"{frame.pc:#x} is in no function"
                known.append((frame, begins))
                expected, null = _sp(frame) + 8, True  # nothing but the return address was pushed
                continue
            if self._by_frame_pointers and number and not (begins or by_null) and (below := known[-1][0]).interrupted:
                # It may have been interrupted before it had a frame, so that this is the caller of its caller.
                called = self._symbol(below.pc)
                if not self._has_frame(below.pc, called) and not self._calls(frame.pc, called):
                    more, gap = self._after_hole(below, called, holes)
                    return [*known, *more], gap
            known.append((_Renamed(frame, function.name) if at == function.address else frame, begins))
            if self._by_frame_pointers:
                pointer = frame.registers().get("rbp", 1)
                if pointer == 0:
                    break  # the outermost function of an idle task
                if pointer & 1 and pointer >= KERNEL:
                    more, gap = self._entered(pointer - 1, holes)
                    return [*known, *more], gap
                if not frame.interrupted and at != function.address and not self._is_after_any_call(frame.pc):
                    return known[:-1], f"{frame.pc:#x} is behind no call"
                continue
            if not self._x86:
                continue
            orc = self._orc_of(at)
            if orc is not None and orc.covers(at):
                expected = orc.caller_sp(at, _sp(frame))
                continue
            if orc is not None and orc.ends(at):
                break
            more, gap = self._after_hole(frame, function, holes)
            return [*known, *more], gap
        else:
            if known and self._x86:
                return known, f"drgn finds no caller of {known[-1][0].name}"
        return known, ""

    def _called_null(self, frame, caller):
        """Whether a frame is of a call of NULL by the next frame: drgn takes that from the top of the stack."""
        null = self._x86 and frame.interrupted and frame.pc == 0
        return null and caller is not None and self._is_after_pointer(caller.pc)

    def _has_frame(self, pc, function):
        """Whether the code before `pc` has made its function's frame, and `pc` is not behind what undoes it."""
        try:
            code = self._prog.read(function.address, min(pc - function.address, _PROLOGUE))
            return _MAKES_FRAME in code and self._prog.read(pc, 1)[0] not in _LEAVES
        except FaultError:
            return False

    def _entered(self, registers, holes):
        """As `_known`, of what the entry from a program or of an exception saved at the address `registers`.

        It leaves that address plus 1 in place of a frame pointer (arch/x86/include/asm/frame.h: ENCODE_FRAME_POINTER).
        """
        saved = Object(self._prog, "struct pt_regs", address=registers)
        if saved.ip.value_() == 0:
            return [], ""  # of a kernel thread, which was entered from no program
        more, gap = self._known(self._prog.stack_trace(saved), holes)
        return [(frame, begins or number == 0) for number, (frame, begins) in enumerate(more)], gap

    def _after_hole(self, frame, function, holes):
        """As `_known`, of the frames below one of a function that has no ORC, or no frame yet."""
        kind = "frame pointer" if self._by_frame_pointers else "ORC"
        why = f"there is no {kind} for {function.name}"
        above = self._caller(frame, function) if holes else None
        if above is None:
            return [], why
        more, gap = self._known(above, holes - 1)
        # The caller's own caller proves that rbp was what the caller had.
        if len(more) < 2 or not (
            _is_user(more[1][0]) or self._calls(more[1][0].pc, self._symbol(self._place(more[0][0])))
        ):
            return [], why
        return more, gap

    def _place(self, frame):
        """An address in the code that a frame is at. A caller's address is behind its call."""
        if frame.interrupted:
            return frame.pc
        found = self._symbol(frame.pc)
        # A task that has not run since it was forked returns to the beginning of ret_from_fork.
        begins = found is not None and found.address == frame.pc and not self._is_after_any_call(frame.pc)
        return frame.pc if begins else frame.pc - 1

    def _symbol(self, address):
        try:
            return self._prog.symbol(address) if address >= KERNEL else None
        except LookupError:
            return None

    def _caller(self, frame, function):
        """The trace of the caller of a function that has no ORC: from the one word above the frame that is the address
        after a direct call of this function. With frame pointers, a function without a frame of its own may have been
        called through a pointer: its return address is the first word.
        """
        sp = _sp(frame)
        words = self._words(sp) if sp else ()
        first = self._by_frame_pointers and words and self._calls(words[0], function)
        places = (
            [0] if first else [index for index, word in enumerate(words) if self._is_after_call(word, function.address)]
        )
        if len(places) != 1:
            return None
        caller = words[places[0]]
        if self._symbol(caller) != self._symbol(caller - 1):
            return None  # the call is the last of its function, which drgn would take for the next one
        registers = {"ip": caller, "sp": sp + 8 * (places[0] + 1)}
        found = frame.registers().get("rbp")
        if found is not None:
            registers["bp"] = found
        return self._prog.stack_trace(Object(self._prog, "struct pt_regs", registers))

    def _words(self, sp):
        """The words above a stack pointer, up to the end of the stack."""
        data = b""
        while len(data) < 8 * _FRAME_WORDS:
            address = sp + len(data)
            try:
                data += self._prog.read(address, PAGE - address % PAGE)
            except FaultError:
                break
        return struct.unpack_from(f"<{min(len(data) // 8, _FRAME_WORDS)}Q", data)

    def _is_after_call(self, address, function):
        """Whether `address` follows a direct call of the function that begins at `function`."""
        if address < KERNEL:
            return False
        try:
            code = self._prog.read(address - 5, 5)
        except FaultError:
            return False
        return code[0] == _CALL and address + struct.unpack_from("<i", code, 1)[0] == function

    def _calls(self, address, function):
        """Whether the code before `address` calls: `function`, or through a pointer."""
        if function is None:
            return False
        return self._is_after_call(address, function.address) or self._is_after_pointer(address)

    def _is_after_pointer(self, address):
        """Whether the code before `address` calls what a pointer points to."""
        code = self._code_before(address)
        if _is_indirect(code):
            return True
        return code[-5] == _CALL and self._is_thunk(address + struct.unpack_from("<i", code, 3)[0])

    def _is_thunk(self, address):
        """Whether the function at `address` jumps to where a register points: by its name, which another symbol of that
        address may hide, or by its code.
        """
        thunk = self._symbol(address)
        if thunk is None or "indirect_thunk" in thunk.name:
            return thunk is not None
        try:
            return _JUMPS.match(self._prog.read(address, _JUMPS_BYTES)) is not None
        except FaultError:
            return False

    def _is_after_any_call(self, address):
        code = self._code_before(address)
        # Architectures that are not this one have calls before every return address.
        return not self._x86 or code[-5] == _CALL or _is_indirect(code)

    def _code_before(self, address):
        """The 7 bytes before an address; zeros where they are not in the dump."""
        try:
            return self._prog.read(address - 7, 7)
        except FaultError:
            return bytes(7)


def _parted(frames):
    """The frames of each part of a stack: exceptions and interrupts part it."""
    parts = []
    for frame, begins in frames:
        if begins or not parts:
            parts.append([])
        parts[-1].append(frame)
    return parts


def _is_indirect(code):
    """Whether code ends in call *reg, call *offset(reg) or call *offset32(reg): FF /2, 0, 1 or 4 bytes after ModRM."""
    return any(code[-length] == 0xFF and code[-length + 1] & 0x38 == 0x10 for length in (2, 3, 6))


def caller_of_null(prog, frame, entry):
    """On arm64, of a frame at NULL below the entry of an exception: the trace of its caller, which is in the link
    register; None for another frame.

    What was called has made no frame, and frame pointers go on with the caller of the caller. The entry's own frame
    pointer points behind the registers that it has saved (arch/arm64/kernel/entry.S).
    """
    arm64 = prog.platform.arch == Architecture.AARCH64
    if not (arm64 and frame.pc == 0 and entry is not None and _ENTRY_OF_ARM64.match(entry.name or "")):
        return None
    try:
        type_ = prog.type("struct pt_regs")
        saved = Object(prog, type_, address=entry.register("x29") - type_.member("stackframe").offset)
        link = saved.regs[30].value_()
        (call,) = struct.unpack("<I", prog.read(link - 4, 4)) if link >= KERNEL else (0,)
        if saved.pc.value_() != 0 or not _is_indirect_of_arm64(call):
            return None
        content = bytearray(prog.read(saved.address_, type_.size))
        struct.pack_into("<Q", content, type_.member("pc").offset, link)
        return prog.stack_trace(Object.from_bytes_(prog, type_, content))
    except (FaultError, LookupError, ValueError):
        return None


def _is_indirect_of_arm64(instruction):
    """Whether an instruction is blr, or one of its kinds that authenticate the pointer."""
    return instruction & 0xFFFFFC1F == 0xD63F0000 or instruction & 0xFEFFF800 == 0xD63F0800


class _Renamed:
    """A drgn frame with a name of ours: drgn looks for the function that a caller's address is behind."""

    def __init__(self, frame, name):
        self._frame = frame
        self.name = name

    def __getattr__(self, attribute):
        return getattr(self._frame, attribute)


def _sp(frame):
    """The stack pointer of a frame; 0 where drgn does not know it, which is none."""
    try:
        return frame.sp
    except LookupError:
        return 0


def _is_user(frame):
    """Whether a frame is of user space, whose registers the kernel saved at its entry."""
    if not frame.interrupted or frame.pc >= KERNEL:
        return False
    registers = frame.registers()
    return registers.get("cs", 0) & 3 == 3 or registers.get("pstate", 15) & 15 == 0
