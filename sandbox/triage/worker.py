"""The worker: runs one job, from a dump to its report. It is a process here or on another host."""

from __future__ import annotations

import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Final

from sandbox.case import store
from sandbox.commands.verbose import begin_in_worker
from sandbox.debuginfo.store import Store
from sandbox.dump import identify
from sandbox.dump.unpacking import PASSING, discard, make_place, unpacked_path
from sandbox.errors import ConfigurationError, VmboxError, kinds
from sandbox.host import config, paths
from sandbox.report import write
from sandbox.report.build import make, read
from sandbox.report.html import html
from sandbox.report.model import Report
from sandbox.triage.model import DumpEntry, JobResult, ReportJob, Row, RowStatus

_GRACE: Final = 20.0
"""Seconds in which a worker can close its case after its coordinator is gone."""


def run_job(job: ReportJob) -> JobResult:
    """Make the report of a dump. An error is in the row; only a stop raises."""
    began = time.monotonic()
    try:
        if job.neighbours:
            _apply_settings(job.settings, job.neighbours)
        report = _report(job)
        made = JobResult(row=_row(job.entry, report), html=html(report), json=write.as_json(report))
    except VmboxError as error:
        made = JobResult(row=failed(job.entry, error.message, error.exit_code))
    except Exception as error:  # noqa: BLE001 - one bad dump never stops the rest
        made = JobResult(row=failed(job.entry, f"{type(error).__name__}: {error}", VmboxError.exit_code))
    return replace(made, row=replace(made.row, seconds=round(time.monotonic() - began, 3), host=platform.node()))


def failed(entry: DumpEntry, problem: str, status: int) -> Row:
    """The row of a dump without a report."""
    return Row(
        dump=entry.dump,
        key=entry.key,
        stamp=entry.stamp,
        status=RowStatus.FAILED,
        problem=problem,
        exit_code=status,
        seconds=0.0,
        host=platform.node(),
        kernel=entry.kernel,
    )


def _report(job: ReportJob) -> Report:
    dump = job.entry.path or Path(job.entry.dump)
    if job.without_crash is None:
        # A case of its own, which is closed afterwards: hundreds of open cases would fill the memory.
        options = replace(job.options, once=True, engine=job.options.engine or config.current().engine)
        with _passing_copy(dump) if job.entry.wrapped else nullcontext():
            return make(dump, options, timeout=job.timeout)
    kind = next((kind for kind in kinds() if kind.exit_code == job.without_crash_status), VmboxError)
    return read(identify(dump), None, kind(job.without_crash, hint=""))


@contextmanager
def _passing_copy(dump: Path) -> Iterator[None]:
    """Remove the unpacked copy of the dump after its report: the copies of hundreds of archives would fill the disk.

    Keeps a copy that existed before or that has been opened meanwhile. Also removes the copy of a killed run.
    """
    copy = unpacked_path(dump, paths.unpacked_dir())
    ours = copy.with_name(PASSING)
    if not copy.exists():
        with suppress(OSError, ConfigurationError):
            make_place(copy)
            ours.touch(mode=0o600)
    try:
        yield
    finally:
        with suppress(OSError):
            if ours.exists() and store.find(dump) is None:
                discard(copy)


def _row(entry: DumpEntry, report: Report) -> Row:
    who = report.identity
    logged = who.format in {"log", "sosreport"}
    return Row(
        dump=entry.dump,
        key=entry.key,
        stamp=entry.stamp,
        status=RowStatus.OK if report.problem is None else RowStatus.LOG if logged else RowStatus.PARTIAL,
        problem=None if logged else report.problem,
        exit_code=0 if logged else report.exit_code,
        seconds=report.seconds,
        host="",
        kernel=entry.kernel,
        release=who.release,
        vendor=who.vendor,
        kernel_class=who.kernel_class,
        crash_time=who.crash_time,
        cause=report.panic.cause,
        panic=report.panic.message,
        signature=report.signature.id,
        no_debuginfo=who.no_debuginfo,
        doubt="; ".join(report.doubts) or None,
        disagreement=_disagreement(report),
        title=report.signature.title,
        task=report.backtrace.command if report.backtrace else None,
        report=f"reports/{entry.key}.html",
    )


def _disagreement(report: Report) -> str | None:
    """What the kernel itself contradicts: a stack first, else DATE, UPTIME or TASKS, which are named."""
    found = sorted((one for one in report.verdicts if not one.agrees), key=lambda one: one.subject != "stack")
    return next((one.line if one.subject == "stack" else f"{one.subject}: {one.line}" for one in found), None)


def init_worker(settings: Sequence[str], log_level: str | None = None) -> None:
    """Initialize a worker process: its share of the host as settings, and its end when the coordinator ends."""
    config.override(settings)
    begin_in_worker(log_level)
    # The kernel's OOM killer is to choose a worker, which can be replaced, and not the coordinator.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    # The terminal's Ctrl-C reaches all processes; only the coordinator decides which ones stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


_settling: Final = threading.Lock()
_settled: Final[list[object]] = []
"""The settings and neighbours that apply in this process, if it is of a cluster."""


def _apply_settings(settings: Sequence[str], neighbours: int) -> None:
    """Apply this caller's settings in a cluster's process, which also serves other callers."""
    with _settling:
        if _settled != [settings, neighbours]:
            config.replace_overrides(settings)
            config.replace_overrides(shares(neighbours))
            _settled[:] = [settings, neighbours]


def shares(jobs: int) -> list[str]:
    """Settings under which `jobs` cases together use as much as one. The user's settings stay."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    now = config.current()
    found = [*config.overrides()]
    if now.memory is None and jobs > 1:
        found.append(f"memory={memory * 3 // 4 // jobs}")
    if now.cpus is None and jobs > 1:
        found.append(f"cpus={max(1.0, len(os.sched_getaffinity(0)) / jobs):.2f}")
    return found


def holding(kernels: Sequence[str]) -> list[str]:
    """The `kernels`, by build-id, whose debuginfo this host has."""
    store = Store(paths.cache_dir())
    return [kernel for kernel in kernels if re.fullmatch(r"[0-9a-f]{8,}", kernel) and store.find(kernel) is not None]


def prepared(samples: Mapping[str, Path]) -> list[str]:
    """The kernels of `samples` that this host opens at once: it has their image and debuginfo, or an image with both.

    `samples` has a dump of each kernel.
    """
    from sandbox import image as images
    from sandbox.engine import connect, labels
    from sandbox.profiles import select

    found: list[str] = []
    with suppress(VmboxError), closing(connect(config.current().engine)) as engine:
        whole = {one.labels.get(labels.KERNEL_BUILD_ID) for one in engine.images({labels.IMAGE: labels.KERNEL_IMAGE})}
        there = set(holding(list(samples)))
        for kernel, dump in samples.items():
            with suppress(VmboxError, OSError):
                if kernel in whole or (
                    kernel in there
                    and engine.image(images.reference(select(identify(dump, log=False)).crash_from)) is not None
                ):
                    found.append(kernel)
    return found


def _stop(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(143)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)
