"""Tell drgn of each module what the kernel has of it: where it is, its unwind tables, the names of its functions.

drgn itself ignores a module where a page with the names of its sections is missing (kmalloc makes room for them, and
makedumpfile 1.7.8 leaves out such pages of 7.2), and unwinds by frame pointers then, which these kernels do not have.
Names of functions it has of debug files only.
"""

import bisect
import dataclasses

from drgn import Architecture, FaultError, MainModule
from drgn.helpers.linux.kallsyms import module_kallsyms
from drgn.helpers.linux.module import for_each_module, module_address_regions, module_percpu_region
from stacks import caller_of_null


def add_modules(prog):
    """Returns lines that say of which modules drgn knows nothing, and why."""
    notes = []
    try:
        for module in for_each_module(prog):
            name = "?"
            try:
                name = module.name.string_().decode(errors="replace")
                _add(prog, module, name)
            except Exception as error:  # what is not known of a module must not cost the session
                notes.append(f"module {name}: {error}")
    except (LookupError, FaultError) as error:
        notes.append(f"modules: {error}")
    return notes


def _add(prog, module, name):
    try:
        prog.linux_kernel_loadable_module(module, create=True)
    except FaultError:
        ranges = [(start, start + size) for start, size in module_address_regions(module) if size]
        count = module.arch.num_orcs.value_()
        tables = {
            ".orc_unwind_ip": (module.arch.orc_unwind_ip.value_(), 4 * count),
            ".orc_unwind": (module.arch.orc_unwind.value_(), 6 * count),
        }
        for address, size in tables.values():
            prog.read(address, size)  # drgn gives no stack at all where it cannot
        found = prog.relocatable_module(name, min(ranges)[0], create=True)
        found = found[0] if isinstance(found, tuple) else found
        found.address_ranges = ranges
        found.object = module
        for section, (address, _) in tables.items():
            found.section_addresses[section] = address
        # The version of the tables is a hash that objtool writes, the same for the kernel and its modules (commit
        # b9f174c811e3 ("x86/unwind/orc: Add ELF section with ORC version identifier"), v6.4).
        for header in prog.symbols("__start_orc_header")[:1]:
            found.section_addresses[".orc_header"] = header.address


def names_of(module):
    """The symbols of a `struct module *`, by its own table; none where that is not to be had.

    While a module is initialized its table also has the symbols of others that it uses.
    """
    try:
        regions = [*module_address_regions(module), module_percpu_region(module)]
        return [
            symbol
            for symbol in module_kallsyms(module)
            if any(start <= symbol.address < start + size for start, size in regions)
        ]
    except (LookupError, FaultError, ValueError, IndexError):
        return []  # pages are missing, or the kernel has no CONFIG_KALLSYMS


class ModuleNames:
    """Finds symbols in the modules' own tables. A table is read when it is needed first."""

    def __init__(self):
        self._tables = {}
        self._by_name = None

    def find(self, prog, name, address, one):
        """The callback of `Program.register_symbol_finder`, asked after vmlinux."""
        if address is not None:
            found = [symbol for symbol in self._at(prog, address) if name in {None, symbol.name}]
        elif name is not None:
            found = self._named(prog, name)
        else:
            found = []
        return found[:1] if one else found

    def _at(self, prog, address):
        """The first symbol at an address, as the kernel has it: a function's own name is before init_module."""
        try:
            module = prog.module(address)
        except LookupError:
            return []
        addresses, symbols = self._of(module)
        at = bisect.bisect_right(addresses, address) - 1
        if at < 0 or address >= symbols[at].address + symbols[at].size:
            return []
        return symbols[bisect.bisect_left(addresses, addresses[at]) :][:1]

    def _named(self, prog, name):
        if self._by_name is None:
            self._by_name = {}
            for module in prog.modules():
                for symbol in self._of(module)[1]:
                    self._by_name.setdefault(symbol.name, []).append(symbol)
        return self._by_name.get(name, [])

    def _of(self, module):
        """(addresses, symbols), by address: bisect has no keys before Python 3.10, and images of Debian 11 have 3.9."""
        if module.name not in self._tables:
            found = [] if isinstance(module, MainModule) else names_of(module.object)
            symbols = sorted((symbol for symbol in found if symbol.size), key=lambda symbol: symbol.address)
            self._tables[module.name] = [symbol.address for symbol in symbols], symbols
        return self._tables[module.name]


