"""Turns with a case, taken by threads and by processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandbox.progress import QUIET
from sandbox.session import ticket_lock
from sandbox.session.ticket_lock import TicketLock

_HOLD = """
import sys, time
from pathlib import Path
from sandbox.session.ticket_lock import TicketLock
turn = TicketLock(Path(sys.argv[1]))
print("mine", flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "lock").touch()
    return tmp_path


def _left(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {"lock", "queue"}


def test_first_come_first_served(place: Path) -> None:
    order: list[int] = []
    first = TicketLock(place)

    def wait(number: int) -> None:
        turn = TicketLock(place)
        order.append(number)
        turn.close()

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while len(_left(place)) < number + 2:
            time.sleep(0.001)
    assert order == []
    first.close()
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))
    assert _left(place) == set()


def test_the_dead_do_not_keep_others_waiting(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, place], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mine\n"
        taken = threading.Event()
        waiter = threading.Thread(target=lambda: (TicketLock(place).close(), taken.set()))
        waiter.start()
        assert not taken.wait(0.1)
        os.kill(holder.pid, signal.SIGKILL)
        assert taken.wait(5)
        waiter.join()
    assert _left(place) == set()


def test_a_long_wait_is_said_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket_lock, "_SILENT", 0.05)
    said: list[str] = []

    class Noting(type(QUIET)):  # type: ignore[misc]
        def notice(self, line: str) -> None:
            said.append(line)

    first = TicketLock(place)
    threading.Timer(0.2, first.close).start()
    TicketLock(place, Noting()).close()
    assert said == ["waiting: the case is in use by 1 other"]


def test_a_case_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TicketLock(tmp_path / "nowhere")
