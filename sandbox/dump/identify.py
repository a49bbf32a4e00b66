"""identify(path) -> Vmcore: the facts about a dump, read from the file alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.dump import (
    completeness,
    crash_directory,
    log_forms,
    magic,
    piece_index,
    pstore,
    reader,
    saved_log,
    split_file,
    split_set,
    vmcoreinfo,
)
from sandbox.dump.builder import VmcoreBuilder, apply_header, apply_scan
from sandbox.dump.log_forms import LogText
from sandbox.dump.memory_dump import apply_dump
from sandbox.dump.source import SECONDS, Asking, Budget, DeadlineExceeded, FileSource, beside, cannot_open
from sandbox.errors import DumpDamaged, DumpError, DumpUnreadable, NotADump, VmboxError, pasteable
from sandbox.formats.streams import Source
from sandbox.host import network_files
from sandbox.log import Log
from sandbox.model import DumpFormat, Vmcore, Wrapper

_INSIDE: Final = 30.0
"""Seconds of a processor for what is not a plain file: parts of it may have to be unpacked."""

_log = Log("dump")


def identify(path: Path, *, log: bool = True, kept: Callable[[], Path] | None = None, thorough: bool = False) -> Vmcore:
    """Reads the facts about the dump at `path`. Executes, unpacks and writes nothing.

    `kept` returns the directory where indexes of flattened dumps are kept; only the one that is there is read.

    `path` may also be a compressed dump or an archive with one, a directory of kdump's, a sosreport, or a kernel log as
    text. `log=False` reads headers and notes only. `thorough` searches all of a dump's memory for VMCOREINFO, where it
    has no note of it: that may take minutes. Raises `DumpNotFound`, `DumpUnreadable`, `NotADump` or
    `DumpDamaged`;
    a dump that is cut or flagged incomplete is no error as long as its header can be read.
    """
    return _identify(path, Budget(SECONDS), log=log, kept=kept, thorough=thorough)


def identify_source(
    path: Path,
    source: Source,
    *,
    index: piece_index.PieceIndex | None = None,
    patience: float | None = None,
    beside: split_set.Neighbours | None = None,
) -> Vmcore:
    """The facts about a dump, or one in an archive, whose bytes `source` has, wherever they are. Raises as `identify`.

    `index` is of a flattened one, where it is known, and `patience` the time to make it: see `apply_dump`.
    Other parts of a split set are looked for `beside` it.
    """
    size = source.size or 0
    builder = VmcoreBuilder(path, size)
    # A network, or an archive that is unpacked on the way, is waited for.
    budget = Budget(_INSIDE, patience=math.inf)
    source = Asking(source, budget)
    try:
        head = source.read_at(0, magic.PEEK)
        if magic.wrapper(head) is not None:
            _take_wrapped(builder, source, path, budget, log=True)
            return builder.build()
        kind = magic.dump_format_of(source)
        if reader.reads_memory(kind):
            apply_dump(builder, source, path, budget, log=True, index=index, patience=patience, beside=beside)
        elif kind is not None:
            raise DumpUnreadable(f"{path}: the memory of a {kind} file is searched, which takes all of it")
        elif saved_log.is_log(source, budget):
            builder.set(format=DumpFormat.LOG)
            saved_log.apply_text(builder, source, budget, "log")
        else:
            raise not_a_dump(str(path), head)
    except DeadlineExceeded as error:
        raise DumpDamaged(f"{path}: nothing was found in it in {_INSIDE:.0f} s") from error
    return builder.build()


def _identify(
    path: Path,
    budget: Budget,
    *,
    log: bool,
    kept: Callable[[], Path] | None,
    below: Path | None = None,
    thorough: bool = False,
) -> Vmcore:
    """The same; what was found `below` a directory is opened without following links."""
    network_files.ask(path)
    try:
        directory = below is None and path.is_dir()
    except OSError as error:  # a directory above it is closed to us
        raise cannot_open(path, error) from error
    if directory:
        return _identify_directory(path, budget, log=log, kept=kept, thorough=thorough)
    if path.suffix == ".vmem":
        # VMware's memory without the state that says what it is; that lies beside it.
        names = (path.with_suffix(suffix).name for suffix in (".vmss", ".vmsn"))
        state = next((one for name in names if (one := beside(path, name)) is not None), None)
        if state is not None:
            return _identify(state, budget, log=log, kept=kept, below=path.parent)
    with FileSource(path, budget=budget, below=below) as source:
        builder = VmcoreBuilder(path, source.size)
        if source.size == 0:
            raise not_a_dump(str(path), b"")
        try:
            _examine(builder, source, path, budget, log=log, kept=kept, thorough=thorough)
        except DeadlineExceeded as error:
            raise DumpDamaged(
                f"{path}: no dump was found in it in {SECONDS} s", hint="unpack it, if it is an archive, and try again"
            ) from error
        _log.info("%s: %s, %d bytes%s", path, builder.get("format"), source.size, _ways(builder))
    return builder.build()


def _ways(builder: VmcoreBuilder) -> str:
    """Which part of the file each fact came from. The facts are content of the dump and not logged."""
    return "".join(f"; {name} from {origin}" for name, origin in sorted(builder.origins.items()))


def _identify_directory(
    directory: Path, budget: Budget, *, log: bool, kept: Callable[[], Path] | None, thorough: bool
) -> Vmcore:
    # Looking around takes half of the time at most: some is left for what was found.
    contents = crash_directory.look(directory, budget.part(SECONDS / 2))
    dump = crash_directory.choose(directory, contents)
    if dump is not None:
        return _identify(dump, budget, log=log, kept=kept, below=directory, thorough=thorough)
    if not contents.logs and not contents.parts and contents.uname is None:
        if contents.cut:
            raise NotADump(f"{directory} holds too many files to look for a dump in all", hint="name the dump itself")
        if contents.links:
            first = contents.links[0]
            raise NotADump(
                f"{directory} holds no kernel crash dump but links: {first.name} leads out of it and is not followed",
                hint=f"name it: vmbox info {pasteable(first)}",
            )
        raise NotADump(
            f"{directory} holds no kernel crash dump", hint="kdump writes to /var/crash/<host>-<time>/vmcore"
        )
    builder = VmcoreBuilder(directory, 0)
    builder.set(format=DumpFormat.SOSREPORT if contents.uname else DumpFormat.LOG, wrappers=(Wrapper.DIRECTORY,))
    with suppress(DeadlineExceeded):
        if (found := saved_log.read_directory(directory, contents, budget)) is not None:
            text, saved, problem = found
            builder.set(member=str(saved.relative_to(directory)))
            builder.set(size=_bytes_of([saved] if contents.logs else contents.parts))
            _take_log(builder, text, budget, problem)
    if contents.uname is not None:
        with suppress(DeadlineExceeded), FileSource(contents.uname, budget=budget, below=directory) as source:
            saved_log.apply_uname(builder, source.read_at(0, 512).decode("utf-8", "replace"))
    if contents.kernel is not None and contents.logs:
        with suppress(DeadlineExceeded), FileSource(contents.kernel, budget=budget, below=directory) as source:
            saved_log.apply_kernel(builder, source.read_at(0, 512).decode("utf-8", "replace"))
    # abrt collects oopses of kernels that went on: no dump was written.
    elif contents.logs or contents.uname is not None:
        saved_log.apply_original_path(builder, str(contents.logs[-1].absolute()) if contents.logs else None)
    return builder.build()


def _bytes_of(files: Sequence[Path]) -> int:
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size
    return total


def _take_log(builder: VmcoreBuilder, text: LogText, budget: Budget, problem: str | None = None) -> None:
    saved_log.apply_log(builder, text, budget, "log")
    if problem is not None:
        builder.propose("log", complete=False, incomplete_reason=problem)


def _examine(
    builder: VmcoreBuilder,
    source: FileSource,
    path: Path,
    budget: Budget,
    *,
    log: bool,
    kept: Callable[[], Path] | None,
    thorough: bool,
) -> None:
    head = source.read_at(0, magic.PEEK)
    kind = magic.dump_format_of(source)
    if reader.reads_memory(kind):
        flattened = kind is DumpFormat.FLATTENED
        index = piece_index.find(source, kept()) if flattened and kept is not None else None
        apply_dump(builder, source, path, budget, log=log, index=index, thorough=thorough)
    elif kind is not None:
        _take_named(builder, kind, source, path, budget)
    elif magic.wrapper(head) is not None:
        _take_wrapped(builder, source, path, budget, log=log)
    elif pstore.is_part(path.name) and (part := saved_log.read_part(path, budget)) is not None:
        builder.set(format=DumpFormat.LOG)
        _take_log(builder, part[0], budget, part[1])
    elif saved_log.is_log(source, budget):
        builder.set(format=DumpFormat.LOG)
        saved_log.apply_text(builder, source, budget, "log")
        saved_log.apply_original_path(
            builder, str(path.absolute()) if path.name.startswith(("vmcore-dmesg", "dmesg.")) else None
        )
    else:
        raise not_a_dump(str(path), head, source)


def _take_named(builder: VmcoreBuilder, kind: DumpFormat, source: Source, path: Path, budget: Budget) -> None:
    from sandbox.dump import header_only

    header = header_only.parse(kind, source)
    found = header_only.ScanResult()
    with suppress(VmboxError):
        name = header_only.find_sibling_memory(path.name)
        memory = None if name is None else beside(path, name)
        if memory is not None:
            with FileSource(memory, budget=budget, below=path.parent) as opened:
                builder.set(files=(path, memory))
                found = header_only.scan_memory(opened)
        else:
            found = header_only.scan_memory(source)
    apply_header(builder, header, vmcoreinfo.parse(found.vmcoreinfo), "memory")
    apply_scan(builder, found)
    if header.flag is not None:
        builder.propose("header", complete=False, incomplete_reason=header.flag)


def _take_wrapped(builder: VmcoreBuilder, source: Source, path: Path, budget: Budget, *, log: bool) -> None:
    # This imports every decompressor; most dumps need none.
    from sandbox.dump import header_only, wrappers
    from sandbox.formats.streams import PeekSource

    found = wrappers.unwrap(source, str(path))
    builder.set(wrappers=found.layers)
    if found.member is not None:
        builder.set(member=found.member)
    if found.sosreport or found.is_log:
        builder.set(format=DumpFormat.SOSREPORT if found.sosreport and found.source is None else DumpFormat.LOG)
        if found.source is not None:
            _take_log(builder, saved_log.read(found.source, budget), budget, found.cut)
        if found.uname is not None:
            saved_log.apply_uname(builder, found.uname)
        if found.member is None or not pstore.is_part(found.member):
            saved_log.apply_original_path(builder, found.member)
        return
    inner = found.source
    if inner is None:
        raise NotADump(f"{path} holds no kernel crash dump")
    head = inner.read_at(0, magic.PEEK)
    kind = magic.dump_format(head)
    if reader.reads_memory(kind):
        # Only a small dump can be read as a whole; for others the header, and a log beside the dump, must be enough.
        size = source.size or 0
        if log and isinstance(inner, PeekSource) and size <= wrappers.WHOLE_LIMIT:
            more = size / wrappers.SLOWEST
            budget.extend(more)
            inner.exhaust(wrappers.WHOLE_LIMIT, seconds=SECONDS / 2 + more)
        apply_dump(builder, inner, path, budget, log=log and inner.size is not None)
        if log and inner.size is None:
            _take_log_of_deep(builder, found.log, path, budget)
    elif kind is not None:
        header = header_only.parse(kind, inner)
        apply_header(builder, header, vmcoreinfo.parse(header_only.find_vmcoreinfo(inner)), "memory")
    else:
        layers = " in ".join(reversed(found.layers))
        raise not_a_dump(f"what is in {path} ({layers})", head)
    if inner.damage is not None:
        damage = f"the archive is cut off or damaged: {inner.damage}{split_file.remark(path)}"
        builder.set(complete=False, incomplete_reason=damage)
        builder.origins["complete"] = builder.origins["incomplete_reason"] = "size"
    elif Wrapper.XZ in found.layers[:1] and (reason := completeness.of_xz(source)):
        builder.propose("size", complete=False, incomplete_reason=reason)


def _take_log_of_deep(builder: VmcoreBuilder, in_archive: Source | None, path: Path, budget: Budget) -> None:
    """Takes the log that kdump saved, in the archive before the dump or beside it, if the dump's own cannot be read."""
    if in_archive is not None:
        with suppress(DeadlineExceeded):
            saved_log.apply_saved_log(builder, "log in the archive", in_archive, budget)
    elif (saved := crash_directory.log_beside(path)) is not None:
        with (
            suppress(VmboxError, DeadlineExceeded),
            FileSource(saved, budget=budget, below=path.parent) as source,
        ):
            saved_log.apply_saved_log(builder, saved.name, source, budget)
    if builder.get("panic") is None:
        layers = ", ".join(builder.values["wrappers"])
        builder.set(skipped=f"the log, with cause and panic: it lies too deep in {layers} to be read without unpacking")


