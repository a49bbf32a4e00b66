"""The lines of one oops, or of a lockup's message: the values that they have.

Read of what arch/x86/kernel/dumpstack.c, arch/x86/mm/fault.c, arch/x86/kernel/traps.c, arch/arm64/mm/fault.c and
arch/arm64/kernel/{traps,process}.c print. A value that the log does not have is None.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sandbox.judge.trace_lines import OLD_TASK_LINE, TASK_LINE

BEGINS: Final = re.compile(
    r"BUG: (?:[Kk]ernel NULL pointer|[Uu]nable to handle)|[Uu]nable to handle kernel|general protection fault"
    r"|[Kk]ernel BUG at|stack guard page was hit|Internal error: |divide error: |double fault|Unhandled fault"
    r"|stack segment: |invalid opcode: |\bOops: |Oops - |watchdog: BUG: |detected stall|self-detected stall"
    r"|Bad pagetable: |Split lock detected|alignment check: |control protection fault"
    r"|hard LOCKUP|kernel tried to execute NX|BUG: soft lockup|detected expedited stalls"
    r"|Insufficient stack space to handle exception|Unhandled kernel unaligned access|Kernel Fault: Code="
    r"|kernel stack overflow \("
)
"""A line that can be the first of an oops or of a lockup's message."""
WARNS: Final = re.compile(
    r"^\s*WARNING: (?:CPU: \d+ PID: \d+ at |at |\[.{1,200}?\] )?(?P<file>[^\s:\[]{1,256}):(?P<line>\d{1,9})\b"
)
"""The first line of WARN(), which ends a kernel only where panic_on_warn is set.

That of 7.2 has the CPU at its end; with CONFIG_DEBUG_BUGVERBOSE_DETAILED the condition is before the file.
"""
REPORT: Final = re.compile(
    r"^\s*(?:BUG: (?P<checker>KASAN|KFENCE|KCSAN|KMSAN): (?P<kind>\S.{0,256}?) in "
    r"(?P<place>\S+(?: \[[^\]]{1,110}\])?)"
    # A data race has two; behind each a decoder of logs may have put file and line.
    r"(?: [^\s:]{1,256}:\d{1,9})?(?: / \S+(?: \[[^\]]{1,110}\])?)?"
    r"|(?P<ubsan>UBSAN): (?P<fault>\S.{0,256}?) in (?P<file>[^\s:]{1,256}):(?P<line>\d{1,9})(?::\d{1,9})?)\s*$"
)
"""The first line of a report of a checker that the compiler or the allocator helps (mm/kasan/report.c, lib/ubsan.c)."""
_SAID: Final = re.compile(
    r"virtual address [0-9a-f]{8} when (?P<arm>read|write|execute)"
    r"|BUG: (?:Kernel NULL pointer dereference|Unable to handle kernel data access) on (?P<power>read|write) at "
    r"|paging request for (?P<fetch>instruction fetch)"
    r"|^(?P<checker>Read|Write) (?:of size \d+ )?at addr (?P<address>[0-9a-f]{8,16}) "
    r"|^BUG: KFENCE: [\w -]{1,64} (?P<kfence>read|write) in "
    r"|^\s*status: [0-9a-f]{16} badaddr: [0-9a-f]{16} cause: 0*(?P<riscv>[cdf])$"
    r"|^\s*ESTAT: [0-9a-f]+ \[PI(?P<loongarch>[FLS])\]",
    re.MULTILINE,
)
"""The access in words: arch/arm/mm/fault.c, arch/powerpc/mm/fault.c, mm/kasan/report.c, mm/kfence/report.c; the number
or name of an exception: arch/riscv/kernel/process.c, arch/loongarch/kernel/traps.c."""
_ACCESSES: Final = {
    "instruction fetch": "execute",
    "c": "execute",
    "d": "read",
    "f": "write",
    "F": "execute",
    "L": "read",
    "S": "write",
}
_CUT: Final = re.compile(r"-+\[ cut here \]-+")
LOCKUP: Final = re.compile(r"soft lockup|hard LOCKUP|detected (?:expedited )?stall|self-detected stall")
NUMBER: Final = re.compile(r"\[#(\d{1,6})\]")
_ADDRESS: Final = re.compile(
    r"(?:dereference|page fault|paging request)[^:]*(?:, address| for address): (?:0x)?([0-9a-f]{8,16})"
    r"|(?:dereference|paging request|data access)[a-z ]* at (?:(?:virtual )?address )?(?:0x)?([0-9a-f]{8,16})"
    # arch/x86/kernel/traps.c: kernel_gp_hint_help, that of LASS since 6.19.
    r"|general protection fault, (?:[a-z]+ (?:for|LASS violation for) (?:non-canonical )?address"
    r"|kernel NULL pointer dereference) 0x([0-9a-f]{1,16})"
    # arch/arm64/mm/fault.c and arch/riscv/mm/fault.c: "access to user memory outside uaccess routines", and others.
    r"|Unable to handle kernel [a-z -]{1,64} memory[a-z ]{0,32} at virtual address ([0-9a-f]{16})"
    r"|Unhandled fault: [\w -]{1,64} \(0x[0-9a-f]{3,8}\) at (?:0x)?([0-9a-f]{8,16})\b"
    # arch/mips/kernel/unaligned.c, arch/parisc/kernel/traps.c.
    r"|(?s:Unhandled kernel unaligned access.*?)\bBadVA *: ([0-9a-f]{8,16})\b"
    r"|Kernel Fault: Code=\d{1,3} \([\w ]{1,64}\) at addr ([0-9a-f]{8,16})\b"
)
_ERROR_CODE: Final = re.compile(r"#PF: error_code\(0x([0-9a-f]{1,8})\)")
_OOPS_CODE: Final = re.compile(r"\b(?:Oops|Internal error: [\w ()-]{1,60}): (?:Oops: )?([0-9a-f]{4,16}) \[#")
_ESR: Final = re.compile(r"\bESR(?: =|:) 0x([0-9a-f]{8,16})")
PLACE: Final = re.compile(
    r"(?P<function>[A-Za-z_.$][\w.$]*)\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?: \[(?P<module>[\w-]{1,56})(?: [0-9a-f]{40})?\])?"
)
WHERE: Final = re.compile(
    r"^\s*(?:(?:RIP|EIP): (?:(?:00(?:10|60)|e0(?:08|30)):)?(?:\[<[0-9a-f]{8,16}>\] +\[<[0-9a-f]{8,16}>\] )?"
    r"|EIP is at |pc : |epc : +(?:[0-9a-f]{8,16} )?|epc {3}: [0-9a-f]{8,16} |PC is at |NIP \[[0-9a-f]{8,16}\] "
    r"|ERA: [0-9a-f]{8,16} |TPC: <|IAOQ\[0\]: "
    r"|Krnl PSW : [0-9a-f]{16} [0-9a-f]{16} \((?:\[<[0-9a-f]+>\] )?)" + PLACE.pattern
)
"""Of x86 up to 4.9 and since, arm64, riscv, mips, arm, powerpc, loongarch, sparc, parisc and s390."""
_BAD_WHERE: Final = re.compile(
    r"^\s*(?:(?:RIP|EIP): (?:(?:00(?:10|60)|e0(?:08|30)):)?|pc : |PC is at )"
    r"(?:\[<([0-9a-f]{8,16})>\] +\[<[0-9a-f]{8,16}>\] 0x[0-9a-f]{1,16}\s*$|0x([0-9a-f]{1,16})\s*$|Bad RIP value)"
    r"|^\s*NIP \[([0-9a-f]{8,16})\] +(?:\(null\)|0x[0-9a-f]{1,16})\s*$"
)
_USER: Final = re.compile(r"^\s*R?[IE]?IP: 00(?:33|23|73):")
_REGISTER: Final = re.compile(
    r"\b(R(?:[ABCD]X|[SD]I|[SB]P|0[89]|1[0-5])|CR2|x\d\d?|sp|lr)(?: ?): ?(?:[0-9a-f]{4}:)?([0-9a-f]{16})\b"
)
_FLAGS: Final = re.compile(r"\bEFLAGS: ([0-9a-f]{8,16})")
_CODE: Final = re.compile(r"^\s*Code: ([0-9a-f<>() ]{2,1024})$")
_CHECK: Final = re.compile(r"[Kk]ernel BUG at (?P<file>\S{1,256}?):(?P<line>\d{1,9})!")
_BEFORE: Final = re.compile(
    r"\blist_(?:add|del) corruption.*|\bdetected buffer overflow in \w.*|\w+: detected buffer overflow.*"
    r"|\busercopy: Kernel memory .*|^\s*CFI failure at .*|\bMissing ENDBR: \S.*"
)
"""What lib/list_debug.c, lib/string_helpers.c, mm/usercopy.c, kernel/cfi.c and arch/x86/kernel/cet.c say before."""
_SHADOW: Final = re.compile(
    r"^\s*KASAN: (?P<kind>[a-z -]{1,64}) in range \[0x0*(?P<low>[0-9a-f]{1,16})-0x0*(?P<high>[0-9a-f]{1,16})\]",
    re.MULTILINE,
)
"""mm/kasan/report.c: kasan_non_canonical_hook()."""
_RUST: Final = re.compile(r"\brust_kernel: panicked at \S")
"""What the panic handler of rust/kernel/lib.rs prints: the place, and the reason in the next line."""
_GUARD: Final = re.compile(r"BUG: (?:\w+ )?stack guard page was hit at \S|Insufficient stack space to handle exception")
"""Of x86, and of arm64 (panic_bad_stack() in arch/arm64/kernel/traps.c)."""
_FAR: Final = re.compile(r"^FAR: 0x([0-9a-f]{16})$", re.MULTILINE)
_LINK: Final = re.compile(r"^(?:lr : |LR is at |LR \[[0-9a-f]{8,16}\] )" + PLACE.pattern, re.MULTILINE)
_NUMBERS: Final = re.compile(r"^(?:Internal error: (?:Oops|: |Oops - bad mode)|Oops: [0-9a-f]{4,16} )")
"""A first line that only numbers its oops. The reason may be below: syslogd writes to terminals out of order."""
_OLD_CPU: Final = re.compile(r"^CPU:? {1,8}(\d{1,5}) *$", re.MULTILINE)
_OLD_PROCESS: Final = re.compile(r"^Process (.{1,16}?) \(pid: (\d{1,10}), ", re.MULTILINE)
"""arch/x86/kernel/{dumpstack,process}_*.c up to 3.8."""
_MODULES: Final = re.compile(r"^\s*Modules linked in: ?(.*)$")
END: Final = re.compile(r"---\[ end trace")
_NAMES: Final = {"r08": "r8", "r09": "r9"}
MOST: Final = 200
"""Lines of an oops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A function with an offset in it, as the log prints it."""

    function: str
    offset: int
    size: int
    module: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Oops:
    """One oops, or the message of a lockup."""

    line: int
    """Index of its first line in the log."""
    text: str
    """That line, without its time."""
    lockup: bool = False
    """Whether nothing faulted: the registers are those of a CPU that was found stuck."""
    number: int | None = None
    """Of `[#1]`: the how-manieth of this boot."""
    address: int | None = None
    """That was accessed; None where the processor does not say."""
    guessed: bool = False
    """Whether the kernel made `address` of the instruction (a general protection fault has none)."""
    error_code: int | None = None
    """x86: of the exception; arm64: the ESR."""
    place: Place | None = None
    bad_place: int | None = None
    """The instruction pointer, where it is in no function."""
    link: Place | None = None
    """Of arm, arm64 and powerpc: what the link register has. In another function than `place`, it is of the caller."""
    registers: Mapping[str, int] = field(default_factory=dict)
    """By their names in assembly, lower case."""
    code: bytes = b""
    code_at: int = 0
    """Offset of the instruction in `code`."""
    cpu: int | None = None
    pid: int | None = None
    command: str | None = None
    check: tuple[str, int] | None = None
    """(file, line) of a BUG(), or of a WARN()."""
    warned: bool = False
    """Whether it is a WARN(), after which a kernel goes on if panic_on_warn is not set."""
    reported: bool = False
    """Whether it is the report of a checker (KASAN, KFENCE, KCSAN, UBSAN), after which a kernel goes on as well."""
    access: str | None = None
    """read, write or execute, where the kernel says it in words."""
    corruption: str | None = None
    """What the kernel says before a BUG() of its own checks (of lists, of buffers), or the text of a WARN()."""
    shadow: tuple[str, int, int] | None = None
    """What KASAN made of a fault in its shadow: the kind, and the first and last address that was to be accessed."""
    guard_page: bool = False
    """Whether a stack ran into the page below it."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Taint letters of the modules that have some."""


