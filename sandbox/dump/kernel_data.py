"""Whether what is left of an incomplete dump has the kernel's own data in it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from sandbox.dump import reader, vmcoreinfo
from sandbox.dump.address_translation import KernelMemory
from sandbox.dump.header import PageMissingError
from sandbox.dump.source import Budget, DeadlineExceeded, FileSource
from sandbox.errors import VmboxError
from sandbox.model import Vmcore

_SECONDS: Final = 1.0


def is_missing(vmcore: Vmcore) -> bool:
    """Whether neither the kernel's page table nor its name (`swapper_pg_dir`, `init_uts_ns`) is in an incomplete dump.

    Both are in the kernel's data. Each debugger reads them before anything else, and ends without them. False where
    that is not known.
    """
    if (
        vmcore.complete is not False
        or len(vmcore.files) > 1
        or vmcore.wrappers
        or not reader.reads_memory(vmcore.format)
    ):
        return False
    with (
        suppress(VmboxError, DeadlineExceeded, PageMissingError),
        FileSource(vmcore.path, budget=Budget(_SECONDS)) as source,
    ):
        opened = reader.open_dump(source, str(vmcore.path))
        opened.detect_arch()
        kernel = opened.kernel()
        table = vmcoreinfo.symbol(opened.info, "swapper_pg_dir", "init_top_pgt", "init_level4_pgt")
        name = vmcoreinfo.symbol(opened.info, "init_uts_ns")
        if kernel is not None and table is not None and name is not None:
            return not _has(kernel, table) and not _has(kernel, name)
    return False


def _has(kernel: KernelMemory, address: int) -> bool:
    try:
        return bool(kernel.read(address, 8))
    except PageMissingError:
        return False
