"""Places that run jobs: processes of this host, or workers of a Dask cluster. Both are `concurrent.futures` executors.

The only importer of distributed, an optional extra: vmbox-crash[cluster].
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from sandbox import log
from sandbox.errors import ConfigurationError, missing_extra
from sandbox.host import config
from sandbox.progress import QUIET, Reporter
from sandbox.triage import worker
from sandbox.triage.model import JobResult, ReportJob

HERE: Final = "here"
_ROOM: Final = 4 << 30
"""Bytes of memory that a case should have, for crash on the dump of a large machine."""

_RETRIES: Final = 2
"""How often a cluster retries a job that raised. Dask counts jobs of lost workers separately."""

_PATIENCE: Final = 30.0
"""Seconds in which stopped jobs can close their cases."""


class Pool(Protocol):
    """Places that run jobs."""

    def places(self) -> Mapping[str, int]:
        """Number of jobs that each place runs at once. It may change: workers are added and removed."""

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        """Pairs (place, kernel) where the place already has what the kernel needs. `samples` has a dump of each."""

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:
        """Run the job, at `place` if that still exists."""

    def renew(self) -> None:
        """Make it usable again after a `BrokenExecutor`."""

    def close(self, *, stop: bool) -> None:
        """End it. `stop` also ends running jobs, which close their cases."""


class ProcessPool:
    """Processes on this host, each with its share of memory and processors."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._executor = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Not forked, because this process has threads: those of the executor and of the progress display.
        return ProcessPoolExecutor(
            self._jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker.init_worker,
            initargs=(worker.shares(self._jobs), log.level()),
        )

    def places(self) -> Mapping[str, int]:
        return {HERE: self._jobs}

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        # There is only one place. A missing image is made by one job while the others wait for it.
        return {(HERE, kernel) for kernel in worker.holding(list(samples))}

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:  # noqa: ARG002 - there is one
        return self._executor.submit(worker.run_job, job)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Any:
        return self._executor.map(function, values, chunksize=8)

    def renew(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._new()

    def close(self, *, stop: bool) -> None:
        workers = multiprocessing.active_children() if stop else []
        for process in workers:
            with suppress(OSError):
                process.terminate()
        deadline = time.monotonic() + _PATIENCE
        self._executor.shutdown(wait=not stop, cancel_futures=True)
        for process in workers:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.pid is not None and process.is_alive():
                with suppress(OSError):
                    os.kill(process.pid, signal.SIGKILL)


class DaskPool:
    """The workers of a Dask cluster: hosts with vmbox and an engine, and with the dumps at the same paths."""

    def __init__(self, address: str, reporter: Reporter = QUIET) -> None:
        """Connect to the cluster. Raises `ConfigurationError` if there is none, or if its library is missing."""
        self._reporter = reporter
        self._empty = False
        try:
            from distributed import Client
        except ImportError as error:
            raise missing_extra("a cluster", "cluster", "distributed") from error
        try:
            self._client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigurationError(
                f"no Dask scheduler answers at {address}", hint="dask scheduler, and on each host: dask worker ADDRESS"
            ) from error

    def places(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self._client.nthreads()
        if bool(found) is self._empty:
            self._empty = not found
            if self._empty:
                self._reporter.notice("the cluster has no worker: waiting for one; on a host: dask worker ADDRESS")
        return found

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        # A worker that disappears meanwhile holds nothing.
        held = self._client.run(worker.prepared, dict(samples), on_error="ignore")
        return {(place, kernel) for place, some in held.items() for kernel in some}

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:
        executor = self._client.get_executor(
            workers=[place],
            # If it is lost, another worker runs the job.
            allow_other_workers=True,
            pure=False,
            retries=_RETRIES,
        )
        # The threads of a worker share its host, as our processes share this one.
        # An engine from our settings is this host's: each worker has its own.
        options = replace(job.options, engine=None) if job.options.engine == config.current().engine else job.options
        neighbours = max(1, self._client.nthreads().get(place, 1))
        job = replace(job, options=options, settings=config.overrides(), neighbours=neighbours)
        future: Future[JobResult] = executor.submit(
            worker.run_job, job, key=f"report-{job.entry.key}-{time.monotonic_ns()}"
        )
        return future

    def renew(self) -> None: ...

    def close(self, *, stop: bool) -> None:  # noqa: ARG002 - Dask cancels futures that are no longer referenced
        self._client.close(timeout=5)


def fitting_jobs() -> int:
    """Number of jobs that this host runs at once."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory * 3 // 4 // _ROOM))
