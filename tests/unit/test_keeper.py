"""The process of the host that ends a case which does not keep its idle limit. (Hostile cases: e2e/test_isolation.)"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sandbox.case import idle, keeper, store
from sandbox.case.places import SESSION_VERSION
from sandbox.host.locks import locked
from sandbox.model import Case
from sandbox.session.ticket_lock import TicketLock

pytestmark = pytest.mark.slow

Keeper = Callable[..., threading.Thread]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    directory = store.directory() / "0123456789-podman"
    store.make_directory(directory)
    made = Case(
        id=directory.name,
        dump=tmp_path / "vmcore",
        release="6.1",
        profile="debian-12",
        image="x",
        vmlinux=None,
        proof="",
        engine="podman",
        endpoint="podman",
        container="0123",
        opened=datetime.now(UTC),
        directory=directory,
        files=1,
        token="feed",
        script=SESSION_VERSION,
    )
    idle.record(made, 1)
    store.write(made)
    return made


@pytest.fixture
def first(case: Case) -> Iterator[subprocess.Popen[bytes]]:
    """Stands for the first process of a container: it reads `ctl`, and lets go of it when it gets a line."""
    script = 'exec 5<>"$0"/ctl; echo up; read -r _ <&5; exec 5<&-; exec sleep 1000'
    words = ["sh", "-c", script, str(case.shared)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@pytest.fixture
def keep(case: Case, first: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """Starts the keeper of the case, whose close is `true`, which closes nothing, unless another is given."""
    monkeypatch.setattr(keeper, "_END", 0.3)
    descriptors: list[int] = []
    threads: list[threading.Thread] = []

    def start(*close: str, sees: bool = True) -> threading.Thread:
        if sees:
            descriptors.append(os.pidfd_open(first.pid))
        words = [str(case.directory), descriptors[-1] if sees else -1, list(close or ["/bin/true"])]
        threads.append(threading.Thread(target=keeper.main, args=words, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    with suppress(ProcessLookupError):
        first.kill()
    store.remove(case.directory)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    for descriptor in descriptors:
        os.close(descriptor)


def test_an_unused_case_is_closed(case: Case, first: subprocess.Popen[bytes], keep: Keeper) -> None:
    began = time.monotonic()
    keep("/bin/rm", "-r", str(case.directory)).join(10)
    assert not case.directory.exists()
    assert 1.9 < time.monotonic() - began < 6
    assert first.poll() is None  # it is the close that ends the container


@pytest.mark.parametrize("sees", [True, False])
def test_one_that_the_engine_does_not_remove_is_killed(
    case: Case, first: subprocess.Popen[bytes], keep: Keeper, sees: bool
) -> None:
    keep(sees=sees).join(10)
    if sees:
        assert first.wait(5) == -9
    else:
        assert first.poll() is None
    assert case.directory.exists()


@pytest.mark.parametrize("use", ["turn", "shell"])
def test_a_case_in_use_is_left_alone(case: Case, first: subprocess.Popen[bytes], keep: Keeper, use: str) -> None:
    turn = TicketLock(case.directory) if use == "turn" else locked(case.directory / "shell-12")
    if not isinstance(turn, TicketLock):
        turn.__enter__()
    running = keep("/bin/rm", "-r", str(case.directory))
    running.join(4)
    assert running.is_alive()
    assert case.directory.exists()
    if isinstance(turn, TicketLock):
        turn.close()
    else:
        turn.__exit__(None, None, None)
    running.join(10)
    assert not case.directory.exists()


def test_the_end_of_a_use_counts(case: Case) -> None:
    turn = TicketLock(case.directory)
    os.utime(case.directory / "queue", (1, 1))
    turn.close()
    assert time.time() - (case.directory / "queue").stat().st_mtime < 60


def test_a_case_that_hides_its_end_is_killed(case: Case, first: subprocess.Popen[bytes], keep: Keeper) -> None:
    """Its first process lets go of `ctl`: then no client finds it, `list` does not have it, and it lives."""
    idle.record(case, 0)
    running = keep()
    time.sleep(0.3)
    descriptor = os.open(case.shared / "ctl", os.O_WRONLY)
    os.write(descriptor, b"\n")
    os.close(descriptor)
    running.join(10)
    assert not store.is_running(case)
    assert first.wait(5) == -9


@pytest.mark.parametrize("sees", [True, False])
def test_it_ends_with_the_case(case: Case, first: subprocess.Popen[bytes], keep: Keeper, sees: bool) -> None:
    idle.record(case, 0)
    running = keep(sees=sees)
    running.join(0.5)
    assert running.is_alive()
    first.kill()
    running.join(5)
    assert not running.is_alive()


def test_a_limit_that_was_changed_holds_at_once(case: Case, first: subprocess.Popen[bytes], keep: Keeper) -> None:
    idle.record(case, 10_000)
    running = keep("/bin/rm", "-r", str(case.directory))
    time.sleep(0.3)
    idle.record(case, 1)
    running.join(10)
    assert not case.directory.exists()


def test_a_removed_case_has_no_keeper(case: Case, first: subprocess.Popen[bytes]) -> None:
    """A real one, of this process's interpreter, which is not in a container: it is told by the directory."""
    idle.record(case, 1000)
    idle.keep(case, first.pid)
    deadline = time.monotonic() + 10
    while (fifo := keeper.reach(str(case.directory))) < 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.close(fifo)
    (running,) = _keepers(case.directory)
    assert os.getsid(running) != os.getsid(0)
    store.remove(case.directory)
    while _keepers(case.directory):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _keepers(directory: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(keeper.__file__) in words and os.fsencode(directory) in words:
                found.append(int(process.name))
    return found


def test_only_the_first_process_of_a_container_is_taken_for_one(first: subprocess.Popen[bytes]) -> None:
    """An engine in a virtual machine, or seen from within a container, has other numbers."""
    assert idle._first_process(first.pid) == -1
    assert idle._first_process(os.getpid()) == -1
    assert idle._first_process(0) == -1
    assert idle._first_process(2**22 + 1) == -1


def test_it_loads_nothing_that_python_has_not() -> None:
    code = "import sys; before = set(sys.modules); "
    code += f"exec(open({keeper.__file__!r}).read(), {{'__name__': 'keeper'}}); "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {
        "__future__",
        "fcntl",
        "os",
        "os.path",
        "posixpath",
        "genericpath",
        "stat",
        "_stat",
        "_collections_abc",
        "select",
    }