def read_oops(lines: Sequence[str], at: int, end: int) -> Oops:
    above = lines[max(0, at - 3) : at]
    block = _block(lines[at:end])
    text = "\n".join(block)
    address = _ADDRESS.search(text)
    place, bad, registers, code, code_at = _state(block)
    if place is not None and place.function.endswith("fortify_panic"):
        # In 7.2 there is the whole of a WARN() between what it says and its BUG().
        above = list(reversed(lines[max(0, at - MOST) : at]))
    before = next((found[0] for line in above if (found := _BEFORE.search(line))), None) or _rust_panic(above)
    lockup = LOCKUP.search(block[0]) is not None
    # A lockup may be found by another CPU, which is named first; that of the registers is the one that did not get on.
    before_state = "\n".join(itertools.takewhile(lambda line: not WHERE.match(line), block)) if lockup else text
    tasks = list(TASK_LINE.finditer(before_state))
    task = tasks[-1 if lockup else 0] if tasks else None
    old = OLD_TASK_LINE.search(text) if task is None else None
    process = _OLD_PROCESS.search(text) if task is None and old is None else None
    old_cpu = _OLD_CPU.search(text) if task is None else None
    warning = WARNS.match(block[0])
    if warning is not None:
        before = _warning_text(lines, at)
    report = None if warning else REPORT.match(block[0])
    if report is not None and report["place"] and (named := PLACE.fullmatch(report["place"])):
        place = place_of(named)
    check = warning or _CHECK.search(text) or (report if report and report["ubsan"] else None)
    said = _SAID.search(text)
    # That of a report which another CPU printed between the lines of an oops is not the oops' own.
    if said is not None and said["checker"] and report is None:
        said = None
    number = NUMBER.search(text)
    error = _ERROR_CODE.search(text) or _ESR.search(text) or _OOPS_CODE.search(text)
    guard = _GUARD.search(text) is not None
    value = int(next(filter(None, address.groups())), 16) if address else None
    far = _FAR.search(text) if guard else None
    link = _LINK.search(text)
    shadow = _SHADOW.search(text)
    if said is not None and said["fetch"] and value is None:
        value = bad
    if said is not None and said["address"]:
        value = int(said["address"], 16)
    return Oops(
        line=at,
        text=_reason(block).strip(),
        lockup=lockup,
        number=int(number[1]) if number else None,
        # The kernel prints a hash of the address where a stack ended; the processor keeps it.
        address=(int(far[1], 16) if far else registers.get("cr2")) if guard else value,
        guessed=address is not None and address[3] is not None,
        error_code=int(error[1], 16) if error else None,
        place=place,
        bad_place=bad,
        link=place_of(link) if link else None,
        registers=registers,
        code=code,
        code_at=code_at,
        cpu=int(task[1]) if task else int(old_cpu[1]) if old_cpu else None,
        pid=int(task[2]) if task else int(old[1]) if old else int(process[2]) if process else None,
        command=task[3] if task else old[2] if old else process[1] if process else None,
        check=(check["file"], int(check["line"])) if check else None,
        warned=warning is not None,
        reported=report is not None,
        access=_access(said) if said else None,
        corruption=before,
        shadow=(shadow["kind"], int(shadow["low"], 16), int(shadow["high"], 16)) if shadow else None,
        guard_page=guard,
        modules=_modules(lines[max(0, at - 60) : end]),
    )


