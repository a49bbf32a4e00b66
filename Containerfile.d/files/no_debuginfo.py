"""Open a dump in drgn with no debuginfo: by the kernel's own BTF, kallsyms and ORC, which are in the dump.

`open_dump(prog)` registers finders of types, objects and symbols, tells drgn the modules, and gives drgn's `bt` the
stacks of `stacks.Unwinder`.
"""

import re
from pathlib import Path

import btf
import kallsyms
import orc
from btf_finders import Objects, Types
from drgn import (
    Architecture,
    BadDataError,
    FaultError,
    MainModule,
    MissingDebugInfoError,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
)
from drgn.commands._crash import _bt as commands_bt
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.module import for_each_module
from module_tables import add_modules, names_of
from stacks import KERNEL, PAGE, Unwinder

_IMAGES = (24 << 20, 48 << 20, 96 << 20)
"""Bytes from _stext on in which kallsyms is looked for, one after the other. It is behind the text."""

_VERSION = re.compile(rb"(\d+)\.(\d+)")
_CHUNK = 1 << 20
_SECTION = re.compile(r"_{0,2}\w*(?:text|data|rodata)_(?:start|end|begin)|_[se]?text|_s?inittext|_e?data|_end")
_SECOND = "__pi_"


class Lacking(Exception):
    """The dump does not have what a look without debuginfo needs."""


def open_dump(prog):
    """Returns lines that say what is lacking. Raises `Lacking` where that is types or names."""
    unwinder, notes = load(prog)
    show = commands_bt._print_one_task  # noqa: SLF001 - drgn has no other place to add to

    def show_with_gap(trace, **options):
        show(trace, **options)
        if options.get("show_file_line") or options.get("show_variables"):
            print("(source lines and local variables need debuginfo)")
        if trace.gap:
            print(f"bt: the frames below are not known: {trace.gap}")

    commands_bt.kernel_stack_trace = unwinder.stack
    commands_bt._print_one_task = show_with_gap  # noqa: SLF001
    return notes


def load(prog):
    """Returns (unwinder, lines that say what is lacking). Raises `Lacking`."""
    notes = []
    _load_symbols(prog)
    types = _load_types(prog)
    prog.register_type_finder("btf", _Finder(types).find, enable_index=0)
    objects = Objects(prog, types, Path(__file__).with_name("known-objects.tsv"))
    prog.register_object_finder("btf", objects.find, enable_index=1)
    main = prog.main_module(name="kernel", create=True)
    main = main[0] if isinstance(main, tuple) else main
    main.address_range = (_symbol(prog, "_stext"), _symbol(prog, "_end"))
    _load_modules(prog, types, notes)
    tables = _OrcTables(prog, notes)
    return Unwinder(prog, tables.of, tables.range), notes


class _Finder:
    """Finds types in the BTF of the kernel first, then in that of each module."""

    def __init__(self, types):
        self._types = types

    def find(self, _prog, kinds, name, filename):
        """The callback of `Program.register_type_finder`."""
        if filename is not None:
            return None  # BTF does not say which file has a type
        return next((found for one in self._types if (found := one.find(kinds, name)) is not None), None)


def _load_symbols(prog):
    _check_translation(prog)
    try:
        _check_kallsyms(prog)
        index = load_vmlinux_kallsyms(prog)
    except FaultError as error:
        # Where it is is known; to look for it would take seconds.
        raise Lacking(f"pages of the kernel's kallsyms are not in the dump: {error}") from error
    except (BadDataError, kallsyms.KallsymsError) as error:
        raise Lacking(f"the dump's kallsyms is not read: {error}") from error
    except (MissingDebugInfoError, LookupError, ValueError) as error:
        try:
            index = SymbolIndex(_symbols(_searched(prog)))
        except kallsyms.KallsymsError as missing:
            raise Lacking(f"the dump's kallsyms is not read: {missing} ({error})") from error
    prog.register_symbol_finder("kallsyms", _Symbols(index).find, enable_index=0)


def _check_kallsyms(prog):
    """Raises `kallsyms.KallsymsError` where it would take long to read; nothing where VMCOREINFO does not have it."""
    try:
        number, names, table, index = (
            _of_vmcoreinfo(prog, f"kallsyms_{name}") for name in ("num_syms", "names", "token_table", "token_index")
        )
    except Lacking:
        return
    # scripts/kallsyms.c writes them in this order.
    if not (0 < table - names <= kallsyms.MOST_BYTES and 0 < index - table <= kallsyms.LONGEST_TABLE):
        raise kallsyms.KallsymsError(f"its names have {table - names} bytes, its tokens {index - table}")
    version = _VERSION.match(prog["UTS_RELEASE"].string_())
    wide = version is not None and tuple(map(int, version.groups())) >= (6, 1)
    # Between names and tokens are two tables that are not needed, whose pages may not be there.
    known, missing = _beginning(prog, names, table)
    tokens, offsets = prog.read(table, index - table), prog.read(index, 512)
    try:
        kallsyms.check(known, tokens, offsets, count=prog.read_u32(number), wide=wide)
    except kallsyms.KallsymsError:
        if missing is None:
            raise
        raise missing from None


