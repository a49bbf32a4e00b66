"""Ask a debugger what a fault left behind, and explain it: `vmbox explain`, and the part `fault` of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.case.dumps import identify, witness
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.debuginfo.modules import module_name
from sandbox.errors import UsageError, VmboxError
from sandbox.explain import facts as readers, oops as oopses, source
from sandbox.explain.fault import Readings, explain
from sandbox.explain.inspection import inspect
from sandbox.explain.model import Fault
from sandbox.explain.oops_lines import Oops
from sandbox.host import paths
from sandbox.judge.log import unproven
from sandbox.model import DumpFormat, Vmcore
from sandbox.progress import QUIET, Reporter
from sandbox.report.shipped_scripts import SCRIPTED, module_files, read_module, run_shipped, scripted_session
from sandbox.session import choice, module_debuginfo
from sandbox.session.session import Session
from sandbox.session.start import open_session

_MOST_MODULES: Final = 4


def explain_dump(
    dump: Path,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    sources: Path | None = None,
    modules: Sequence[Path] = (),
    timeout: float = 60,
) -> Fault | None:
    """Explain the fault of a dump, or of a log without its dump. None where nothing in it failed.

    `sources` is a directory with the kernel's or a module's source, or a package of it. `modules` are debug files
    (NAME.ko) of modules that no debug package has; those beside the dump are found. Where no debugger opens the dump,
    its log is explained, and `Fault.unknown` has the reason. Raises `VmboxError` when there is no dump to identify, and
    for a bad argument.
    """
    if sources is not None and not source.can_read(sources):
        raise UsageError(
            f"{sources} is neither a directory nor a package of source",
            hint="--source, a checkout, a debugsource RPM, linux-source",
        )
    for module in modules:
        read_module(module)
    vmcore = identify(dump)
    unread = None
    try:
        log = witness(dump, vmcore, unpacked=paths.unpacked_dir()).kernel
    except VmboxError as error:
        log, unread = (), error
    debugger: Debugger | None = DEFAULT
    if vmcore.format is DumpFormat.LOG:
        debugger = None
        readings = Readings(why="it is a log without its dump")
    else:
        try:
            session, _ = open_session(dump, replace(options, debugger=SCRIPTED.name), reporter)
            with session:
                readings = read(session, vmcore, log, modules=modules, reporter=reporter, timeout=timeout)
                debugger = DEBUGGERS[(choice.kept(session.case) or choice.by_kernel(session.case)).debugger]
        except VmboxError as error:
            if unread is not None:
                raise
            readings = Readings(why=f"no debugger read the dump: {error.message}")
    found = explain(log, arch=vmcore.arch, readings=readings, taint=vmcore.taint, panic=vmcore.panic, debugger=debugger)
    if found is None and unread is not None:
        raise unread
    if found is not None and debugger is None and (why := unproven(log)) is not None:
        found = replace(found, unknown={**found.unknown, "panic": why})
    if found is None or sources is None:
        return found
    return with_source(found, sources)


def with_source(fault: Fault, where: Path) -> Fault:
    """The fault with the lines of source around it, if `where`, a directory or a package, has the file.

    Else the reason is in `unknown`.
    """
    if not fault.frames:
        return replace(fault, unknown={**fault.unknown, "source": "the line of the fault is not known"})
    frame = fault.frames[0]
    try:
        return replace(fault, source=source.excerpt(where, frame.file, frame.line))
    except LookupError as error:
        return replace(fault, unknown={**fault.unknown, "source": str(error)})


def read_dump(session: Session, dump: Path, reporter: Reporter, *, timeout: float) -> Readings:
    """Read of the dump what explains the end of its own log. What fails is the `why` of the result."""
    try:
        vmcore = identify(dump)
        log = witness(dump, vmcore, unpacked=paths.unpacked_dir()).kernel
    except VmboxError as error:
        return Readings(why=f"its log was not read: {error.message}")
    return read(session, vmcore, log, reporter=reporter, timeout=timeout)


def read(
    session: Session,
    vmcore: Vmcore,
    log: Sequence[str],
    *,
    modules: Sequence[Path] = (),
    reporter: Reporter = QUIET,
    timeout: float,
) -> Readings:
    """Read of the dump what explains the end of its `log`. What fails is the `why` of the result."""
    found = oopses.find(log)
    oops = found.last
    try:
        with scripted_session(session) as scripted:
            doubt = scripted.doubt
            files = _modules(scripted, found.lines, oops, modules, reporter) if oops else {}
            request = readers.fault_request(oops, vmcore.arch, files)
            code = readers.script()
            facts = readers.read_facts(run_shipped(scripted, "explain", code, request, timeout=timeout))
            values = None
            if oops is not None and facts.pc is not None:
                seen = inspect(oops, facts, vmcore.arch)
                request = readers.values_request(oops, addresses=seen.addresses, members=seen.members, words=seen.words)
                values = readers.read_values(run_shipped(scripted, "explain", code, request, timeout=timeout))
                if (len(values.members), len(values.words)) != (len(seen.members), len(seen.words)):
                    raise ValueError("another number of answers")  # noqa: TRY301 - as an answer that is no JSON
    except VmboxError as error:
        return Readings(why=f"{SCRIPTED.name} did not read the fault: {error.message}")
    except ValueError as error:
        return Readings(why=f"the answer of {SCRIPTED.name} is not understood: {error}")
    return Readings(facts=facts, values=values, doubt=doubt)


def _modules(
    session: Session, lines: Sequence[str], oops: Oops, given: Sequence[Path], reporter: Reporter
) -> dict[str, bytes | None]:
    """The modules on the stack that faulted: their debug files, if they are at hand and in no debug package.

    The debugger takes a file only if its build-id is that of the module in the dump.
    """
    names = [oops.place.module if oops.place else None, *(one.module for one in oopses.frames(lines, oops))]
    spelled = dict.fromkeys(name.replace("-", "_") for name in names if name is not None)
    dump = session.case.dump
    found: dict[str, bytes | None] = {}
    for name in list(spelled)[:_MOST_MODULES]:
        path = next((one for one in (*given, *module_files(dump)) if module_name(one.name) == name), None)
        below = None if path in given else dump.parent
        found[name] = None if path is None else read_module(path, below=below)
    wanted = frozenset(name for name, content in found.items() if content is None and name not in oops.modules)
    if wanted and module_debuginfo.any_missing(session.case, wanted):
        module_debuginfo.fetch(session.case, wanted, reporter)
    return found
