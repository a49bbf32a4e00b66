"""Triage many dumps: identify, group by kernel, report in parallel, make one table. Resumable at any point."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sandbox.case.options import OpenOptions
from sandbox.errors import (
    BaseImageUnavailable,
    CommandTimeout,
    DebuginfoMismatch,
    DebuginfoNotFound,
    DumpDamaged,
    DumpNotFound,
    DumpUnreadable,
    EvidenceChanged,
    ImageBuildFailed,
    NotADump,
    SessionDied,
    SessionFailed,
    UnknownKernel,
    UsageError,
    VmboxError,
)
from sandbox.host import config
from sandbox.host.files import refuse_planted
from sandbox.host.locks import locked
from sandbox.progress import QUIET, Reporter, Step
from sandbox.report import write
from sandbox.triage import journal, table
from sandbox.triage.executors import DaskPool, Pool, ProcessPool, fitting_jobs
from sandbox.triage.journal import Journal
from sandbox.triage.model import DumpEntry, JobResult, ReportJob, Row, RowStatus, entry, unidentified
from sandbox.triage.worker import failed

_ELSEWHERE: Final = "choose another directory with -o"
_TRIES: Final = 3
"""How often a job is started if its worker dies."""

_LACKING: Final = frozenset(
    kind.exit_code
    for kind in (UnknownKernel, BaseImageUnavailable, ImageBuildFailed, DebuginfoNotFound, DebuginfoMismatch)
)
"""Statuses that are the same for every dump of a kernel: no profile, image or debuginfo is available."""

_OF_THE_DUMP: Final = frozenset(
    kind.exit_code
    for kind in (
        *(DumpNotFound, DumpUnreadable, NotADump, DumpDamaged, UnknownKernel, EvidenceChanged),
        *(SessionFailed, SessionDied, CommandTimeout),
    )
)
"""Statuses that a second run would repeat: the cause is the file itself."""

_REFRESH: Final = 20.0
"""Seconds between updates of the table."""


def triage(
    paths: Sequence[Path],
    output: Path,
    options: OpenOptions | None = None,
    reporter: Reporter = QUIET,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout: float = 60,
    again: bool = False,
) -> table.Index:
    """Report on `paths` (see `discovery.find`) into the directory `output`: index.html, index.json and reports/.

    Keeps the reports that an earlier run into the same directory finished, unless `again`. `scheduler` is the address
    of a Dask cluster; without one, `jobs` processes of this host do the work, by default as many as fit.
    Raises `UsageError` if `output` cannot be written, and KeyboardInterrupt after writing the table so far.
    """
    config.time_limit(timeout)
    if not _made(output / "reports"):
        raise UsageError(f"{output} cannot be written", hint=_ELSEWHERE)
    _check_names(output)
    with locked(output / ".lock", reporter, f"a triage into {output}"):
        local = None if scheduler else ProcessPool(jobs or fitting_jobs())
        pool: Pool = local or DaskPool(scheduler or "", reporter)
        stop = True
        try:
            options = options or OpenOptions()
            if local is None:
                # An engine's address is of this host; each host of a cluster has its own.
                options = replace(options, engine=None)
            entries = _identified(paths, local, reporter)
            fleet = _Scheduler(output=output, pool=pool, options=options, timeout=timeout, reporter=reporter)
            try:
                fleet.run(entries, again=again)
            except KeyboardInterrupt:
                reporter.notice("closing open cases; the same command continues from here")
                pool.close(stop=True)
                raise
            finally:
                table = fleet.publish(final=True)
            stop = False
        finally:
            pool.close(stop=stop)
        return table


def _made(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _check_names(output: Path) -> None:
    """Raises `UsageError` where a name leads elsewhere: the directory may be in a stranger's one of dumps."""
    if (output / "reports").is_symlink():
        raise UsageError(f"{output / 'reports'} is a link, and is not followed", hint=_ELSEWHERE)
    for name in (journal.NAME, ".lock"):
        # These are written to and not replaced.
        refuse_planted(output / name, hint=_ELSEWHERE, several_names=False)
    for name in table.NAMES:
        refuse_planted(output / name, hint=_ELSEWHERE)


def _identified(paths: Sequence[Path], local: ProcessPool | None, reporter: Reporter) -> list[DumpEntry]:
    found: list[DumpEntry] = []
    parts: set[str] = set()
    with reporter.step("Identifying", total=len(paths)) as step:
        # A few dumps are identified faster than a process starts.
        for one in map(entry, paths) if local is None or len(paths) < 32 else _beside(paths, local):
            step.advance(1)
            if one.dump in parts:
                continue  # part of a split dump that is already listed
            parts.update(one.files)
            found.append(one)
    return found


