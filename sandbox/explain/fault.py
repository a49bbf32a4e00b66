"""The fault in sentences. Nothing is said that was not read; `Fault.unknown` has the reason for what was not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox.debugger import DEFAULT, Debugger
from sandbox.explain import hardware, oops as oopses, poison, unfaulted
from sandbox.explain.facts import Facts, ObjectFacts, Values
from sandbox.explain.inspection import Base, Inspection, inspect
from sandbox.explain.model import Fault, Operand, Sentence, SourceFrame, SourceLine
from sandbox.explain.refusal import access, what
from sandbox.explain.x86 import divisor
from sandbox.judge.call_trace import CallTrace, below_panic, interrupted_at
from sandbox.judge.functions import is_machinery, is_panic, plain_name
from sandbox.judge.trace_lines import TracedFrame, TraceKind

_STRUCT: Final = re.compile(r"struct ([A-Za-z0-9_]{1,256})")
"""What may be in a command, which is there to be pasted; debug information says what a type is called."""
_CALLERS: Final = 6
_SHOWN_CPUS: Final = 8
_TAINTS: Final = {
    "O": "out of tree",
    "E": "unsigned",
    "P": "proprietary",
    "C": "staging",
    "K": "livepatch",
    "F": "forced",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What a debugger read of the fault, or why none did."""

    facts: Facts | None = None
    values: Values | None = None
    why: str | None = None
    """The reason why there are none."""
    doubt: str | None = None
    """Why they may be wrong, where it is known that the debugger was not tried with this kernel."""


def explain(
    log: Sequence[str],
    *,
    arch: str | None,
    readings: Readings,
    taint: Sequence[str] | None = None,
    panic: str | None = None,
    debugger: Debugger | None = DEFAULT,
    source: Sequence[SourceLine] = (),
) -> Fault | None:
    """Explain the crash that `log` ends in. None for a log without an oops and without a panic.

    `taint` is in words. `debugger` is the one that answers `vmbox run`: its commands are named; none are for None,
    where there is no dump. `source` are the lines
    around the first of `Facts.lines`, where the caller has them.
    """
    found = oopses.find(log)
    if found.last is None and panic is None:
        return None
    fault = _Explainer(found, arch, readings, taint, panic, debugger or DEFAULT, source).fault()
    if debugger is not None:
        return fault
    return replace(fault, sentences=tuple(replace(one, command=None) for one in fault.sentences))