def _reason(block: Sequence[str]) -> str:
    """The first line of an oops that has its reason."""
    if _NUMBERS.match(block[0].strip()) is None:
        return block[0]
    head = itertools.takewhile(lambda line: not TASK_LINE.search(line), block)
    return next((line for line in head if BEGINS.search(line) and not _NUMBERS.match(line.strip())), block[0])


def _rust_panic(above: Sequence[str]) -> str | None:
    begun = next((number for number, line in enumerate(above) if _RUST.search(line)), None)
    if begun is None:
        return None
    return " ".join(itertools.takewhile(lambda line: not _CUT.search(line), map(str.strip, above[begun:])))


def _access(said: re.Match[str]) -> str:
    names = ("arm", "power", "fetch", "checker", "kfence", "riscv", "loongarch")
    word = next(str(said[name]) for name in names if said[name])
    return _ACCESSES.get(word, word.lower())


def _warning_text(lines: Sequence[str], at: int) -> str | None:
    """The text of WARN(), which stands between "cut here" and its first line (kernel/panic.c)."""
    text: list[str] = []
    for line in reversed(lines[max(0, at - 8) : at]):
        if _CUT.search(line):
            return " ".join(reversed(text)) or None
        text.append(line.strip())
    return None


def _block(lines: Sequence[str]) -> list[str]:
    ended = next((at for at, line in enumerate(lines) if END.search(line)), len(lines))
    return list(lines[: max(ended, 1)])


