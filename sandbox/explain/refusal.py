"""What the processor refused, by its error code: of a page fault of x86, of an abort of arm64."""

from __future__ import annotations

import re
from typing import Final

from sandbox.explain.oops_lines import Oops
from sandbox.explain.operands import ParsedInstruction

_X86: Final = ("x86_64", "i686")
_PF_WRITE, _PF_PRESENT, _PF_RESERVED, _PF_FETCH = 2, 1, 8, 16
"""arch/x86/include/asm/trap_pf.h."""
_EC_FETCH, _EC_DATA = 0x21, 0x25
"""arch/arm64/include/asm/esr.h: an abort of instruction or data in the kernel itself."""
_WNR: Final = 1 << 6
_STATUS: Final = 0x3F
"""arch/arm64/include/asm/esr.h: ESR_ELx_FSC, why an access failed; the lowest two bits are mostly a level of tables."""
_LEVELS: Final = {0x04: "which is not mapped", 0x08: "of which a page table has no access flag"}
_PERMISSION: Final = 0x0C
_OTHER: Final = {
    0x10: "for which memory, a bus or a device answered with an error",
    0x11: "of which memory has another tag than the pointer",
    0x21: "which is not aligned for this access",
    0x2B: "which is not mapped",
}
_USER_END: Final = 1 << 56
"""User space of x86_64 with five levels ends here; with four, at 1 << 47."""
_PAGE: Final = 4096
_PAGE_FAULT: Final = re.compile(r"BUG: |tried to execute NX-protected page")
"""First lines of what arch/x86/mm/fault.c prints, behind which the error code is one of a page fault."""
_EXTERNAL: Final = re.compile(r"synchronous (?:external abort|parity)")
_DIVIDES: Final = re.compile(r"divide error: ")
_STACK_SEGMENT: Final = re.compile(r"stack segment: ")
"""In 64-bit mode, what is a general protection fault with other registers (Intel SDM, volume 3, 6.15)."""
_DOUBLE: Final = re.compile(r"double fault")
_LASS: Final = re.compile(r"LASS violation for address")
_CANONICAL: Final = re.compile(r"maybe for address")
"""What arch/x86/kernel/traps.c makes of a general protection fault where the address is one of the processor's own."""
_SPLIT_LOCK: Final = re.compile(r"Split lock detected")


def access(oops: Oops, arch: str | None, instruction: ParsedInstruction | None) -> str | None:
    """read, write or execute, by the processor's own word, else by the instruction; None if neither says."""
    if oops.access is not None:
        return oops.access
    if oops.lockup or oops.check or oops.reported:
        return None
    code = oops.error_code
    if code is not None and arch in _X86 and _PAGE_FAULT.search(oops.text) and not oops.guard_page:
        return "execute" if code & _PF_FETCH else "write" if code & _PF_WRITE else "read"
    if code is not None and arch == "aarch64":
        kind = code >> 26 & 0x3F
        if kind == _EC_FETCH:
            return "execute"
        return ("write" if code & _WNR else "read") if kind == _EC_DATA else None
    return instruction.access if instruction is not None else None