class _Explainer:
    def __init__(  # noqa: PLR0917 - the arguments of `explain`, once
        self,
        found: oopses.Found,
        arch: str | None,
        readings: Readings,
        taint: Sequence[str] | None,
        panic: str | None,
        debugger: Debugger,
        source: Sequence[SourceLine],
    ) -> None:
        self._found, self._arch = found, arch
        self._lines, self._oops, self._first = found.lines, found.last, found.first
        self._facts, self._values, self._why = readings.facts, readings.values, readings.why
        self._doubt = readings.doubt
        self._taint, self._panic, self._debugger, self._source = taint, panic, debugger, source
        self._unknown: dict[str, str] = dict(self._facts.errors) if self._facts else {}
        if self._values is not None:
            self._unknown |= {f"0x{key}": why for key, why in self._values.errors.items() if key != "frame"}
        if self._why is not None:
            self._unknown["dump"] = self._why
        self._seen = inspect(found.last, self._facts, arch) if found.last else Inspection()
        self._without_offset = self._left_out()
        if self._without_offset is not None and self._oops is not None:
            self._oops = replace(self._oops, address=self._seen.address)
        if self._seen.text is not None:
            # That the case has no disassembler of the dump's machine.
            self._unknown.pop("instructions", None)

    def _left_out(self) -> int | None:
        """The address of a log that lacks the instruction's offset: get_kernel_gp_address() of 5.10 does not decode it.

        None where the log's address is whole.
        """
        oops, seen = self._oops, self._seen
        memory = seen.parsed.memory if seen.parsed is not None else None
        if oops is None or not oops.guessed or oops.address is None or memory is None or seen.address is None:
            return None
        lacks = memory.displacement != 0 and (oops.address + memory.displacement) % (1 << 64) == seen.address
        return oops.address if lacks else None

    def fault(self) -> Fault:
        oops = self._oops
        place = oops.place if oops else None
        errors = list(hardware.sentences(self._lines))
        sentences = [
            *errors,
            *self._what(),
            *self._where(),
            *self._how(),
            *self._there(),
            *self._cpus(),
            *(() if errors else [Sentence(topic="hardware", text="The log has no hardware error.", command="log")]),
            *self._tainting(),
        ]
        address = oops.address if oops else None
        return Fault(
            address=None if address is None else _x(address),
            access=self._access(),
            function=place.function if place else None,
            offset=place.offset if place else None,
            module=place.module if place else None,
            instruction=self._seen.text,
            operands=tuple(self._operands()),
            frames=tuple(
                SourceFrame(function=one.function, file=one.file, line=one.line, column=one.column, inline=one.inline)
                for one in (self._facts.lines if self._facts else ())
            ),
            source=tuple(self._source),
            sentences=tuple(sentences),
            unknown=self._unknown,
            doubt=self._doubt,
        )

    def _access(self) -> str | None:
        return None if self._oops is None else access(self._oops, self._arch, self._seen.parsed)

    # what

    def _what(self) -> Iterator[Sentence]:
        oops = self._oops
        if oops is None:
            yield from unfaulted.what(self._lines, self._panic, survived=self._first is not None)
        else:
            text, registers = self._seen.text, self._seen.registers
            divided = divisor(text, registers) if text is not None and self._arch == "x86_64" else None
            confirmed = oops.address is not None and self._seen.address == oops.address
            yield _said("what", what(oops, self._access(), self._arch, divided, confirmed=confirmed))
            if oops.shadow is not None:
                kind, low, high = oops.shadow
                yield _said(
                    "what",
                    "The fault is in KASAN's shadow, which is read first; the access was to be of "
                    f"{_x(low)} to {_x(high)} ({kind}).",
                )
            if oops.corruption is not None:
                yield _said("what", f"Before it the kernel said: {oops.corruption.rstrip('.')}.")
        earlier = unfaulted.earlier(self._lines, self._found.panic if oops is None else oops.line, self._panic)
        first = self._first
        if first is not None and (earlier is None or first.line < earlier[0]):
            where = first.place
            module = f" of module {where.module}" if where and where.module else ""
            place = f", in {where.function}+0x{where.offset:x}{module}" if where else ""
            earlier = first.line, first.text.rstrip(".") + place
        if earlier is not None:
            yield _said("what", f"It was not the first error of this boot. That was: {earlier[1].rstrip('.')}.")

    # where

    def _where(self) -> Iterator[Sentence]:
        oops = self._oops
        if oops is None:
            yield from self._panicking()
            return
        if oops.bad_place is not None:
            ran = "was to run" if self._access() == "execute" else "ran"
            yield Sentence(
                topic="where",
                text=f"The CPU {ran} code at {_x(oops.bad_place)}, where the kernel knows no function.",
                command="bt",
            )
        place = oops.place
        if place is not None:
            module = ""
            if place.module is not None:
                letters = oops.modules.get(place.module, "")
                words = [_TAINTS[one] for one in letters if one in _TAINTS]
                module = f" of module {place.module}" + (f" ({', '.join(words)})" if words else "")
            frames = self._facts.lines if self._facts else ()
            text = f"In {place.function}+0x{place.offset:x}{module}"
            if frames:
                inner = frames[0]
                inlined = f", in {inner.function}(), which is inlined there" if inner.inline else ""
                text += f", {inner.file}:{inner.line}{inlined}"
            pc = self._facts.pc if self._facts else None
            command = self._debugger.line_command(f"{pc:x}") if pc is not None else "bt -l"
            yield Sentence(topic="where", text=f"{text}.", command=command)
        called = oopses.frames(self._lines, oops)
        at = interrupted_at(called)
        callers, below = self._callers(called[:at]), [_named(one) for one in called[at:]] if at is not None else []
        if callers:
            stopped = f"; that interrupted {_chain(below)}" if below else ""
            yield Sentence(topic="where", text=f"It was called by {_chain(callers)}{stopped}.", command="bt")
        if oops.lockup and place is None:
            yield from self._stuck()
        if oops.command is not None:
            on = f", on CPU {oops.cpu}" if oops.cpu is not None else ""
            yield Sentence(
                topic="where",
                text=f"The task was {oops.command} (PID {oops.pid}){on}.",
                command=f"ps {oops.pid}",
            )

    def _panicking(self) -> Iterator[Sentence]:
        """Which task called panic(), and from where, where nothing faulted."""
        trace = self._own_trace()
        if trace is None or trace.command is None:
            return
        frames = trace.reliable[below_panic(trace.reliable) :]
        at = interrupted_at(frames)
        names, below = _own_names(frames[:at]), _own_names(frames[at:] if at is not None else ())
        if not names:
            names, below = below, []
        on = f", on CPU {trace.cpu}" if trace.cpu is not None else ""
        text = f"{trace.command} (PID {trace.pid}) panicked{on}"
        if names:
            text += f", in {_chain(names)}"
        if below:
            text += f"; that interrupted {_chain(below)}"
        elif trace.user and at == len(frames):
            text += "; that interrupted a program"
        yield Sentence(topic="where", text=f"{text}.", command="bt")

    def _own_trace(self) -> CallTrace | None:
        trace = None if self._oops is not None else self._found.trace
        return trace if trace is not None and trace.kind is TraceKind.PANIC else None

    def _stuck(self) -> Iterator[Sentence]:
        """What a CPU ran that found itself stuck, where the kernel printed no registers (3.10)."""
        trace = self._found.trace
        own = self._oops is not None and re.search(r"self-detected stall|soft lockup", self._oops.text)
        if not own or trace is None or trace.kind is not TraceKind.PANIC:
            return
        at = interrupted_at(trace.reliable)
        names = _own_names(trace.reliable[at:]) if at is not None else []
        if names:
            yield Sentence(topic="where", text=f"The interrupt that found it stopped {_chain(names)}.", command="bt")

    def _callers(self, frames: Sequence[TracedFrame]) -> list[str]:
        oops = self._oops
        if oops is None:
            return []
        # The kernel's own stack; the debugger's has the lines.
        found = (
            {one.function: f" ({one.file}:{one.line})" for one in self._facts.callers if one.file}
            if self._facts
            else {}
        )
        callers = []
        for one in frames:
            if one.unknown:
                callers.append("code that has no name")
            callers.append(_named(one) + ("" if one.nameless else found.get(plain_name(one.function), "")))
        link = oops.link.function if oops.link is not None else None
        if (
            oops.lockup
            or link is None
            or link in {oops.place.function if oops.place else None, *(one.function for one in frames[:1])}
        ):
            return callers
        # What was called has made no frame, or none yet: the kernel's unwinder goes on with the caller of its caller.
        # A call of its own would have left an address in itself.
        return [link + found.get(plain_name(link), ""), *callers]

    # how

    def _operands(self) -> Iterator[Operand]:
        seen = self._seen
        variables = self._facts.variables if self._facts else ()
        for name in seen.parsed.read if seen.parsed else ():
            if (value := seen.registers.get(name)) is not None:
                yield Operand(
                    register=name,
                    value=_x(value),
                    meaning=poison.name(value),
                    variables=tuple(
                        f"{one.name} ({one.type})" for one in variables if one.pointer and one.value == value
                    ),
                )

    def _how(self) -> Iterator[Sentence]:
        seen, oops = self._seen, self._oops
        if oops is None or seen.text is None:
            return
        pc = self._facts.pc if self._facts else None
        command = self._debugger.instruction_command(f"{pc:x}") if pc is not None else "log"
        values = [f"{one.register} = {one.value}" for one in self._operands()]
        having = f", with {', '.join(values)}" if values else ""
        stuck = "The CPU was at" if oops.lockup else "The instruction was"
        yield Sentence(topic="how", text=f"{stuck} `{seen.text}`{having}.", command=command)
        if seen.differing:
            names = ", ".join(seen.differing)
            self._unknown["registers"] = (
                f"the debugger and the log have different values of {names}; the log's are used"
            )
        if oops.lockup:
            return
        if seen.address is not None and oops.address is not None:
            if seen.address == oops.address:
                lacks = self._without_offset
                log = f" The log has {_x(lacks)}, without the instruction's offset." if lacks is not None else ""
                yield Sentence(
                    topic="how", text=f"That makes {_x(seen.address)}, the address of the fault.{log}", command=command
                )
            elif self._arch == "aarch64" and _untagged(seen.address) == oops.address:
                yield Sentence(
                    topic="how",
                    text=f"That makes {_x(seen.address)}, the address of the fault: its highest byte does not count.",
                    command=command,
                )
            else:
                why = (
                    # The processor keeps the address of the last fault only.
                    "there the processor was to save its state, when it could not use the stack any more"
                    if oops.guard_page
                    else "the instruction has another access, too, or its registers have changed"
                )
                self._unknown["operand"] = (
                    f"the registers make {_x(seen.address)}, the log has {_x(oops.address)}: {why}"
                )
        for one in self._operands():
            if one.meaning is not None:
                yield Sentence(topic="how", text=f"{one.register} holds {one.meaning}.", command=command)
        if seen.base is not None:
            yield from self._typed(seen.base)
        yield from self._loaded()

    def _typed(self, base: Base) -> Iterator[Sentence]:
        """What the address is, by the types of the variables that the register has the value of."""
        facts = self._facts
        if facts is None:
            return
        for index in base.variables:
            variable = facts.variables[index]
            text = f"{base.register} has the value of `{variable.name}`, {variable.type}"
            found = self._seen.member(self._values, index, base.offset)
            if found is None:
                yield Sentence(topic="how", text=f"{text}.", command=None)
            else:
                type_, member = found
                yield Sentence(
                    topic="how",
                    text=f"{text}: {_x(base.value)} + 0x{base.offset:x} is {type_}.{member}.",
                    command=self._layout(type_),
                )

    def _layout(self, type_: str) -> str | None:
        named = _STRUCT.fullmatch(type_)
        place = self._oops.place if self._oops is not None else None
        # A module's own types are unknown to the debugger until it is given the module's debug file.
        if named is None or place is None or place.module is not None:
            return None
        return self._debugger.layout_command(named[1])

    def _loaded(self) -> Iterator[Sentence]:
        """Where the register came from, if the word is still there."""
        seen = self._seen
        if seen.load is None or seen.load_address is None or seen.base is None or self._values is None:
            return
        word = self._values.words[0] if self._values.words else None
        if word != seen.base.value:
            return
        where = f"{seen.load.text}, which is {_x(seen.load_address)}"
        text = f"{seen.base.register} was loaded from {where}; the word there is still the same"
        command = f"rd {seen.load_address:x}"
        found = None
        if seen.load_base is not None and self._facts is not None:
            for index in seen.load_base.variables:
                found = self._seen.member(self._values, index, seen.load_base.offset)
                if found is not None:
                    variable = self._facts.variables[index]
                    text += f". It is {found[0]}.{found[1]}, by `{variable.name}`"
                    break
        yield Sentence(topic="how", text=f"{text}.", command=command)

    # there

    def _there(self) -> Iterator[Sentence]:
        for one in self._values.objects if self._values else ():
            if text := _lies(one):
                yield Sentence(topic="there", text=f"{_x(one.address)} {text}.", command=f"kmem {one.address:x}")
            for track in one.tracks:
                where = f" ({track.file}:{track.line})" if track.file else ""
                yield Sentence(
                    topic="there",
                    text=f"SLUB's record of it: {track.event} by PID {track.pid} on CPU {track.cpu}, "
                    f"in {track.caller}{where}.",
                    command=f"rd {track.address:x} 4",
                )

    # what else

    def _cpus(self) -> Iterator[Sentence]:
        cpus = self._facts.cpus if self._facts else ()
        trace = self._own_trace()
        own = self._oops.cpu if self._oops is not None else trace.cpu if trace is not None else None
        others = [one for one in cpus if one.cpu != own]
        for one in others[:_SHOWN_CPUS]:
            doing = f": {' < '.join(one.functions)}" if one.functions else ""
            yield Sentence(
                topic="cpus",
                text=f"Meanwhile CPU {one.cpu} ran {one.command} (PID {one.pid}){doing}.",
                command=f"bt -c {one.cpu}",
            )
        if len(others) > _SHOWN_CPUS:
            yield Sentence(topic="cpus", text=f"{len(others) - _SHOWN_CPUS} more CPUs were read.", command="bt -a")

    def _tainting(self) -> Iterator[Sentence]:
        modules = self._oops.modules if self._oops else {}
        named = [
            f"{name} ({', '.join(_TAINTS.get(one, one) for one in letters)})"
            for name, letters in sorted(modules.items())
        ]
        if self._taint is None:
            self._unknown["taint"] = "the log does not say whether the kernel was tainted"
        elif not self._taint:
            yield Sentence(topic="taint", text="The kernel was not tainted.", command="log")
        else:
            yield Sentence(topic="taint", text=f"The kernel was tainted: {'; '.join(self._taint)}.", command="log")
        if named:
            yield Sentence(topic="taint", text=f"Modules that tainted it: {', '.join(named)}.", command="mod -t")


