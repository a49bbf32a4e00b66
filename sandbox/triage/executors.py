"""Where jobs are done: processes of this host, or workers of a Dask cluster. Both are `concurrent.futures` executors.

Sole importer of distributed, an optional extra: vmbox-crash[cluster].
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

from sandbox.errors import ConfigurationError, missing_extra
from sandbox.host import config
from sandbox.progress import QUIET, Reporter
from sandbox.triage import worker
from sandbox.triage.model import JobResult, ReportJob

HERE: Final = "here"
_ROOM: Final = 4 << 30
"""Bytes of memory a case should have: crash on the dump of a large machine."""

_RETRIES: Final = 2
"""How often a cluster does a job again that raised; a lost worker's are done again anyway, by Dask's own count."""

_PATIENCE: Final = 30.0
"""Seconds that stopped jobs have to close their cases."""


class Pool(Protocol):
    """Places with room for so many jobs each."""

    def places(self) -> Mapping[str, int]:
        """How many jobs each place takes at once. May change: workers come and go."""

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        """(place, kernel) where what a kernel needs is at hand, of an earlier day. `samples` has a dump of each."""

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:
        """Does the job, at that place if it still is there."""

    def renew(self) -> None:
        """After a `BrokenExecutor`: makes it usable again."""

    def close(self, *, stop: bool) -> None:
        """Ends it; `stop` also ends what is under way, which closes its cases."""


class ProcessPool:
    """Processes on this host, each with its share of memory and processors."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._executor = self._new()

    def _new(self) -> ProcessPoolExecutor:
        # Not forked: this process has threads of the executor's and of whoever draws progress.
        return ProcessPoolExecutor(
            self._jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=worker.init_worker,
            initargs=(worker.shares(self._jobs),),
        )

    def places(self) -> Mapping[str, int]:
        return {HERE: self._jobs}

    def holding(self, samples: Mapping[str, Path]) -> set[tuple[str, str]]:
        # There is no other place to choose, and an image that is missing is made by one while others wait for it.
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
    """The workers of a Dask cluster: hosts that have vmbox and an engine, and see the dumps at the same paths."""

    def __init__(self, address: str, reporter: Reporter = QUIET) -> None:
        """Raises `ConfigurationError` when there is no such cluster, or no library for it."""
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
        # A worker that leaves while it is asked holds nothing.
        held = self._client.run(worker.prepared, dict(samples), on_error="ignore")
        return {(place, kernel) for place, some in held.items() for kernel in some}

    def submit(self, job: ReportJob, place: str) -> Future[JobResult]:
        executor = self._client.get_executor(
            workers=[place],
            # Should it be lost, another does the job.
            allow_other_workers=True,
            pure=False,
            retries=_RETRIES,
        )
        # The threads of a worker share its host, as processes of ours do this one.
        # An engine that our settings name is this host's: each worker has its own.
        options = replace(job.options, engine=None) if job.options.engine == config.current().engine else job.options
        neighbours = max(1, self._client.nthreads().get(place, 1))
        job = replace(job, options=options, settings=config.overrides(), neighbours=neighbours)
        future: Future[JobResult] = executor.submit(
            worker.run_job, job, key=f"report-{job.entry.key}-{time.monotonic_ns()}"
        )
        return future

    def renew(self) -> None: ...

    def close(self, *, stop: bool) -> None:  # noqa: ARG002 - what was asked of it is cancelled when nobody holds it
        self._client.close(timeout=5)


def fitting_jobs() -> int:
    """How many jobs this host takes at once."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory * 3 // 4 // _ROOM))