def what(oops: Oops, how: str | None, arch: str | None, divisor: int | None = None, *, confirmed: bool = False) -> str:
    """The oops in a sentence. `how` is its access, `divisor` the value that its instruction divides by.

    `confirmed`: the instruction makes the address of its registers.
    """
    if oops.lockup:
        return f"Nothing faulted; a CPU did not get on: {oops.text.rstrip('.:')}."
    if oops.guard_page:
        return "A kernel stack overflowed: it ran into the guard page below it."
    if oops.reported:
        how_much = f" It was a {how} of address 0x{oops.address:x}." if how and oops.address is not None else ""
        return (
            f"A checker of the kernel's own reported: {oops.text.rstrip('.')}.{how_much} "
            "The kernel would have gone on, but it is set to panic."
        )
    if oops.check is not None:
        file, line = oops.check
        if oops.warned:
            return (
                f"A check in the kernel's own code warned: WARN() at {file}:{line}. "
                "The kernel would have gone on, but panic_on_warn is set."
            )
        return f"A check in the kernel's own code failed: BUG() at {file}:{line}."
    verb = {"read": "read", "write": "write", "execute": "run code at", None: "access"}[how]
    if _DIVIDES.search(oops.text):
        if divisor is None:
            return "The processor could not divide: the divisor is 0, or the result does not fit into its register."
        return "A division by zero." if divisor == 0 else f"The result of a division by {divisor} does not fit."
    if _STACK_SEGMENT.search(oops.text) and arch == "x86_64":
        return "The processor refused an address that is made of rsp or rbp, and is no address: it is not canonical."
    if _DOUBLE.search(oops.text):
        stack = oops.registers.get("rsp")
        at = f"; the stack pointer was 0x{stack:x}" if stack is not None else ""
        last = oops.registers.get("cr2")
        page = f", and the last page fault was at 0x{last:x} (CR2)" if last is not None else ""
        return (
            "A double fault: the processor could not begin to handle another exception, as happens without a stack"
            f"{at}{page}."
        )
    if _EXTERNAL.search(oops.text):
        at = f"address 0x{oops.address:x}" if oops.address is not None else "something"
        target = f" when it was to {verb} {at}" if how else ""
        return f"The processor got an error of memory, of a bus or of a device{target}: {oops.text.rstrip('.')}."
    if _SPLIT_LOCK.search(oops.text):
        return "The kernel locked the bus: an atomic instruction was to change memory across two cache lines."
    if oops.address is None:
        return f"{oops.text.rstrip('.')}."
    address = f"0x{oops.address:x}"
    if oops.guessed:
        return f"{_general_protection(oops, verb, address)} {_made(confirmed=confirmed)}"
    if oops.address < _PAGE:
        return f"A NULL pointer was followed: the kernel tried to {verb} address {address}."
    return f"The kernel tried to {verb} address {address}, {_refusal(oops, arch)}."


def _general_protection(oops: Oops, verb: str, address: str) -> str:
    if _LASS.search(oops.text):
        return f"The processor refused to {verb} {address}, which is of user space (LASS)."
    if _CANONICAL.search(oops.text):
        return f"The processor refused an instruction that was to {verb} {address}; the log does not say why."
    if oops.address is not None and oops.address < _PAGE:
        return f"A NULL pointer was followed: the kernel tried to {verb} address {address}."
    return f"The processor refused to {verb} {address}, which is no address: it is not canonical."


def _made(*, confirmed: bool) -> str:
    doubt = "" if confirmed else ", in some versions without the instruction's offset"
    return f"The kernel made it of the instruction's registers{doubt}."


def _refusal(oops: Oops, arch: str | None) -> str:
    code = oops.error_code
    if arch == "aarch64" and code is not None and code >> 26 & 0x3F in {_EC_FETCH, _EC_DATA}:
        return _status(code, oops.address)
    if "alignment" in oops.text or "unaligned" in oops.text:
        return "which is not aligned for this access"
    if arch not in _X86 or code is None:
        return "which the processor refused"
    if code & _PF_RESERVED:
        return "of which a page table is damaged (a reserved bit is set)"
    if not code & _PF_PRESENT:
        return "which is not mapped"
    if arch != "x86_64":
        return "which is mapped, but not for this access"
    if oops.address is not None and oops.address < _USER_END:
        kind = "SMEP" if code & _PF_FETCH else "SMAP"
        return f"which is of user space: the kernel may do so in few places only ({kind})"
    if code & _PF_FETCH:
        return "which is mapped, but not as code"
    return "which is mapped read-only" if code & _PF_WRITE else "which is mapped, but may not be read"


def _status(syndrome: int, address: int | None) -> str:
    """Of an abort of arm64, by its status code."""
    status = syndrome & _STATUS
    if status & ~3 == _PERMISSION:
        fetch = syndrome >> 26 & 0x3F == _EC_FETCH
        if address is not None and address < _USER_END:
            kind = "PXN" if fetch else "PAN"
            return f"which is of user space: the kernel may do so in few places only ({kind})"
        if fetch:
            return "which is mapped, but not as code"
        return "which is mapped read-only" if syndrome & _WNR else "which is mapped, but may not be read"
    return _LEVELS.get(status & ~3) or _OTHER.get(status) or "which the processor refused"
