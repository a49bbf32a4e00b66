"""The idle limit of a case: written down where the case cannot reach it, and kept by a process of the host.

A case watches its limit itself, and a dump that took it over can stop that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sandbox.case import keeper
from sandbox.case.places import SESSION
from sandbox.model import Case


def record(case: Case, seconds: int) -> None:
    """Writes down how long a case may be unused; 0: for ever."""
    (case.directory / keeper.LIMIT).write_text(str(seconds))
    keeper.wake(keeper.reach(str(case.directory)))


def keep(case: Case, process: int) -> None:
    """Start the keeper of a case that was just opened. `process` is the container's first one; 0 if it is not known."""
    descriptor = -1 if case.remote else _first_process(process)
    close_it = [sys.executable, "-P", "-m", "sandbox.case.overdue", str(case.directory)]
    argv = [sys.executable, "-I", "-S", keeper.__file__, str(case.directory), str(descriptor), *close_it]
    search = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    try:
        # By a shell, which ends at once: the keeper outlives this process, and leaves no zombie in one that lives on.
        subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" &', "sh", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor] if descriptor >= 0 else [],
            env={**os.environ, "PYTHONPATH": search},
            cwd="/",
            start_new_session=True,
            check=False,
        )
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _first_process(process: int) -> int:
    """A descriptor of a container's first process, or -1: an engine in a virtual machine has other numbers."""
    if process <= 0 or not hasattr(os, "pidfd_open"):
        return -1
    try:
        descriptor = os.pidfd_open(process)
    except OSError:  # before Linux 5.3, too
        return -1
    try:
        place = Path(f"/proc/{process}")
        names = dict(line.split(":", 1) for line in (place / "status").read_text(errors="replace").splitlines())
        if names.get("NSpid", "").split()[-1:] == ["1"] and SESSION.encode() in (place / "cmdline").read_bytes():
            return descriptor
    except (OSError, ValueError):
        pass
    os.close(descriptor)
    return -1
