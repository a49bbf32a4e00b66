"""Ask a debugger who waits for whom: `vmbox waits`, and the part `waits` of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.case.options import OpenOptions
from sandbox.debuginfo.modules import module_name
from sandbox.errors import SessionFailed, VmboxError
from sandbox.explain import wait_facts
from sandbox.explain.waits import Waits, explain
from sandbox.progress import QUIET, Reporter
from sandbox.report.shipped_scripts import SCRIPTED, module_files, read_module, run_shipped, scripted_session
from sandbox.session.session import Session
from sandbox.session.start import open_session

_MOST_MODULES: Final = 4


def waits_of(
    dump: Path,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    modules: Sequence[Path] = (),
    timeout: float = 60,
) -> Waits:
    """Read who waits for whom in a dump. `modules` are debug files, by which locks in modules get names.

    Raises as opening does, and `SessionFailed` where the answer is not understood.
    """
    session, _ = open_session(dump, replace(options, debugger=SCRIPTED.name), reporter)
    with session:
        return read(session, modules=modules, timeout=timeout)


def read(session: Session, *, modules: Sequence[Path] = (), timeout: float) -> Waits:
    """Raises `SessionFailed` where the answer is not understood, and as a session does."""
    files: dict[str, bytes] = {}
    dump = session.case.dump
    for path, below in (*((one, None) for one in modules), *((one, dump.parent) for one in module_files(dump))):
        name = module_name(path.name)
        if name is not None and name not in files and len(files) < _MOST_MODULES:
            files[name] = read_module(path, below=below)
    given = files.keys() & {module_name(path.name) for path in modules}
    with scripted_session(session) as scripted:
        doubt = scripted.doubt
        answer = run_shipped(scripted, "waits", wait_facts.script(), wait_facts.request(files, given), timeout=timeout)
    try:
        return explain(wait_facts.read(answer), doubt=doubt)
    except ValueError as error:
        raise SessionFailed("the answer about blocked tasks is not understood", detail=str(error)) from error


def read_or_why(session: Session, *, timeout: float) -> tuple[Waits | None, str | None]:
    """For a report: what was read, or the reason why nothing was."""
    try:
        return read(session, timeout=timeout), None
    except VmboxError as error:
        return None, f"{SCRIPTED.name} did not read who waits: {error.message}"