def _check_translation(prog):
    """Raises `Lacking` where no virtual address can be read: libkdumpfile 0.5.5 fails so with kdumps of aarch64."""
    address = _of_vmcoreinfo(prog, "_stext")
    try:
        prog.read(address, 8)
    except FaultError as error:
        if prog.platform.arch == Architecture.AARCH64 and "translat" in str(error):
            made = "an ELF dump (makedumpfile -E, virsh dump, cp /proc/vmcore) is read without libkdumpfile"
            raise Lacking(f"libkdumpfile does not understand the kernel's page tables; {made}: {error}") from error


def _of_vmcoreinfo(prog, name):
    try:
        text = prog["VMCOREINFO"].string_()
    except (LookupError, FaultError) as error:
        raise Lacking(f"the dump has no VMCOREINFO, which says where the kernel is: {error}") from error
    found = re.search(rb"^SYMBOL\(%s\)=([0-9a-f]+)$" % name.encode(), text, re.MULTILINE)
    if found is None:
        raise Lacking(f"the dump's VMCOREINFO has no {name}")
    return int(found[1], 16)


class _Symbols:
    """The symbols of kallsyms, of which an address shows the one that a programmer knows."""

    def __init__(self, index):
        self._index = index

    def find(self, prog, name, address, one):
        """The callback of `Program.register_symbol_finder`."""
        if address is not None and address < KERNEL:
            return []  # not a null pointer, which is the address of the first per-CPU variable in its section
        found = self._index(prog, name, address, False)
        if one and address is not None:
            # The linker script's symbol for the beginning of a section is at the address of its first function.
            found.sort(key=lambda symbol: _SECTION.fullmatch(symbol.name) is not None)
            found = [self._first_name(prog, symbol) for symbol in found[:1]]
        return found[:1] if one else found

    def _first_name(self, prog, symbol):
        """The symbol by the name that a programmer knows.

        What starts the kernel knows functions by a second one (arch/x86/boot/startup and arch/arm64/kernel/pi). Of the
        names of an address drgn's reader gives the last one the size, and finds that alone.
        """
        if not symbol.name.startswith(_SECOND):
            return symbol
        others = self._index(prog, symbol.name.removeprefix(_SECOND), None, False)
        if any(other.address == symbol.address for other in others):
            name = symbol.name.removeprefix(_SECOND)
            return Symbol(name, symbol.address, symbol.size, symbol.binding, symbol.kind)
        return symbol


def _searched(prog):
    stext = _of_vmcoreinfo(prog, "_stext")
    image = bytearray()
    why = None
    for size in _IMAGES:
        while len(image) < size:
            image += _readable(prog, stext + len(image), _CHUNK)
        try:
            return kallsyms.find(image, stext)
        except kallsyms.KallsymsError as error:
            why = error
    raise why


def _beginning(prog, start, end):
    """(memory from `start` to `end`, or to the first page that the dump does not have; the error of that page)."""
    found, at = [], start
    try:
        while at < end:
            size = PAGE - at % PAGE
            found.append(prog.read(at, min(size, end - at)))
            at += size
    except FaultError as error:
        return b"".join(found), error
    return b"".join(found), None


def _readable(prog, address, size):
    """Memory with zeros where the dump has no page: those of the kernel's start are freed."""
    try:
        return prog.read(address, size)
    except FaultError:
        if size == PAGE:
            return bytes(PAGE)
        half = size // 2
        return _readable(prog, address, half) + _readable(prog, address + half, half)


def _symbols(found):
    """drgn's symbols; as drgn makes them of kallsyms, a symbol ends where the next one begins at another address."""
    symbols = []
    begin = end = 0
    for address, letter, name in reversed(found):
        if address != begin:
            begin, end = address, begin
        size = end - address if 0 <= end - address < 1 << 30 else 0
        kind = SymbolKind.UNKNOWN
        if letter in "tT":
            kind = SymbolKind.FUNC
        elif letter.lower() in "srbgncdv":
            kind = SymbolKind.OBJECT
        binding = SymbolBinding.WEAK if letter in "vVwW" else SymbolBinding.GLOBAL
        symbols.append(Symbol(name, address, size, binding, kind))
    return symbols[::-1]


