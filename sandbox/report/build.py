"""Make a report: identify the dump, ask a debugger, read its answers."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from sandbox.case.dumps import identify, witness
from sandbox.case.options import OpenOptions
from sandbox.debugger import COUNT_TASKS, DEBUGGERS, DEFAULT
from sandbox.dump import index_pieces
from sandbox.dump.panic import TAINT
from sandbox.dump.release import classify
from sandbox.errors import DumpNotFound, SessionFailed, VmboxError
from sandbox.explain.fault import Readings, explain as explain_fault
from sandbox.explain.model import Fault
from sandbox.host import config, paths
from sandbox.judge import backtrace, call_trace, stacks, system as judged_system, which_trace
from sandbox.judge.backtrace import INTEGER
from sandbox.judge.log import Witness, log_remark
from sandbox.judge.verdict import Verdict
from sandbox.model import DumpFormat, PanicCause, Vmcore, kernel_version
from sandbox.profiles import makedumpfile
from sandbox.progress import QUIET, Reporter
from sandbox.remote import described
from sandbox.report import kmem, signature, tables
from sandbox.report.causes import explain
from sandbox.report.collect import PARTS, CommandOutputs, collect
from sandbox.report.log_excerpt import excerpt
from sandbox.report.model import SCHEMA_VERSION, Identity, Panic, Report
from sandbox.report.second_opinion import count_tasks
from sandbox.report.timeline import timeline
from sandbox.version import __version__

_TOP: Final = 12
"""Rows of a table of the largest items."""

_LONGEST: Final = 50
"""Rows of tables that could have thousands."""

_HZ: Final = re.compile(rf"^[ \t]*HZ: ({INTEGER})\b", re.MULTILINE)


def make(dump: Path, options: OpenOptions | None = None, reporter: Reporter = QUIET, *, timeout: float = 60) -> Report:
    """Make the report of a dump. If no debugger can open it, the report has what the dump says by itself.

    `Report.problem` then has the reason; and if stacks are missing, which.
    So it is with a log without its dump, which is no failure.

    Raises `VmboxError` only when there is no dump to identify.
    """
    config.time_limit(timeout)
    began = time.monotonic()
    dump = described.local(dump, reporter)
    index_pieces(dump, paths.unpacked_dir(), reporter)
    vmcore = identify(dump, reporter)
    if vmcore.format is DumpFormat.LOG:
        alone = DumpNotFound(f"{described.name(dump)} is a log without its dump, which has the rest", hint="")
        return read(vmcore, None, alone, seconds=time.monotonic() - began)
    try:
        answers, problem = collect(dump, options or OpenOptions(), reporter, timeout=timeout), None
    except VmboxError as error:
        answers, problem = None, error
    return read(vmcore, answers, problem, seconds=time.monotonic() - began)


def read(
    vmcore: Vmcore, answers: CommandOutputs | None, problem: VmboxError | None = None, *, seconds: float = 0.0
) -> Report:
    """Make the report from `answers` or, without them, from the dump alone."""
    texts = answers.texts if answers else {}
    read_log = _log(vmcore, texts)
    # What a program wrote is shown, and is no witness.
    log = read_log.kernel
    system = judged_system.parse(texts.get("sys", ""))
    panicking = _panicking(texts)
    cpus = backtrace.parse(texts.get("bt -a", ""))
    blocked = backtrace.parse(texts.get("foreach UN bt", ""))
    tasks = tables.tasks(texts.get("ps", ""), texts.get("ps -m", ""), texts.get("ps -t", ""), tick=_tick(vmcore, texts))
    verdicts = tuple(_verdicts(vmcore, answers, panicking, system, log)) if answers else ()
    false_stack = any(one.subject == "stack" and one.against == stacks.LOG and not one.agrees for one in verdicts)
    missing = _missing(answers, problem)
    if read_log.refused is not None:
        missing["log"] = read_log.refused
    for part, found in {"backtrace": panicking, "cpus": cpus, "blocked": blocked}.items():
        if found:
            # An error is of one stack, and is shown there.
            missing.pop(part, None)
        elif part != "blocked" and part not in missing:
            missing[part] = f"there is no stack in the answer to {PARTS[part]}"
    told = timeline(read_log.lines, read_log.of_programs)
    fault = _fault(vmcore, answers, problem, log)
    if fault is None:
        missing["fault"] = "the log has neither an oops nor a panic"
    if answers is None or answers.waits is None:
        missing["waits"] = (answers.no_waits if answers else None) or missing["blocked"]
    problem = problem or _missing_stacks(missing)
    if log:
        # The dump's own log is read without a debugger.
        missing.pop("log", None)
    return Report(
        schema_version=SCHEMA_VERSION,
        vmbox_version=__version__,
        made=datetime.now(UTC).replace(microsecond=0),
        seconds=round(seconds, 3),
        problem=None if problem is None else _sentence(problem),
        # Of a log nothing is missing that it could have.
        exit_code=0 if problem is None or vmcore.format is DumpFormat.LOG else problem.exit_code,
        identity=_identity(vmcore, answers, system, tables.hardware(texts.get("sys -i", ""))),
        panic=Panic(
            cause=vmcore.cause,
            words=explain(vmcore.cause),
            message=vmcore.panic or _unquoted(system),
            taint=_taint(vmcore, texts),
        ),
        signature=signature.of(
            cause=vmcore.cause,
            # A stack that the kernel contradicts would make another bug of it.
            backtrace=None if false_stack else _guilty(vmcore, panicking, blocked, log),
            log=log,
            panic=vmcore.panic,
        ),
        timeline=told,
        fault=fault,
        backtrace=panicking,
        verdicts=verdicts,
        log_remark=log_remark(vmcore, log),
        lost_pages=_lost_pages(vmcore, answers, problem),
        cpus=cpus,
        blocked=blocked[:_LONGEST],
        waits=answers.waits if answers else None,
        load=_load(system),
        memory=kmem.totals(texts.get("kmem -i", ""), vmcore.page_size or 4096),
        slab=kmem.slab_caches(texts.get("kmem -s", ""))[:_TOP],
        tasks_total=len(tasks),
        states=dict(Counter(task.state for task in tasks).most_common()),
        active_tasks=tuple(task for task in tasks if task.active),
        waiting_tasks=tuple(
            sorted((task for task in tasks if task.state == "UN"), key=lambda task: -(task.waited or 0))
        )[:_LONGEST],
        by_memory=_top((task for task in tasks if task.resident), lambda task: task.resident or 0),
        by_time=_top((task for task in tasks if task.ran), lambda task: task.ran or 0),
        run_queues=tables.run_queues(texts.get("runq", ""))[:200],
        log=excerpt(read_log.lines, told, read_log.of_programs),
        log_lines=len(read_log.lines),
        modules=tables.modules(texts.get("mod", ""), texts.get("mod -t", "")),
        mounts=tables.mounts(texts.get("mount", "")),
        network=tables.network(texts.get("net", "")),
        interrupts=tables.interrupts(texts.get("irq -s", ""))[:_LONGEST],
        disks=tables.disks(texts.get("dev -d", "")),
        missing=missing,
        commands=answers.runs if answers else (),
    )


def _fault(
    vmcore: Vmcore, answers: CommandOutputs | None, problem: VmboxError | None, log: Sequence[str]
) -> Fault | None:
    readings = answers.readings if answers else Readings(why=problem.message if problem else "no debugger was asked")
    name = (answers.case if answers else {}).get("debugger", "")
    debugger = None if vmcore.format is DumpFormat.LOG else DEBUGGERS.get(name, DEFAULT)
    return explain_fault(
        log, arch=vmcore.arch, readings=readings, taint=vmcore.taint, panic=vmcore.panic, debugger=debugger
    )


def _sentence(problem: VmboxError) -> str:
    return f"{problem.message}: {problem.detail.strip()}" if problem.detail else problem.message


def _identity(
    vmcore: Vmcore, answers: CommandOutputs | None, system: Mapping[str, str], hardware: str | None
) -> Identity:
    case = answers.case if answers else {}
    return Identity(
        dump=described.name(vmcore.path),
        size=vmcore.size,
        format=f"{vmcore.format}, flattened" if vmcore.flattened else vmcore.format,
        release=vmcore.release,
        version=vmcore.utsname_version,
        arch=vmcore.arch,
        vendor=vmcore.vendor,
        kernel_class=classify(vmcore.release, vmcore.utsname_version).klass if vmcore.release else None,
        build_id=vmcore.build_id,
        hardware=vmcore.hardware or hardware,
        host=system.get("NODENAME"),
        cpus=vmcore.nr_cpus,
        crash_time=vmcore.crash_time,
        uptime_seconds=vmcore.uptime_seconds,
        dump_level=vmcore.dump_level,
        complete=vmcore.complete,
        incomplete_reason=vmcore.incomplete_reason,
        proof=case.get("proof"),
        profile=case.get("profile"),
        engine=case.get("engine"),
        doubt=answers.case.get("doubt") or None if answers else None,
        no_debuginfo=case.get("no_debuginfo") or None,
        mode=answers.mode if answers else None,
        debugger=case.get("debugger"),
        debugger_reason=case.get("reason"),
        origins=vmcore.origins,
    )


def _taint(vmcore: Vmcore, texts: Mapping[str, str]) -> tuple[str, ...] | None:
    """The taint that the kernel printed or, without a printed "Tainted:", the taint in its memory."""
    if vmcore.taint is not None:
        return vmcore.taint
    letters = tables.taint(texts.get("sys -t", ""))
    return None if letters is None else tuple(TAINT.get(one, one) for one in letters if one.isalpha() and one != "G")


def _log(vmcore: Vmcore, texts: Mapping[str, str]) -> Witness:
    """The log, or the reason why the one beside the dump is not believed.

    It is read without the debugger where that can be: a judge must not ask the one that is judged.
    """
    try:
        read = witness(vmcore.path, vmcore)
    except VmboxError:
        read = Witness()
    if not read.lines and (text := texts.get("log")):
        return Witness(lines=text.splitlines())
    return read


def _against_second(answers: CommandOutputs, panicking: backtrace.Backtrace | None, by: str) -> Iterator[Verdict]:
    """Stack and number of tasks by the other debugger, where it was asked."""
    if (second := answers.second) is None:
        return
    others = backtrace.parse(second.texts.get("bt", ""))
    if panicking is not None and others:
        verdict = stacks.between(panicking, others[0], by=by, against=second.by)
        if verdict is not None:
            yield verdict
    mine, other = (count_tasks(texts.get("ps", "")) for texts in (answers.texts, second.texts))
    if mine and other:
        words = f"{by} finds {mine} tasks, {second.by} {other}"
        yield Verdict(subject="tasks", agrees=mine == other, by=by, against=second.by, words=words)


def _lost_pages(vmcore: Vmcore, answers: CommandOutputs | None, problem: VmboxError | None) -> str | None:
    """What a fault of makedumpfile means for this dump, if an answer says that a page of the kernel is missing."""
    said = [run.output for run in answers.runs] if answers else []
    said += [problem.detail or ""] if problem else []
    if not any(map(makedumpfile.misses_kernel_page, said)):
        return None
    return makedumpfile.explain(vmcore.release, vmcore.dump_level)


def _verdicts(
    vmcore: Vmcore,
    answers: CommandOutputs,
    panicking: backtrace.Backtrace | None,
    system: Mapping[str, str],
    log: Sequence[str],
) -> Iterator[Verdict]:
    """What the judge finds of the stacks, of DATE, UPTIME and TASKS."""
    by = answers.case.get("debugger") or DEFAULT.name
    asked = {run.command: run.debugger for run in answers.runs}
    stack_by = asked.get("bt -l", by)
    trace = which_trace.dump_trace(log)
    if panicking is not None and trace is not None:
        verdict = stacks.judge_task(panicking, trace, by=stack_by)
        if verdict is not None:
            yield verdict
    if hung := which_trace.still_blocked(log):
        blocked = backtrace.parse(answers.texts.get("foreach UN bt", ""))
        for one in hung:
            judged = (stacks.judge(stack, one, by=asked.get("foreach UN bt", by)) for stack in blocked)
            yield from islice(filter(None, judged), 1)
    yield from _against_second(answers, panicking, by)
    counted = answers.texts.get(COUNT_TASKS)
    yield from judged_system.judge(system, crash_time=vmcore.crash_time, log=log, counted=counted, by=by)


def _panicking(texts: Mapping[str, str]) -> backtrace.Backtrace | None:
    found = backtrace.parse(texts.get("bt -l", ""))
    return found[0] if found else None


def _guilty(
    vmcore: Vmcore, panicking: backtrace.Backtrace | None, blocked: Sequence[backtrace.Backtrace], log: Sequence[str]
) -> backtrace.Backtrace | None:
    """The stack that shows the bug: for a hung task its own, not that of the watchdog that panicked."""
    if vmcore.cause is not PanicCause.HUNG_TASK:
        return panicking
    named = call_trace.blocked_pids(log)
    found = next((stack for pid in reversed(named) for stack in blocked if stack.pid == pid), None)
    # Where the debugger has no stack of it, the kernel's trace of it is better than the watchdog's stack.
    return panicking if found is None and which_trace.blocked_trace(log) is None else found


def _missing_stacks(missing: Mapping[str, str]) -> VmboxError | None:
    """The problem of a report without stacks, which are what it is made for."""
    found = [f"{part}: {missing[part]}" for part in ("backtrace", "cpus", "blocked") if part in missing]
    return SessionFailed("stacks are missing", detail="; ".join(found)) if found else None


def _missing(answers: CommandOutputs | None, problem: VmboxError | None) -> dict[str, str]:
    if answers is None:
        why = problem.message if problem else "no debugger was asked"
        return dict.fromkeys(PARTS, why)
    found = {part: answers.missing_reason(command) for part, command in PARTS.items()}
    return {part: why for part, why in found.items() if why is not None}


def _unquoted(system: Mapping[str, str]) -> str | None:
    return system["PANIC"].strip('"') if "PANIC" in system else None


def _load(system: Mapping[str, str]) -> tuple[float, ...]:
    return tuple(float(word) for word in re.findall(r"\b\d{1,9}\.\d{1,9}\b", system.get("LOAD AVERAGE", "")))


def _tick(vmcore: Vmcore, texts: Mapping[str, str]) -> float:
    """Unit of a task's utime in seconds: nanoseconds, or ticks before Linux 4.11 (commit 5613fda9a503, v4.11)."""
    if kernel_version(vmcore.release or "") >= (4, 11):
        return 1e-9
    found = _HZ.search(texts.get("mach", ""))
    return 1 / int(found[1]) if found and int(found[1]) else 1e-3


def _top(tasks: Iterable[tables.Task], key: Callable[[tables.Task], float]) -> tuple[tables.Task, ...]:
    # Threads of one process share its memory: only the first is listed.
    seen: set[tuple[str, float]] = set()
    found: list[tables.Task] = []
    for task in sorted(tasks, key=lambda task: (-key(task), task.pid)):
        if (task.command, key(task)) not in seen:
            seen.add((task.command, key(task)))
            found.append(task)
    return tuple(found[:_TOP])