def _state(block: Sequence[str]) -> tuple[Place | None, int | None, dict[str, int], bytes, int]:
    """Place, registers and code of the first registers of the kernel's; a program's follow in the trace."""
    place: Place | None = None
    bad: int | None = None
    registers: dict[str, int] = {}
    code, code_at = b"", 0
    begun = False
    for line in block:
        if _USER.match(line):
            break
        where, nowhere = WHERE.match(line), _BAD_WHERE.match(line)
        if where or nowhere:
            if begun:
                break
            begun = True
            if where:
                place = place_of(where)
            elif nowhere and (printed := nowhere[1] or nowhere[2] or nowhere[3]):
                bad = int(printed, 16)
            continue
        if begun or line.lstrip().startswith(("sp :", "lr :")):
            if re.match(r"\s*(?:Call [Tt]race)", line):
                # What is behind it is of another frame, but arm64 prints its code there.
                begun = True
            for name, value in _REGISTER.findall(line):
                lower = name.lower()
                registers.setdefault(_NAMES.get(lower, lower), int(value, 16))
            if flags := _FLAGS.search(line):
                registers.setdefault("eflags", int(flags[1], 16))
        if not code and (dumped := _CODE.match(line)):
            code, code_at = _octets(dumped[1])
    return place, bad, registers, code, code_at


def place_of(found: re.Match[str]) -> Place:
    return Place(
        function=found["function"],
        offset=int(found["offset"], 16),
        size=int(found["size"], 16),
        module=found["module"],
    )


def _octets(printed: str) -> tuple[bytes, int]:
    """Bytes of a "Code:" line in the order of memory, and the offset of the marked ones."""
    content, at = b"", 0
    for word in printed.split():
        if word[0] in "<(":
            at = len(content)
        try:
            # x86 prints bytes, arm64 numbers of 32 bits.
            content += bytes.fromhex(word.strip("<>()"))[::-1]
        except ValueError:
            return b"", 0
    return content, at


def _modules(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        if listed := _MODULES.match(line):
            for word in listed[1].split():
                if marked := re.fullmatch(r"([\w-]{1,56})\(([A-Z]*)[+-]?\)", word):
                    found[marked[1]] = marked[2]
    return {name: letters for name, letters in found.items() if letters}
