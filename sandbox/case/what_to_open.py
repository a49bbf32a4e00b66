"""What there is to open of a path: the dump in it, its kernel's image and debuginfo; or the reason to open nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.case.options import OpenOptions
from sandbox.errors import DumpDamaged, DumpNotFound, UnknownKernel, pasteable
from sandbox.model import DumpFormat
from sandbox.progress import Reporter

if TYPE_CHECKING:
    # A warm run finds its case and needs none of these.
    from sandbox.model import Vmcore
    from sandbox.profiles import Selection


def identified(dump: Path, reporter: Reporter) -> Vmcore:
    """Identifies a dump with all that is needed to find its debuginfo."""
    from sandbox.case.dumps import identify_inside_of

    # Debian's and Ubuntu's debuginfo is found by what only the log says.
    vmcore = identify_inside_of(dump, reporter, unpacking=True, measuring=False)
    if vmcore.member is not None:
        # The first: to look for others, a compressed archive would have to be read to its end.
        reporter.notice(f"{vmcore.member} is the first dump in {dump.name}")
    return vmcore


def refuse_log(vmcore: Vmcore, dump: Path) -> None:
    """Raises `DumpNotFound` when there is only the log of a crash."""
    if vmcore.original_path is not None or vmcore.format is DumpFormat.LOG:
        from sandbox.remote import described

        where = f": ask for {vmcore.original_path}" if vmcore.original_path else ""
        raise DumpNotFound(
            f"{described.name(dump)} tells of a crash, but the vmcore itself is not in it{where}",
            hint=f"vmbox info {pasteable(dump)}",
        )


def _refuse_part(vmcore: Vmcore, dump: Path) -> None:
    """Raises `DumpNotFound` when parts of a split dump are not there: each has pages without which no debugger starts,
    and to try them all takes half a minute.
    """
    if vmcore.missing_parts:
        from sandbox.remote import described

        raise DumpNotFound(
            f"{described.name(dump)}: {vmcore.incomplete_reason}",
            hint="what is there is tried with --force; vmbox dmesg needs the part with the log only",
        )


def refuse_without_kernel(vmcore: Vmcore, dump: Path) -> None:
    """Raises `DumpDamaged` when the kernel's own data is in the part of the dump that is lost."""
    from sandbox.dump import kernel_data
    from sandbox.remote import described

    if not described.is_description(vmcore.path) and kernel_data.is_missing(vmcore):
        raise DumpDamaged(
            f"{described.name(dump)} is incomplete, and the kernel's own data is in what is lost, without which no "
            f"debugger opens a dump: {vmcore.incomplete_reason}",
            hint=f"{what_is_left(vmcore, dump)}; --force tries nevertheless",
        )


def what_is_left(vmcore: Vmcore, dump: Path) -> str:
    """The hint about an incomplete dump that no debugger opens: what is still known, and what shows it."""
    shown = pasteable(dump)
    known = f"it is of kernel {vmcore.release}" if vmcore.release else f"vmbox info {shown} shows what is known"
    if vmcore.panic is None:
        return f"{known}, and its log is lost too: copy it again, and compare sizes"
    return (
        f"{known}, which says: {vmcore.panic}; vmbox dmesg {shown} prints its log, and vmbox explain {shown} the panic"
    )


def selected(vmcore: Vmcore, dump: Path, options: OpenOptions, reporter: Reporter) -> Selection:
    """Selects image and debuginfo source of a dump. Raises `DumpNotFound` when there is none to open."""
    from sandbox.profiles import select

    refuse_log(vmcore, dump)
    if not options.force:
        _refuse_part(vmcore, dump)
        refuse_without_kernel(vmcore, dump)
    if vmcore.complete is False:
        reporter.notice(f"the dump is incomplete: {vmcore.incomplete_reason}; what is missing cannot be read")
    try:
        return select(vmcore, override=options.image)
    except UnknownKernel as error:
        from sandbox.remote import described
        from sandbox.remote.file import download_hint

        if not described.is_description(vmcore.path):
            raise
        # Of a file here all of memory was searched for the kernel's name.
        shown = described.name(vmcore.path)
        message = error.message.replace(str(vmcore.path), shown)
        raise UnknownKernel(message, hint=f"all of it is searched here; {download_hint(shown)}") from error