def _own_names(frames: Sequence[TracedFrame]) -> list[str]:
    """Without the functions that every panic has."""
    names = [(one, "" if one.nameless else plain_name(one.function)) for one in frames]
    return [_named(one) for one, plain in names if not is_machinery(plain) and not is_panic(plain)]


def _named(frame: TracedFrame) -> str:
    """What a frame's function is called. Behind a call that never returns the kernel names the function after it."""
    return f"the function in front of {frame.function}" if frame.nameless else frame.function


def _chain(functions: Sequence[str]) -> str:
    """The first of them, a recursion with its number."""
    found = []
    for name, same in itertools.groupby(functions):
        times = len(list(same))
        found.append(f"{name}, {times} times" if times > 1 else name)
    return " < ".join(found[:_CALLERS])


def _said(topic: str, text: str) -> Sentence:
    return Sentence(topic=topic, text=text, command="log")


def _untagged(address: int) -> int:
    """Without its tag, as untagged_addr() of arch/arm64/include/asm/uaccess.h: the byte has the sign of bit 55."""
    return address & ((1 << 56) - 1) | (0xFF << 56 if address >> 55 & 1 else 0)


def _x(value: int) -> str:
    return f"0x{value:x}"


def _lies(one: ObjectFacts) -> str:
    if one.cache is not None:
        at = f" at {_x(one.object)}" if one.object is not None else ""
        state = {True: ", which is in use", False: ", which is free", None: "; whether it is free is not known"}
        return f"is in an object of slab cache {one.cache}{at}{state[one.allocated]}"
    if one.page is not None:
        return f"is in the direct map, in no slab; its page has {one.page}"
    return f"is: {'; '.join(one.names)}" if one.names else ""
