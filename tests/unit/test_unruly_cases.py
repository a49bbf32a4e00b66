"""A case whose dump took it over: what it holds or fills keeps no client waiting. (Real ones: e2e/test_hostile.)"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest

from sandbox.case import container, idle, overdue, store
from sandbox.case.places import SESSION_VERSION
from sandbox.errors import CommandTimeout, DumpUnreadable, EngineFailed, SessionDied, SessionFailed
from sandbox.model import Case
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.session import channel, session as session_module
from sandbox.session.channel import FifoChannel
from sandbox.session.session import Session
from sandbox.session.ticket_lock import TicketLock
from sandbox.session.transcript import Recorder


class Engine:
    """Stands for an engine that has one container: removing it is all that is asked."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, ident: str) -> None:
        self.removed.append(ident)

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(container, "connect", lambda _: made)
    return made


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A case whose PID 1 is this process: it holds the FIFOs, and reads nothing."""
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(channel, "_PATIENCE", 0.2)
    (tmp_path / "run").mkdir(mode=0o700)
    directory = store.directory() / "0123456789-podman"
    store.make_directory(directory)
    case = Case(
        id=directory.name,
        dump=tmp_path / "vmcore",
        release="6.1",
        profile="debian-12",
        image="x",
        vmlinux=tmp_path / "vmlinux",
        proof="build-id",
        engine="podman",
        endpoint="podman",
        container="0123",
        opened=datetime.now(UTC),
        directory=directory,
        files=1,
        token="feed",
        script=SESSION_VERSION,
    )
    store.write(case)
    held = [os.open(case.shared / name, os.O_RDWR | os.O_NONBLOCK) for name in ("in", "out", "in-2", "out-2", "ctl")]
    yield case
    for descriptor in held:
        os.close(descriptor)


def fill(fifo: Path) -> None:
    descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 4096)
    os.close(descriptor)


def test_a_full_ctl_does_not_keep_a_case_open(case: Case, engine: Engine) -> None:
    fill(case.shared / "ctl")
    began = time.monotonic()
    container.close(case)
    assert time.monotonic() - began < 5
    assert engine.removed == ["0123"]
    assert not case.directory.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fifo", ["in", "ctl"])
def test_a_full_fifo_ends_the_session_and_the_case(case: Case, engine: Engine, fifo: str) -> None:
    fill(case.shared / fifo)
    began = time.monotonic()
    with Session(case) as session, pytest.raises(SessionDied, match="did not obey"):
        session.start()
    assert time.monotonic() - began < 10
    assert engine.removed == ["0123"]


def test_an_exit_line_that_is_none_hides_no_other(case: Case) -> None:
    """The crash that took the case over knows its token."""
    talk = FifoChannel(case, 1)
    token = case.token.encode()
    talk.buffer += token + b" exit " + b"9" * 5000 + b" ab\n" + token + b"\n"
    assert talk.find_exit() is None
    talk.buffer += b"\n" + token + b" exit 139 12ab\n"
    found = talk.find_exit()
    assert found is not None
    assert (found.status, found.ident, found.end) == (139, b"12ab", len(talk.buffer))
    talk.close()


@pytest.mark.slow
def test_exit_lines_without_end_do_not_outlast_the_start(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_START", "1")
    settled = threading.Event()

    def say() -> None:
        out, words = (os.open(case.shared / name, os.O_RDWR | os.O_NONBLOCK) for name in ("out", "in"))
        control = os.open(case.shared / "ctl", os.O_RDWR | os.O_NONBLOCK)
        while not settled.is_set():
            with suppress(BlockingIOError):
                os.write(out, b"\nfeed exit 1 0badcafe\n" * 40)
            heard = b""
            for descriptor in (words, control):
                with suppress(BlockingIOError):
                    heard += os.read(descriptor, 65536)
            if b"kill" in heard:
                break
        for descriptor in (out, words, control):
            os.close(descriptor)

    talker = threading.Thread(target=say)
    began = time.monotonic()
    with Session(case) as session:
        talker.start()
        try:
            with pytest.raises(CommandTimeout, match="did not come up"):
                session.start(session.debugger.start_modes[:1])
        finally:
            settled.set()
            talker.join()
    assert time.monotonic() - began < 30


def test_markers_of_earlier_clients_are_no_words_of_the_debugger(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients were ended while the debugger started: what it echoes for them comes first."""
    ours, theirs = (b"vmbox-" + digit * 32 for digit in (b"0", b"1"))
    monkeypatch.setattr(session_module, "new_marker", lambda: ours)
    with (case.shared / "out").open("wb", buffering=0) as out, Session(case) as session:
        out.write(b"WARNING: no module access\n" + theirs + b"\n" + theirs + b"\n" + ours + b"\n")
        assert session.start() == b"WARNING: no module access\n"


