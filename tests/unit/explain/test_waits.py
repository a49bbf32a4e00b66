"""Who waits for whom. The answers in tests/fixtures/waits are of genuine dumps (`vmbox demo --trigger`, 6.1)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.explain import wait_facts
from sandbox.explain.text import wait_lines
from sandbox.explain.wait_facts import OwnerFacts, RequestFacts, WaitAnswer, WaitFacts
from sandbox.explain.waits import Waits, dot, explain
from sandbox.report import wait_drawing

FIXTURES = Path(__file__).parents[2] / "fixtures"


def answer_of(name: str) -> WaitAnswer:
    return wait_facts.read((FIXTURES / "waits" / f"{name}.json").read_bytes())


def said(waits: Waits, topic: str) -> list[str]:
    return [one.text for one in waits.sentences if one.topic == topic]


def waiting(pid: int, owner: int | None, *, lock: int = 0xFFFF888000000000, listed: bool | None = True) -> WaitFacts:
    return WaitFacts(
        pid=pid,
        command=f"task-{pid}",
        seconds=1.5,
        kind="mutex",
        function="__mutex_lock",
        functions=("__mutex_lock",),
        lock=lock,
        name=None,
        owner=owner,
        no_owner="" if owner is not None else "its owner's word is empty",
        listed=listed,
    )


def explained(*waits: WaitFacts, owners: tuple[OwnerFacts, ...] = ()) -> Waits:
    return explain(WaitAnswer(errors={}, blocked=len(waits), waits=waits, owners=owners, pools=()))


def test_a_deadlock_is_the_one_that_the_module_made() -> None:
    log = (FIXTURES / "oops" / "deadlock.txt").read_text(encoding="utf-8")
    made = dict(re.findall(r"pid (\d+) holds (vmbox_\w+), waits for", log))
    (behind,) = re.findall(r"pid (\d+) waits for vmbox_outer", log)
    waits = explain(answer_of("deadlock"))
    (cycle,) = waits.cycles
    assert sorted(cycle) == sorted(map(int, made))
    (words,) = said(waits, "deadlock")
    for pid, lock in made.items():
        assert re.search(rf"\(PID {pid}\) holds {lock} \(0x[0-9a-f]+\) and waits for mutex vmbox_", words), words
    assert words.endswith("1 task waits behind them.")
    assert {one.pid: one.owner for one in waits.waits}[int(behind)] in cycle
    assert waits.roots == ()
    assert all(one.confirmed for one in waits.waits)
    # The kernel found the same tasks blocked.
    assert {one.pid for one in waits.waits} == set(map(int, re.findall(r"INFO: task \S+:(\d+) blocked", log)))


def test_what_an_owner_is_known_by_has_a_command_of_its_own() -> None:
    """Two locks of a deadlock, and one that many wait for: each word once."""
    first, second = 0xFFFF888000001000, 0xFFFF888000002000
    waits = explained(
        replace(waiting(1, 2), word=first, task=0xFFFF888000A00000),
        replace(waiting(2, 1, lock=second), word=second, task=0xFFFF888000B00000),
        *(replace(waiting(pid, 9, lock=0x30), word=0x30, task=0xFFFF888000C00000) for pid in (3, 4)),
        # Not by a word of its own.
        waiting(5, 9, lock=0x40),
        owners=(OwnerFacts(pid=9, command="nine", state="R", functions=()),),
    )
    shown = {one.command: one for one in waits.sentences if (one.command or "").startswith("rd ")}
    assert list(shown) == [f"rd {first:x}", f"rd {second:x}", "rd 30"]
    one = shown[f"rd {first:x}"]
    assert one.topic == "deadlock"
    assert "is 0xffff888000a00000, the task of task-2 (PID 2), with flags in the lowest bits." in one.text
    assert (shown["rd 30"].topic, "the task of nine (PID 9)" in shown["rd 30"].text) == ("roots", True)


def test_the_writer_of_a_rwsem_is_the_root() -> None:
    waits = explain(answer_of("rwsem"))
    assert waits.cycles == ()
    (root,) = waits.roots
    assert (root.command, root.behind) == ("vmbox-writer", 1)
    assert "waits for completion vmbox_never" in root.doing
    (words,) = said(waits, "blocked")
    assert "the kernel does not record who holds it" in words


def test_a_pool_of_workers_that_began_nothing_is_named() -> None:
    waits = explain(answer_of("workqueue"))
    (pool,) = waits.pools
    assert pool.cpu == 0
    assert pool.running[0].startswith("vmbox_spin (PID ")
    assert pool.seconds > 10
    (words,) = said(waits, "workqueues")
    assert "it runs vmbox_spin" in words
    # Work that has just been queued is no stall.
    answer = answer_of("workqueue")
    assert explain(replace(answer, pools=tuple(replace(one, seconds=1.0) for one in answer.pools))).pools == ()


def test_a_chain_ends_in_one_root_that_has_all_behind_it() -> None:
    owner = OwnerFacts(pid=9, command="holder", state="R", functions=("spin", "work"))
    waits = explained(waiting(1, 2), waiting(2, 3), waiting(3, 9), waiting(4, 3), owners=(owner,))
    (root,) = waits.roots
    assert (root.pid, root.behind, root.doing) == (9, 4, "runs in spin < work")
    assert said(waits, "roots") == ["4 tasks wait for holder (PID 9), which runs in spin < work."]


def test_cycles_of_any_length_are_found_once_and_those_behind_them_are_no_roots() -> None:
    waits = explained(waiting(1, 1), waiting(2, 3), waiting(3, 4), waiting(4, 2), waiting(5, 4), waiting(6, 5))
    assert sorted(map(sorted, waits.cycles)) == [[1], [2, 3, 4]]
    assert waits.roots == ()
    assert any(text.endswith("2 tasks wait behind them.") for text in said(waits, "deadlock"))


def test_a_task_that_the_locks_own_list_does_not_have_makes_no_edge() -> None:
    waits = explained(waiting(1, 2, listed=False), waiting(2, 1))
    assert waits.cycles == ()
    assert "PID 1" in waits.unknown["waiters"]
    # A list that is not read is no evidence against it.
    assert explained(waiting(1, 2, listed=None), waiting(2, 1)).cycles == ((1, 2),)


def test_what_is_not_read_is_said() -> None:
    waits = explain(WaitAnswer(errors={"tasks": "x"}, blocked=7, waits=(waiting(1, None),), owners=(), pools=()))
    assert waits.unknown == {"tasks": "x", "more tasks": "of 7 blocked tasks 1 are read"}
    assert "NOT KNOWN" in list(wait_lines(waits, None))


def test_a_lock_that_the_debug_information_does_not_name_is_said() -> None:
    one = replace(waiting(1, None), lock=None, no_owner="", listed=None)
    waits = explained(one, replace(one, pid=2), replace(one, pid=3, kind="", function=""))
    assert said(waits, "blocked") == [
        (
            "task-1 (PID 1) and 1 more, 1.5 s: waits for a mutex in __mutex_lock: "
            "which one is not known, without the variables of the function."
        ),
        "task-1 (PID 3), 1.5 s: is blocked in __mutex_lock: on what is not known.",
    ]
    assert waits.roots == ()


def test_thousands_behind_one_lock_are_one_row() -> None:
    many = [waiting(pid, 1) for pid in range(10, 3010)]
    waits = explained(waiting(1, None, lock=0xFFFF888000001000), *many)
    drawing = wait_drawing.draw(waits)
    assert [row.text for row in drawing.rows] == [
        "task-1 1",
        "mutex 0xffff888000000000: 3000 tasks wait",
        "task-10 10, task-11 11, task-12 12 and 2997 more",
    ]
    assert [row.parent for row in drawing.rows] == [None, 0, 1]
    assert not drawing.left_out
    assert len("\n".join(wait_lines(waits, None))) < 2000


def test_a_drawing_has_an_end() -> None:
    waits = explained(*(waiting(pid, pid + 1, lock=0xFFFF888000000000 + pid) for pid in range(1, 2000)))
    drawing = wait_drawing.draw(waits)
    assert drawing.left_out
    assert len(drawing.rows) == 60
    deadlock = wait_drawing.draw(explain(answer_of("deadlock")))
    assert [row.text.partition(" ")[0] for row in deadlock.rows if row.hot] == [
        "vmbox-first",
        "mutex",
        "vmbox-second",
        "mutex",
        "vmbox-first",
    ]


def test_a_deadlock_of_very_many_tasks_is_a_short_sentence() -> None:
    waits = explained(*(waiting(pid, pid % 2000 + 1, lock=0xFFFF888000000000 + pid) for pid in range(1, 2001)))
    (cycle,) = waits.cycles
    assert len(cycle) == 2000
    text = waits.sentences[0].text
    assert text.count(" holds ") == 10
    assert text.endswith("and so on, 2000 tasks in all.")


def test_dot_quotes_what_a_task_calls_itself() -> None:
    bad = replace(waiting(1, None), command='a"; b\\\n')
    text = dot(explained(bad, waiting(2, 1)))
    assert r't1 [label="a\"; b\\\\\\n 1"];' in text
    assert "t2 -> t1" in text
    assert all(line.count("{") + line.count("}") <= 1 for line in text.splitlines())


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"errors": {}, "blocked": "x"}'])
def test_an_answer_that_is_not_understood_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wait_facts.read(text)


@pytest.mark.parametrize("name", ["rwsem-readers", "rwsem-readers-7.2"])
def test_readers_of_a_rwsem_are_counted_and_the_last_is_named(name: str) -> None:
    """The module's second reader says that it is the last; both still hold the semaphore.

    In 7.2 the lock is what the kernel notes of the task, and its waiters are linked to each other.
    """
    waits = explain(answer_of(name))
    assert all(one.confirmed for one in waits.waits)
    (writer,) = (one for one in waits.waits if one.command == "vmbox-writer")
    assert (writer.kind, writer.owner) == ("rwsem", None)
    (last,) = (one.pid for one in waits.waits if one.command == "vmbox-second")
    assert writer.no_owner == (
        f"2 readers hold it; the last that took it was vmbox-second (PID {last}), which may have let it go"
    )
    assert any(str(writer.no_owner) in words for words in said(waits, "blocked"))
    # A reader that may have let it go is no owner.
    assert waits.roots == ()


def request(disk: str, seconds: float | None, *holds: int, operation: str = "read", sector: int = 8) -> RequestFacts:
    return RequestFacts(disk=disk, operation=operation, sector=sector, bytes=4096, seconds=seconds, holds=tuple(holds))


def test_readers_of_a_slow_disk_wait_for_its_requests() -> None:
    """The console of that dump has who reads which block of 4 KiB; three of six were answered."""
    read = {109: 4000, 110: 5000, 111: 6000, 112: 7000, 113: 8000, 114: 9000}
    answer = answer_of("blocked-io")
    waits = explain(answer)
    (device,) = waits.devices
    assert (device.name, device.requests, device.operations) == ("vdb", 3, {"read": 3})
    assert device.tasks == (109, 112, 113)
    for one in answer.waits:
        (sector,) = (request.sector for request in answer.requests if one.lock in request.holds)
        assert sector == read[one.pid] * 8
    assert device.sector == 56000
    assert device.oldest == pytest.approx(10.22)
    assert said(waits, "blocked") == []


def test_a_writer_of_a_frozen_file_system_is_told_so() -> None:
    """`fsfreeze` of the ext4 on vda, and a `touch` there: the trigger hung-task."""
    waits = explain(answer_of("hung-task"))
    (words,) = said(waits, "blocked")
    assert re.fullmatch(
        r"touch \(PID \d+\), 6\.1 s: waits for percpu rwsem 0x[0-9a-f]{16}: the file system on vda \(ext4\) is frozen; "
        r"who froze it is not recorded\.",
        words,
    )
    assert waits.roots == ()


def test_tasks_that_wait_for_a_request_are_those_of_its_folios() -> None:
    folio = 0xFFFFEA0000000000
    waiters = (
        replace(waiting(7, None, lock=folio), kind="folio", listed=None),
        replace(waiting(8, None, lock=folio + 64), kind="folio", listed=None),
        replace(waiting(9, None, lock=folio + 128), kind="folio", listed=None),
    )
    requests = (
        request("vdb", 3.25, folio, 1),
        request("vdb", 9.5, folio + 64, sector=4000),
        request("vda", None, 2, operation="flush"),
    )
    waits = explain(WaitAnswer(errors={}, blocked=3, waits=waiters, owners=(), pools=(), requests=requests))
    slow, other = waits.devices
    assert (slow.name, slow.requests, slow.operations, slow.oldest, slow.sector) == ("vdb", 2, {"read": 2}, 9.5, 4000)
    assert slow.tasks == (7, 8)
    assert (other.name, other.oldest, other.tasks) == ("vda", None, ())
    assert said(waits, "requests") == [
        "2 requests are in flight to vdb (2 read), the oldest at sector 4000, for 9.5 s; 2 tasks wait for them.",
        "1 request is in flight to vda (1 flush), the oldest at sector 8.",
    ]
    (left,) = said(waits, "blocked")
    assert left.startswith("task-9 (PID 9)"), "the others are said with their device"


def test_more_requests_than_were_asked_for_are_refused() -> None:
    one = json.loads((FIXTURES / "waits" / "rwsem.json").read_bytes())
    sent = {"disk": "vda", "operation": "read", "sector": 1, "bytes": 1, "seconds": 0.5, "holds": []}
    assert len(wait_facts.read(json.dumps({**one, "requests": [sent]}).encode()).requests) == 1
    with pytest.raises(ValueError, match="5001 requests"):
        wait_facts.read(json.dumps({**one, "requests": [sent] * 5001}).encode())
