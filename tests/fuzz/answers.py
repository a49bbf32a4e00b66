"""Coverage-guided fuzzing of what reads the answers of a case with atheris (libFuzzer), by hand.

    pip install --group fuzz
    python tests/fuzz/answers.py channel|remote|files|report|explain [CORPUS] [-max_total_time=600 or other options]

Whoever made the dump may have taken the case over, and with it the relay on another host and the process that reads a
dump there: they know its token and every marker. `harness.py` says what a finding is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import atheris
import harness

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

with atheris.instrument_imports(include=["sandbox"]):
    from sandbox.case import on_engine_host
    from sandbox.dump import identify, same_boot
    from sandbox.dump.release import classify
    from sandbox.errors import DumpError, SessionDied, SessionFailed, VmboxError
    from sandbox.explain import facts, fault, inspection, oops as oopses, text, wait_facts, waits
    from sandbox.host.decode import DecodeError
    from sandbox.judge import backtrace, call_trace, stacks, system, which_trace
    from sandbox.model import Case, key_of
    from sandbox.report import kmem, kubernetes, log_excerpt, signature, tables, wait_drawing
    from sandbox.session import session
    from sandbox.session.channel import FifoChannel
    from sandbox.session.output_files import OutputDirectory, OutputFiles

FIXTURES = TESTS / "fixtures"
INSIDE, DUMP = "/case/vmcore", Path("/var/crash/host-2026-01-01/vmcore")
TOKEN, MARKER, IDENT = b"feed" * 8, b"vmbox-" + b"ab" * 16, "12ab" * 4
SPLIT = b"\n--\n"
"""Between the pieces that arrive."""

_directory = tempfile.TemporaryDirectory(prefix="vmbox-fuzz-", dir="/dev/shm")
DIRECTORY = Path(_directory.name)


class Channel(FifoChannel):
    """Gives what the other end said, piece by piece, and then the end."""

    def __init__(self, content: bytes) -> None:
        self._begin(CASE)
        self._descriptors: list[int] = []
        self._pieces = [piece for piece in content.split(SPLIT) if piece]

    def control(self, *words: str) -> None:
        pass

    def send(self, lines: bytes) -> None:
        pass

    def ready(self, seconds: float | None) -> bool:
        return True

    def _read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def _case() -> Case:
    values = dict.fromkeys(("release", "profile", "image", "proof", "engine", "endpoint", "container"), "x")
    paths = {name: DIRECTORY / name for name in ("dump", "vmlinux", "directory")}
    paths["directory"].mkdir()
    (paths["directory"] / "lock").touch()
    return Case(id="x", opened=datetime.now(UTC), files=1, token=TOKEN.decode(), script=2, **values, **paths)


def _session(content: bytes) -> session.Session:
    session.open_channel = lambda *_: Channel(content)
    session.new_marker = lambda: MARKER
    made = session.Session(CASE)
    made._give_up = lambda: SessionDied("it did not obey")
    return made


CASE = _case()


def read_channel(content: bytes) -> None:
    with _session(content) as talk, contextlib.suppress(VmboxError):
        talk._ready_file.touch()
        said = bytearray()
        talk.run("bt", said.extend, timeout=1)
        assert len(said) <= len(content)
        talk.start(talk.debugger.start_modes[:1])


def read_remote(content: bytes) -> None:
    try:
        found = on_engine_host.parse_answer(content, INSIDE, DUMP)
    except DumpError as error:
        harness.check_line(error.message)
        return
    for path in (found.path, *found.files):
        assert path == DUMP or path.is_relative_to(DUMP)
        assert ".." not in path.parts
    if found.build_id is not None:
        assert 0 < len(bytes.fromhex(found.build_id)) <= 32
    for text in (found.release, found.utsname_version, found.banner, found.panic, found.hardware, found.member):
        assert text is None or (text.isprintable() and len(text) <= 4096)
    if found.release is not None:
        classify(found.release, found.utsname_version)


def read_files(content: bytes) -> None:
    place = DIRECTORY / "output"
    with _session(content) as talk, contextlib.suppress(SessionDied, SessionFailed):
        talk._ready_file.touch()
        with OutputDirectory(place) as into, OutputFiles(talk, into, limit=1 << 16) as output:
            output.expect("bt > a")
            output.expect("ps > b")
    assert {one.name for one in place.iterdir()} <= {"a", "b"}
    assert sum(one.stat().st_size for one in place.iterdir()) <= 1 << 16
    for one in place.iterdir():
        one.unlink()


def read_report(content: bytes) -> None:
    text = content.decode(errors="backslashreplace")
    traces = backtrace.parse(text)
    log_excerpt.excerpt(lines := text.splitlines())
    for trace in (None, *traces[:3]):
        signature.of(cause=None, backtrace=trace, log=lines, panic=text[:200])
        for called in call_trace.call_traces(lines)[:3] if trace is not None else ():
            stacks.judge(trace, called, by="crash")
    same_boot.ended(lines)
    which_trace.panic_trace(lines)
    which_trace.blocked_trace(lines)
    call_trace.blocked_pids(lines)
    said = system.parse(text)
    list(system.judge(said, crash_time=datetime.now(UTC), log=lines, counted=text, by="crash"))
    kmem.totals(text)
    kmem.slab_caches(text)
    for read in (system.parse, tables.hardware, tables.taint, tables.mounts, tables.network, tables.interrupts):
        read(text)
    tables.disks(text)
    tables.run_queues(text)
    tables.modules(text, text)
    tables.tasks(text, text, text)
    for _ in kubernetes._answers(content):
        pass


def read_explain(content: bytes) -> None:
    """A log, and what scripts say of it in the case: of the fault, of the values there, of the tasks that wait."""
    log, *answers = content.split(SPLIT, maxsplit=3)
    lines = log.decode(errors="backslashreplace").splitlines()
    found = {}
    for read, answer in zip((facts.read_facts, facts.read_values, wait_facts.read), answers, strict=False):
        with contextlib.suppress(DecodeError):
            found[read.__name__] = read(answer)
    readings = fault.Readings(facts=found.get("read_facts"), values=found.get("read_values"))
    oops = oopses.find(lines).last
    if oops is not None and readings.facts is not None:
        seen = inspection.inspect(oops, readings.facts, "x86_64")
        values = readings.values
        if values is None or (len(values.members), len(values.words)) != (len(seen.members), len(seen.words)):
            readings = fault.Readings(facts=readings.facts)
    told = fault.explain(lines, arch="x86_64", readings=readings, panic="x")
    said = [] if told is None else list(text.lines(told, "vmcore"))
    if (answer := found.get("read")) is not None:
        waiting = waits.explain(answer)
        wait_drawing.draw(waiting)
        said += [*text.wait_lines(waiting, "vmcore"), *waits.dot(waiting).splitlines()]
    assert all(line.isprintable() for line in said)


# Seeds.


def _explained() -> list[bytes]:
    made = []
    stuck = [path.read_bytes() for path in sorted((FIXTURES / "waits").glob("*.json"))]
    for number, log in enumerate(sorted((FIXTURES / "oops").glob("*.txt"))):
        told = log.with_suffix(".json")
        first, second = json.loads(told.read_text()) if told.exists() else ({}, {})
        parts = (log.read_bytes(), json.dumps(first).encode(), json.dumps(second).encode())
        made.append(SPLIT.join((*parts, stuck[number % len(stuck)])))
    return made


def _exit(status: bytes, ident: str = IDENT) -> bytes:
    return b"\n" + TOKEN + b" exit " + status + b" " + ident.encode() + b"\n"


def _conversations() -> list[bytes]:
    end = MARKER + b"\n"
    return [
        b"PID: 1\n" + end + SPLIT + b"crash> " + end,
        b"PID: 1\nvmbox-ab" + SPLIT + MARKER[8:] + b"\n" + _exit(b"139") + end,
        _exit(b"9" * 30) + SPLIT + _exit(b"1") + SPLIT + end,
        b"bt: invalid\n" * 50 + SPLIT + TOKEN + b" ready\n" + end,
    ]


def _answers() -> list[bytes]:
    made = []
    for dump in ("x86_64-6.1-zlib", "s390x-6.1-zlib"):
        found = identify(FIXTURES / "dumps" / dump)
        values = {key_of(one): getattr(found, one.name) for one in type(found).__dataclass_fields__.values()}
        values |= {"path": INSIDE, "files": [INSIDE], "vmcoreinfo": {"OSRELEASE": "6.1.0"}}
        values |= {"origins": dict(found.origins)}
        made.append(json.dumps(values, default=str).encode())
    failed = {"error": "NotADump", "message": f"{INSIDE} is text", "hint": "give the vmcore"}
    return [*made, json.dumps(failed).encode()]


def _files() -> list[bytes]:
    end = MARKER + b"\n"
    whole = base64.encodebytes(b"PID: 1\n" * 20) + b".\n"
    return [SPLIT.join((end, whole + end, whole + end, b"./a\n./c\n" + end)), end + SPLIT + whole * 2 + end]


def _reports() -> list[bytes]:
    genuine = sorted((FIXTURES / "crash").rglob("*")) if (FIXTURES / "crash").is_dir() else []
    made = [path.read_bytes()[:50_000] for path in genuine if path.is_file()]
    return [*made, _BT, _TABLES]


_BT = b"""PID: 0        TASK: ffffffff82a14940  CPU: 0    COMMAND: "swapper/0"
 #0 [ffffc90000003e68] machine_kexec at ffffffff8106e3f1
 #1 [ffffc90000003eb8] __crash_kexec at ffffffff8118a1ad
    [exception RIP: sysrq_handle_crash+26]
    RIP: ffffffff815fe65a  RSP: ffffc90000003f78  RFLAGS: 00010246
"""
_TABLES = b"""      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM
>       0       0   0  ffffffff82a14940  RU   0.0        0        0  [swapper/0]
                 PAGES        TOTAL      PERCENTAGE
    TOTAL MEM   123456     482.2 MB         ----
CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME
ffff888003c42d00       64       1234      2048     32     4k  kmalloc-64
     MODULE       NAME                      TEXT_BASE         SIZE  OBJECT FILE
ffffffffc0008040  ext4                  ffffffffc0000000     16384  (not loaded)
     MOUNT           SUPERBLK     TYPE   DEVNAME   DIRNAME
ffff888003c3c000 ffff888003c1b000 rootfs none      /
"""

TARGETS: dict[str, harness.Target] = {
    "channel": (read_channel, _conversations),
    "remote": (read_remote, _answers),
    "files": (read_files, _files),
    "report": (read_report, _reports),
    "explain": (read_explain, _explained),
}


if __name__ == "__main__":
    harness.fuzz(TARGETS)