@pytest.mark.parametrize(
    "said",
    [b"crash: /case/vmcore: Permission denied", b"[Errno 13] Permission denied: '/case/vmcore'"],
)
def test_a_dump_that_the_case_may_not_read_is_tried_once(
    case: Case, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """A rootless Docker keeps none of the caller's groups: no debugger and no mode reads a dump that is a group's."""
    monkeypatch.setattr(session_module.os, "urandom", lambda size: b"\x0b" * size)
    with (case.shared / "out").open("wb", buffering=0) as out, Session(case) as session:
        out.write(said + b"\nfeed exit 1 " + b"0b" * 8 + b"\n")
        with pytest.raises(DumpUnreadable, match=f"{case.dump} may not be read") as found:
            session.start()
    assert f"setfacl -m u:{os.geteuid()}:r {case.dump}" in found.value.hint


def test_what_a_failed_start_said_is_shown_in_part(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module.os, "urandom", lambda size: b"\x0b" * size)
    said = b"".join(b"%07d\n" % number for number in range(7000))
    with (case.shared / "out").open("wb", buffering=0) as out, Session(case) as session:
        out.write(said + b"crash: no\nfeed exit 1 " + b"0b" * 8 + b"\n")
        with pytest.raises(SessionFailed) as failed:
            session.start(session.debugger.start_modes[-1:])
    assert failed.value.detail is not None
    assert failed.value.detail.endswith("0006999\ncrash: no")
    assert len(failed.value.detail) <= 1 << 14


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "transcript"])
def test_an_answer_byte_by_byte_costs_no_more_memory(case: Case, kind: str) -> None:
    pairs = [bytes(pair) for pair in product(range(32, 127), repeat=2)]
    sink = BoundedAnswer(PER_ANSWER) if kind == "report" else Recorder(case)
    tracemalloc.start()
    for _ in range(50):
        for pair in pairs:
            sink(pair[:1] + pair[1:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 100 * len(pairs)


@pytest.mark.slow
def test_no_lock_of_ours_is_where_the_case_can_hold_it(case: Case) -> None:
    for lock in case.shared.iterdir():
        if not lock.is_fifo():
            fcntl.flock(os.open(lock, os.O_RDONLY), fcntl.LOCK_EX)
    turn = TicketLock(case.directory)
    FifoChannel(case, 1).close()
    turn.close()
    assert {path.name for path in case.shared.iterdir()} == {"in", "out", "in-2", "out-2", "ctl", "lock"}


def test_a_client_is_seen_also_if_it_came_while_the_script_looked(case: Case) -> None:
    looking, asking = (os.open(case.shared / "lock", os.O_RDONLY) for _ in range(2))
    fcntl.flock(looking, fcntl.LOCK_EX)
    looked = threading.Timer(0.1, os.close, [looking])
    looked.start()
    talk = FifoChannel(case, 1)
    with pytest.raises(BlockingIOError):
        fcntl.flock(asking, fcntl.LOCK_EX | fcntl.LOCK_NB)
    talk.close()
    fcntl.flock(asking, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(asking)
    looked.join()


@pytest.mark.slow
def test_a_case_past_its_idle_limit_is_closed_at_the_next_opening(case: Case, engine: Engine) -> None:
    idle.record(case, 60)
    overdue.close_overdue()
    assert engine.removed == []
    store.write(Case(**{name: getattr(case, name) for name in Case.__slots__} | {"opened": case.opened - timedelta(1)}))
    turn = TicketLock(case.directory)
    overdue.close_overdue()
    assert engine.removed == []
    turn.close()
    os.utime(case.directory / "queue", (time.time() - 3600, time.time() - 3600))
    overdue.close_overdue()
    assert engine.removed == ["0123"]


@pytest.mark.slow
def test_a_clock_that_was_set_back_keeps_no_case_open_for_ever(case: Case, engine: Engine) -> None:
    idle.record(case, 60)
    later = time.time() + 400 * 86400
    opened = {"opened": case.opened + timedelta(400)}
    store.write(Case(**{name: getattr(case, name) for name in Case.__slots__} | opened))
    queue = case.directory / "queue"
    queue.touch()
    overdue.close_overdue()
    assert engine.removed == []
    os.utime(queue, (later, later))
    overdue.close_overdue()
    assert engine.removed == ["0123"]


@pytest.mark.slow
def test_close_all_goes_on_after_one_that_cannot_be_closed(
    case: Case, engine: Engine, monkeypatch: pytest.MonkeyPatch, vmbox
) -> None:
    def refuse(_: str) -> None:
        raise EngineFailed("it cannot be removed")

    monkeypatch.setattr(engine, "remove", refuse)
    done = vmbox("close", "--all")
    assert done.returncode == EngineFailed.exit_code
    assert "it cannot be removed" in done.stderr