def not_a_dump(name: str, head: bytes, source: FileSource | None = None) -> DumpError:
    if source is not None and (parts := split_file.parts(source.path)):
        return NotADump(
            f"{name} is a part of a file that split(1) made: there are {len(parts)}, from {parts[0].name} on",
            hint=split_file.join_command(parts),
        )
    if not head:
        return NotADump(
            f"{name} is empty", hint="kdump ran out of space or was killed before it wrote; look for another dump"
        )
    if found := magic.foreign(head):
        what, hint = found
        return NotADump(
            f"{name} is {what}, not a kernel crash dump", hint=hint and hint.replace("FILE", pasteable(name))
        )
    if not head.strip(b"\0"):
        if source is not None and any(
            source.read_at(source.size * part // 64, 4096).strip(b"\0") for part in range(1, 64)
        ):
            return NotADump(
                f"{name} is raw memory, or a disk's image: it begins with zeros, and has no header",
                hint="of a virtual machine take a dump: virsh dump --memory-only, or QEMU's dump-guest-memory",
            )
        return NotADump(
            f"{name} begins with zeros: the writing of it never finished",
            hint="kdump or the copy was interrupted; look for the same dump where it was first written",
        )
    if magic.is_text(head) and log_forms.is_of_xen(head):
        return NotADump(
            f"{name} is a log of the Xen hypervisor, and has none of a kernel",
            hint="give the vmcore, or what the kernel of the domain printed: dmesg, or its console",
        )
    if magic.is_text(head):
        return NotADump(f"{name} is text, but no kernel log", hint="give the vmcore, or the output of dmesg")
    if name.endswith(".vmem"):
        return NotADump(
            f"{name} is the memory of a VMware machine, without its state", hint="put the .vmss or .vmsn beside it"
        )
    return NotADump(f"{name} is not a kernel crash dump, as far as its first bytes tell")