def judged(prog, trace):
    """(the trace up to where drgn left the stack, the line that says what is wrong below or None) of a task."""
    frames = [frame for segment in trace.segments for frame in segment.frames]
    if prog.platform.arch != Architecture.X86_64:
        return _with_caller_of_null(prog, trace), None
    if _has_orc(prog):
        index = _guessed_below(prog, frames)
        if index is None:
            return trace, None
        return trace, f"the frames below #{index} are a guess: there is no unwind table for {frames[index].pc:#x}"
    trace, left_out = _without_junk(trace, frames)
    if not left_out:
        return trace, None
    return trace, f"what drgn has below is left out ({left_out} frames): it is of memory that is no stack"


def _with_caller_of_null(prog, trace):
    """The trace, below a call of NULL as its caller has it."""
    entry = None
    for number, segment in enumerate(trace.segments):
        for index, frame in enumerate(segment.frames):
            if (caller := caller_of_null(prog, frame, entry)) is not None:
                whole = dataclasses.replace(segment, frames=[*segment.frames[: index + 1], *caller])
                return dataclasses.replace(trace, segments=[*trace.segments[:number], whole])
            entry = frame
    return trace


def _guessed_below(prog, frames):
    """The index of the first frame that has no unwind table, so that those below it are a guess; None if there is none.

    Of a kernel with ORC: drgn goes on by frame pointers then. So does the kernel (arch/x86/kernel/unwind_orc.c:
    orc_fp_entry), because programs of BPF have them. Modules do not.
    """
    for index, frame in enumerate(frames[:-1]):
        if frame.pc >> 63 and not _has_table(prog, frame.pc - (not frame.interrupted)):
            return index
    return None


def _without_junk(trace, frames):
    """(the trace up to where drgn left the stack, how many frames it has below).

    Of a kernel with frame pointers in place of ORC: the entry from a program or an exception has none to go on by
    (stacks.Unwinder._entered), and drgn reads what is at low addresses.
    """
    room = wanted = next(
        (index for index, frame in enumerate(frames) if not (_is_address(frame.pc) or _is_bad_call(frame))), len(frames)
    )
    segments = []
    for segment in trace.segments:
        segments.append(dataclasses.replace(segment, frames=segment.frames[:room]))
        room -= len(segments[-1].frames)
    whole = dataclasses.replace(trace, segments=[segment for segment in segments if segment.frames])
    return whole, len(frames) - wanted


def _is_address(pc):
    """Whether a program's or the kernel's code can be there: 0 is none, and the highest bits are all equal."""
    return 0 < pc < 1 << 56 or pc >= 0xFF << 56


def _is_bad_call(frame):
    """Whether NULL was called there, on a stack of the kernel: an exception came, and drgn finds the caller.

    The registers of a program that a kernel thread does not have are all 0.
    """
    try:
        return frame.pc == 0 and frame.interrupted and frame.sp >> 63 == 1
    except LookupError:
        return False


def _has_orc(prog):
    try:
        return prog.symbol("__start_orc_unwind") is not None
    except LookupError:
        return False


def _has_table(prog, address):
    try:
        module = prog.module(address)
    except LookupError:
        return False
    if isinstance(module, MainModule) or module.debug_file_path is not None:
        return True
    try:
        return module.object.arch.num_orcs.value_() > 0 and ".orc_unwind" in module.section_addresses
    except (LookupError, AttributeError, FaultError, TypeError, ValueError):
        return False
