"""Errors of the hardware that a kernel log tells of, each by what was read there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.dump.panic import PANIC_LINE
from sandbox.explain.model import Sentence

_ERROR: Final = re.compile(
    r"\[Hardware Error\]|Machine check events logged|\bEDAC\b.* [UC]E\b|\bAER: (?:Multiple )?(?:Un)?[Cc]orrect\w* "
    r"|SError Interrupt on CPU|Bad mode in Error handler|[Cc]ritical temperature|memory failure: 0x"
    r"|MCE broadcast|broadcast exception handler|synchronous (?:external abort|parity)"
    r"|NMI: (?:PCI system error|IOCK error|Memory parity error)",
    re.IGNORECASE,
)
_MACHINE_CHECK: Final = re.compile(
    r"(?:\[Hardware Error\]|\bEDAC \w+ MC\d+): (?:CPU (?P<cpu>\d{1,6}): Machine Check(?: Exception| Event)?: [0-9a-f]+ "
    r"Bank (?P<bank>\d{1,4}): (?P<status>[0-9a-f]{16})"
    r"|CPU:(?P<amd_cpu>\d{1,6}) \([0-9a-f:]{5,12}\) MC(?P<amd_bank>\d{1,4})_STATUS\[[^\]]{0,128}\]: "
    r"0x(?P<amd_status>[0-9a-f]{16}))"
)
"""arch/x86/kernel/cpu/mce/core.c: print_mce(), drivers/edac/{sb_edac,skx_base}.c, drivers/edac/mce_amd.c."""
_ADDRESS: Final = re.compile(
    r"\bTSC [0-9a-f]+ (?:.*?)ADDR (?P<address>[0-9a-f]{1,16})|Error Addr: 0x(?P<amd>[0-9a-f]{1,16})"
)
_RIP: Final = re.compile(
    r"\[Hardware Error\]: RIP (?P<inexact>!INEXACT! )?(?P<segment>[0-9a-f]{2}):<[0-9a-f]+>"
    r"(?: \{(?P<place>[^}]{1,256})\})?"
)
_VERDICT: Final = re.compile(r"\[Hardware Error\]: Machine check: (?P<words>\S.{0,128})")
_FATAL: Final = re.compile(r"Fatal (?:local )?machine check", re.IGNORECASE)
"""mce_panic() of an error that it has: it prints that one as the last."""
_MISSING: Final = re.compile(r"CPUs not responding to MCE broadcast.*?: (?P<cpus>[\d,-]{1,256})")
_STATUS: Final = ((57, "the state of the processor may be lost"), (62, "more errors were lost"))
"""Bits of a bank's status, which Intel and AMD share (arch/x86/include/asm/mce.h)."""
_UNCORRECTED, _HAS_ADDRESS = 61, 58
_FIRMWARE: Final = re.compile(
    r"\{(?P<number>\d{1,9})\}\[Hardware Error\]: +(?P<key>[a-z_ ]{1,32}): +(?P<value>\S.{0,128})"
)
"""drivers/firmware/efi/cper.c, by drivers/acpi/apei/ghes.c."""
_SHOWN_KEYS: Final = ("section_type", "error_type", "device_id", "physical_address", "fru_text")
_SERROR: Final = re.compile(
    r"(?:SError Interrupt on CPU|Bad mode in Error handler detected on CPU) ?(?P<cpu>\d{1,6}), "
    r"code 0x(?P<esr>[0-9a-f]{1,16})"
)
"""arch/arm64/kernel/traps.c: arm64_serror_panic(), and bad_mode() before 4.15."""
_IDS: Final = 1 << 24
_DFSC, _ASYNCHRONOUS = 0x3F, 0x11
_SEVERITIES: Final = {0: "uncontainable", 1: "unrecoverable", 2: "restartable", 3: "recoverable", 6: "corrected"}
"""AET in the syndrome of an SError (arch/arm64/include/asm/esr.h)."""
_PC: Final = re.compile(r"^\s*pc : (?P<place>\S{1,256}(?: \[[\w-]{1,56}\])?)")
_NMI: Final = re.compile(r"NMI received for unknown reason (?P<reason>[0-9a-f]{2}) on CPU (?P<cpu>\d{1,6})")
"""arch/x86/kernel/nmi.c: unknown_nmi_error()."""
_MOST: Final = 4
_NEAR: Final = 8
"""Lines behind the first of an error that are of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MachineCheck:
    cpu: int
    bank: int
    status: int
    address: int | None
    place: str | None


def sentences(lines: Sequence[str]) -> Iterator[Sentence]:
    """What the log has of errors of the hardware; nothing where it has none."""
    found = [line.strip() for line in lines if _ERROR.search(line)]
    if found:
        many = f"{len(found)} lines of errors, the first" if len(found) > 1 else "an error"
        yield _said(f"The hardware reported {many}: {found[0]}")
    yield from _machine_checks(lines)
    yield from _firmware(lines)
    yield from _serror(lines)
    if (unknown := next(filter(None, map(_NMI.search, lines)), None)) is not None:
        yield _said(
            f"CPU {unknown['cpu']} had an NMI of which the kernel did not find the source (reason "
            f"0x{unknown['reason']}): the hardware, a button or a management controller sends those."
        )


def _machine_checks(lines: Sequence[str]) -> Iterator[Sentence]:
    panic = max((at for at, line in enumerate(lines) if PANIC_LINE.search(line)), default=None)
    found: dict[tuple[int, int, int], _MachineCheck] = {}
    for at in range(len(lines) if panic is None else panic):
        if (match := _MACHINE_CHECK.search(lines[at])) is None:
            continue
        one = _read(match, lines[at + 1 : at + 1 + _NEAR])
        # The last of the same is at its place.
        found.pop(key := (one.cpu, one.bank, one.status), None)
        found[key] = one
    fatal = panic is not None and _FATAL.search(lines[panic]) is not None
    checks = list(found.values())
    if len(checks) > _MOST:
        yield _said(f"The log has {len(checks)} different machine checks; these are the last {_MOST}.")
        checks = checks[-_MOST:]
    for one in checks:
        words = ["not corrected" if one.status >> _UNCORRECTED & 1 else "corrected"]
        words += [text for bit, text in _STATUS if one.status >> bit & 1]
        if one.address is not None and one.status >> _HAS_ADDRESS & 1:
            words.append(f"at address 0x{one.address:x}")
        if one.place is not None:
            words.append(one.place)
        last = "; it is the one that the kernel panicked of" if fatal and one is checks[-1] and len(checks) > 1 else ""
        yield _said(
            f"CPU {one.cpu} had a machine check, by bank {one.bank}: {', '.join(words)} "
            f"(error code 0x{one.status & 0xFFFF:04x}){last}."
        )
    if (verdict := next(filter(None, map(_VERDICT.search, lines)), None)) is not None:
        yield _said(f"The kernel's reason not to go on: {verdict['words'].strip().rstrip('.')}.")
    if (missing := next(filter(None, map(_MISSING.search, lines)), None)) is not None:
        yield _said(f"CPUs that did not answer to a machine check: {missing['cpus']}.")


def _read(match: re.Match[str], after: Sequence[str]) -> _MachineCheck:
    """A machine check, of whose lines the first matches; those of the next one are not its own."""
    address, place = None, None
    for line in after:
        if _MACHINE_CHECK.search(line):
            break
        if address is None and (said := _ADDRESS.search(line)):
            address = int(said["address"] or said["amd"], 16)
        if place is None and (rip := _RIP.search(line)):
            place = _place(rip)
    return _MachineCheck(
        cpu=int(match["cpu"] or match["amd_cpu"]),
        bank=int(match["bank"] or match["amd_bank"]),
        status=int(match["status"] or match["amd_status"], 16),
        address=address,
        place=place,
    )


def _place(rip: re.Match[str]) -> str | None:
    if int(rip["segment"], 16) & 3:
        return "in a program"
    if rip["place"] is None:
        return None
    return f"{'near' if rip['inexact'] else 'at'} {rip['place']}"


def _firmware(lines: Sequence[str]) -> Iterator[Sentence]:
    """The last error that the platform's firmware described."""
    by_number: dict[str, list[tuple[str, str]]] = {}
    for match in filter(None, map(_FIRMWARE.search, lines)):
        by_number.setdefault(match["number"], []).append((match["key"].strip(), match["value"].strip()))
    if not by_number:
        return
    fields = list(by_number.values())[-1]
    first: Mapping[str, str] = dict(reversed(fields))
    words = [f"{key} {first[key]}" for key in _SHOWN_KEYS if key in first]
    severity = first.get("event severity")
    if severity is not None:
        said = f": {', '.join(words)}" if words else ""
        yield _said(f"The firmware reported an error of severity {severity}{said}.")


def _serror(lines: Sequence[str]) -> Iterator[Sentence]:
    for at, line in enumerate(lines):
        if (match := _SERROR.search(line)) is None:
            continue
        syndrome = int(match["esr"], 16)
        if syndrome & _IDS:
            means = ", of which only the manual of the processor knows the meaning"
        elif syndrome & _DFSC == _ASYNCHRONOUS and (severity := _SEVERITIES.get(syndrome >> 10 & 7)):
            means = f", {severity}"
        else:
            means = ""
        near = next(filter(None, map(_PC.match, lines[at + 1 : at + 1 + _NEAR])), None)
        where = (
            f" The CPU was at {near['place']}, which need not be the cause: such an error comes late." if near else ""
        )
        yield _said(
            f"CPU {match['cpu']} had an SError, an error of memory, of a bus or of a device "
            f"(ESR 0x{syndrome:x}{means}).{where}"
        )
        return


def _said(text: str) -> Sentence:
    return Sentence(topic="hardware", text=text, command="log")