def _symbol(prog, name):
    try:
        return prog.symbol(name).address
    except LookupError:
        raise Lacking(f"the kernel has no symbol {name}") from None


def _load_types(prog):
    try:
        start, end = _symbol(prog, "__start_BTF"), _symbol(prog, "__stop_BTF")
    except Lacking:
        if not prog.symbols("init_task"):
            raise Lacking("the kernel's kallsyms has no variables (CONFIG_KALLSYMS_ALL)") from None
        raise Lacking("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)") from None
    if not 0 < end - start <= btf.MAX_BYTES:
        raise Lacking(f"the kernel's BTF has {end - start} bytes")
    try:
        return [Types(prog, prog.read(start, end - start))]
    except FaultError as error:
        raise Lacking(f"pages of the kernel's BTF are not in the dump: {error}") from error
    except btf.BtfError as error:
        raise Lacking(f"the kernel's BTF is not read: {error}") from error


def _load_modules(prog, types, notes):
    notes += add_modules(prog)
    symbols = []
    try:
        for module in for_each_module(prog):
            symbols += names_of(module)
    except FaultError:
        pass  # said by `add_modules`
    prog.register_symbol_finder("module kallsyms", SymbolIndex(symbols), enable_index=1)
    try:
        # The kernel keeps a module's BTF in `struct btf` (commit 36e68442d1af ("bpf: Load and verify kernel module
        # BTFs"), v5.11), with type ids as they go on from the kernel's, also where the module
        # was built with a base of its own, .BTF.base, which it has replaced (kernel/bpf/btf.c: btf_relocate(), v6.11).
        for entry in list_for_each_entry("struct btf_module", prog["btf_modules"].address_of_(), "list"):
            _load_module_types(prog, types, entry, notes)
    except LookupError:
        pass  # CONFIG_DEBUG_INFO_BTF_MODULES is not set
    except FaultError as error:
        notes.append(f"types of modules: {error}")


def _load_module_types(prog, types, entry, notes):
    name = entry.module.name.string_().decode(errors="replace")
    try:
        one = entry.btf
        size = one.data_size.value_()
        if 0 < size <= btf.MAX_BYTES:
            types.append(Types(prog, prog.read(one.data.value_(), size), types[0]))
        else:
            notes.append(f"types of the module {name}: they have {size} bytes")
    except (LookupError, AttributeError, FaultError, btf.BtfError) as error:
        notes.append(f"types of the module {name}: {error}")


class _OrcTables:
    """The ORC tables of the kernel and of its modules, each read when an address in it is asked for."""

    def __init__(self, prog, notes):
        self._prog = prog
        self._notes = notes
        self._modules = {}
        # The addresses are before the entries (include/asm-generic/vmlinux.lds.h, ORC_UNWIND_TABLE); none on aarch64.
        ends = [prog.symbols(name) for name in ("__start_orc_unwind_ip", "__stop_orc_unwind")]
        self.range = (ends[0][0].address, ends[1][0].address) if all(ends) else (0, 0)

    def of(self, pc):
        """The table that covers an address; None where there is none."""
        if self._prog.platform.arch != Architecture.X86_64:
            return None
        try:
            module = self._prog.module(pc)
        except LookupError:
            return None
        if module.name not in self._modules:
            try:
                read = self._of_kernel if isinstance(module, MainModule) else self._of_module
                self._modules[module.name] = read(module)
            except (LookupError, AttributeError, FaultError, Lacking, orc.OrcError) as error:
                self._notes.append(f"ORC of {module.name}: {error}")
                self._modules[module.name] = None
        return self._modules[module.name]

    def _of_kernel(self, _module):
        bounds = [
            _symbol(self._prog, name)
            for name in ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind", "__stop_orc_unwind")
        ]
        return self._read(bounds[0], bounds[1] - bounds[0], bounds[2], bounds[3] - bounds[2])

    def _of_module(self, module):
        arch = module.object.arch
        count = arch.num_orcs.value_()
        return self._read(arch.orc_unwind_ip.value_(), 4 * count, arch.orc_unwind.value_(), orc.ENTRY * count)

    def _read(self, addresses, size, entries, length):
        if not 0 <= size <= 4 * orc.MOST or not 0 <= length <= orc.ENTRY * orc.MOST:
            raise orc.OrcError(f"it has {size} bytes of addresses and {length} of entries")
        return orc.Orc(self._prog.read(addresses, size), addresses, self._prog.read(entries, length))