def _beside(paths: Sequence[Path], local: ProcessPool) -> Iterator[DumpEntry]:
    """Yield the `entry` of each path, made in other processes. A dump that kills its process gets a failed entry."""
    done = 0
    try:
        for one in local.map(entry, paths):
            done += 1
            yield one
    except BrokenExecutor:
        for path in paths[done:]:
            try:
                (one,) = local.map(entry, [path])
            except BrokenExecutor:
                local.renew()
                try:
                    (one,) = local.map(entry, [path])
                except BrokenExecutor:
                    local.renew()
                    one = unidentified(
                        path,
                        "the process that read it was killed, most likely for lack of memory",
                        VmboxError.exit_code,
                    )
            yield one


@dataclass(slots=True, kw_only=True)
class _Scheduler:
    output: Path
    pool: Pool
    options: OpenOptions
    timeout: float
    reporter: Reporter
    rows: dict[str, Row] = field(default_factory=dict)
    """By key, in the order of the dumps."""
    waiting: dict[str | None, deque[DumpEntry]] = field(default_factory=lambda: defaultdict(deque))
    """By kernel."""
    retry_alone: deque[DumpEntry] = field(default_factory=deque)
    """Dumps whose worker died. Each is retried alone, because one of them may be the cause."""
    tries: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    in_flight: dict[Future[JobResult], tuple[DumpEntry, str]] = field(default_factory=dict)
    ready: set[tuple[str, str]] = field(default_factory=set)
    """(place, kernel): the place has image and debuginfo."""
    provisioning: set[tuple[str, str]] = field(default_factory=set)
    """(place, kernel): the kernel's first dump is getting them."""
    order: list[str] = field(default_factory=list)
    """Keys in the order in which the dumps were found, which is the order of the table."""
    evidence: Sequence[Path] = ()
    """All files of all dumps."""
    journal: Journal = field(init=False)
    unavailable: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Kernels whose image or debuginfo is not available: the reason, and its status."""
    without_debuginfo: dict[str, str] = field(default_factory=dict)
    """Kernels of which a dump was read without debuginfo, because there is none: the reason. It is searched once."""

    def run(self, entries: Sequence[DumpEntry], *, again: bool) -> None:
        self.evidence = [file for one in entries for file in _files(one)]
        self.journal = Journal(self.output, self.evidence, self.reporter)
        earlier = {} if again else {row.key: row for row in self.journal.rows()}
        self.order = [one.key for one in entries]
        for one in entries:
            row = earlier.get(one.key)
            if row is not None and row.stamp == one.stamp and self._stays(row):
                self.rows[one.key] = row
            elif one.problem is not None:
                self._note(failed(one, one.problem, one.exit_code))
            else:
                self.waiting[one.kernel].append(one)
        left = sum(map(len, self.waiting.values()))
        if left and not self.options.no_debuginfo:
            samples = {kernel: dumps[0] for kernel, dumps in self.waiting.items() if kernel and dumps}
            self.ready |= self.pool.holding({kernel: one.path or Path(one.dump) for kernel, one in samples.items()})
        if len(entries) > left:
            self.reporter.notice(f"{len(entries)} dumps, {left} of them to be reported")
        with self.reporter.step("Reports", total=left) as step:
            self._drive(step, left)

    def _drive(self, step: Step, left: int) -> None:
        began = published = time.monotonic()
        done = 0
        while self.in_flight or self.retry_alone or any(self.waiting.values()):
            self._dispatch()
            for future in wait(self.in_flight, timeout=1, return_when=FIRST_COMPLETED).done:
                if self._take(future):
                    done += 1
                    step.advance(1)
                    step.detail(_eta(time.monotonic() - began, done, left))
            if time.monotonic() - published > _REFRESH:
                self.publish(final=False)
                published = time.monotonic()

    def _dispatch(self) -> None:
        if self.retry_alone:
            if not self.in_flight:
                place = next(iter(self.pool.places()), None)
                if place is not None:
                    self._submit(self.retry_alone.popleft(), place)
            return
        for place, room in self.pool.places().items():
            free = room - sum(1 for _, where in self.in_flight.values() if where == place)
            while free > 0 and (one := self._next(place)) is not None:
                self._submit(one, place)
                free -= 1

    def _next(self, place: str) -> DumpEntry | None:
        """The next dump for `place`: of a kernel that it has, that no place has, or that has many dumps waiting."""
        some = (kernel for kernel, dumps in self.waiting.items() if dumps)
        by_size = sorted(some, key=lambda one: -len(self.waiting[one]))
        free = [one for one in by_size if one is None or (place, one) in self.ready or self._needs_nothing(one)]
        if free:
            return self.waiting[free[0]].popleft()
        held = self.ready | self.provisioning
        fresh = [one for one in by_size if not any(kernel == one for _, kernel in held)]
        here = set(self.pool.places())
        shared = [
            one
            for one in by_size
            if (place, one) not in self.provisioning
            and len(self.waiting[one]) > 2 * sum(1 for where, kernel in held if kernel == one and where in here)
        ]
        for one in (*fresh, *shared):
            if one is not None:
                self.provisioning.add((place, one))
            return self.waiting[one].popleft()
        return None

    def _needs_nothing(self, kernel: str) -> bool:
        """Whether nothing has to be got for the kernel's dumps."""
        return self.options.no_debuginfo or kernel in self.unavailable or kernel in self.without_debuginfo

    def _submit(self, one: DumpEntry, place: str) -> None:
        why, status = self.unavailable.get(one.kernel or "", (None, 0))
        options = self.options
        if (lacking := self.without_debuginfo.get(one.kernel or "")) is not None:
            options = replace(options, no_debuginfo=True, no_debuginfo_reason=lacking)
        job = ReportJob(
            entry=one, options=options, timeout=self.timeout, without_crash=why, without_crash_status=status
        )
        self.tries[one.key] += 1
        try:
            self.in_flight[self.pool.submit(job, place)] = (one, place)
        except BrokenExecutor:
            self.retry_alone.append(one)
            self.pool.renew()

    def _take(self, future: Future[JobResult]) -> bool:
        """Take the result of a job. Returns False if it will be retried."""
        one, place = self.in_flight.pop(future)
        if one.kernel is not None:
            self.provisioning.discard((place, one.kernel))
        try:
            made = future.result()
        except (BrokenExecutor, CancelledError) as error:
            if self.tries[one.key] < _TRIES:
                self.retry_alone.append(one)
                if isinstance(error, BrokenExecutor) and not self.in_flight:
                    self.pool.renew()
                return False
            self._note(
                failed(
                    one,
                    "the process that made its report was killed, most likely for lack of memory",
                    VmboxError.exit_code,
                )
            )
            if isinstance(error, BrokenExecutor) and not self.in_flight:
                self.pool.renew()
            return True
        except Exception as error:  # noqa: BLE001 - a cluster raises its own; one bad dump never stops the rest
            self._note(failed(one, f"no worker finished it: {error}", VmboxError.exit_code))
            return True
        if one.kernel is not None and made.row.status is RowStatus.OK:
            self.ready.add((place, one.kernel))
        elif one.kernel is not None and made.row.exit_code in _LACKING:
            self.unavailable[one.kernel] = (made.row.problem or "", made.row.exit_code)
        if one.kernel is not None and made.row.no_debuginfo is not None and not self.options.no_debuginfo:
            self.without_debuginfo[one.kernel] = made.row.no_debuginfo
        if made.html is not None and made.json is not None:
            reports, dump = self.output / "reports", _files(one)
            write.write(reports / f"{one.key}.html", made.html, evidence=dump, chosen=True)
            write.write(reports / f"{one.key}.json", made.json, evidence=dump, chosen=True)
        self._note(made.row)
        return True

    def _note(self, row: Row) -> None:
        self.rows[row.key] = row
        self.journal.note(row)

    def _stays(self, row: Row) -> bool:
        if row.report is not None and not (self.output / row.report).exists():
            return False
        if row.no_debuginfo is not None and not self.options.no_debuginfo:
            return False  # a first look, or debuginfo may be there now
        return row.status in {RowStatus.OK, RowStatus.LOG} or row.exit_code in _OF_THE_DUMP

    def publish(self, *, final: bool) -> table.Index:
        """Write the table in its current state."""
        index = table.of(
            tuple(self.rows[key] for key in self.order if key in self.rows),
            left=sum(map(len, self.waiting.values())) + len(self.in_flight),
        )
        table.write(self.output, index, final=final, evidence=self.evidence)
        return index


def _files(one: DumpEntry) -> Sequence[Path]:
    return [one.path or Path(one.dump), *(Path(file) for file in one.files)]


def _eta(seconds: float, done: int, whole: int) -> str:
    left = seconds / done * (whole - done)
    return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
