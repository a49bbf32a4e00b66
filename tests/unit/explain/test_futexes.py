"""Tasks that wait on futexes: which, with whom, and for whom where the kernel knows it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_waits import answer_of, said, waiting

from sandbox.explain import wait_facts
from sandbox.explain.text import wait_lines
from sandbox.explain.wait_facts import FutexFacts, FutexWaiter, OwnerFacts, WaitAnswer
from sandbox.explain.waits import dot, explain

PLAIN = FutexFacts(
    address=0x403000,
    shared=False,
    process=100,
    command="service",
    count=2,
    waiters=(FutexWaiter(pid=101, command="one", seconds=3.5), FutexWaiter(pid=102, command="two", seconds=None)),
    word=2,
    no_word="",
    inherits=False,
    owner=None,
)
OWNED = replace(
    PLAIN,
    address=0x403010,
    count=1,
    waiters=(FutexWaiter(pid=104, command="late", seconds=1.0),),
    word=0x80000000 | 103,
    inherits=True,
    owner=103,
)
OWNER = OwnerFacts(pid=103, command="early", state="S", functions=("do_nanosleep",))


def answer(*futexes: FutexFacts, owners: tuple[OwnerFacts, ...] = (OWNER,)) -> WaitAnswer:
    return WaitAnswer(errors={}, blocked=0, waits=(), owners=owners, pools=(), futexes=futexes)


def test_a_plain_futex_has_waiters_and_a_word_and_no_owner() -> None:
    waits = explain(answer(PLAIN))
    assert said(waits, "futexes")[0] == (
        "one (PID 101) and two (PID 102) wait on the futex at 0x403000 of service (PID 100), for 3.5 s at most. "
        "Its word is 2."
    )
    assert "who is to wake the others is not known" in said(waits, "futexes")[1]
    (one,) = waits.futexes
    assert (one.owner, one.waiters, one.waiting) == (None, (101, 102), 2)
    assert one.no_owner is not None
    # A futex without an owner holds nobody up that is known.
    assert (waits.waits, waits.roots, waits.cycles) == ((), (), ())


def test_a_futex_with_an_owner_is_a_lock_like_others() -> None:
    waits = explain(answer(PLAIN, OWNED))
    assert said(waits, "futexes")[0].endswith("PID 103 has it, as its word says, too.")
    assert said(waits, "roots") == ["1 task waits for early (PID 103), which sleeps in do_nanosleep."]
    assert waits.blocked == 0
    assert "more tasks" not in waits.unknown
    assert "t104 -> t103 [" in dot(waits)
    assert "FUTEXES" in list(wait_lines(waits, None))


def test_a_deadlock_of_futexes_and_mutexes_is_one() -> None:
    mutex = waiting(103, 104)
    waits = explain(WaitAnswer(errors={}, blocked=1, waits=(mutex,), owners=(), pools=(), futexes=(OWNED,)))
    (cycle,) = waits.cycles
    assert sorted(cycle) == [103, 104]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"word": None, "no_word": "its page is not in the dump"},
            "its word is not known: its page is not in the dump.",
        ),
        ({"word": 0x80000000 | 7}, "PID 103 has it, its word names 7, a number of its own PID namespace."),
        ({"owner": None}, "the record of its owner is empty."),
        ({"address": None, "shared": True}, "the futex at an address that is not known of service (PID 100), which "),
    ],
)
def test_what_is_not_known_of_a_futex_is_said(changed: dict[str, object], words: str) -> None:
    assert words in said(explain(answer(replace(OWNED, **changed))), "futexes")[0]  # type: ignore[arg-type]


def test_many_futexes_are_counted_and_those_with_owners_stand_first() -> None:
    many = [replace(PLAIN, address=number) for number in range(30)]
    found = said(explain(answer(*many, OWNED)), "futexes")
    assert "PID 103 has it" in found[0]
    assert len(found) == 12
    assert found[-1].startswith("On 21 more futexes 42 tasks wait")


def test_who_is_to_complete_a_completion_ends_it_and_does_not_hold_it() -> None:
    flusher = replace(waiting(7, 8), kind="completion")
    worker = waiting(8, 7, lock=0xFFFF888000000040)
    (words,) = said(explain(WaitAnswer(errors={}, blocked=2, waits=(flusher, worker), owners=(), pools=())), "deadlock")
    assert "task-8 (PID 8) is to end 0xffff888000000000 and waits for mutex 0xffff888000000040" in words
    assert "task-7 (PID 7) holds 0xffff888000000040 and waits for completion 0xffff888000000000" in words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"count": 1}, "another number of waiters"),
        ({"waiters": [], "count": 0}, "another number of waiters"),
        ({"owner": 103}, "without priority inheritance has an owner"),
        ({"process": -1}, "no sign"),
        ({"word": -2}, "no sign"),
    ],
)
def test_answers_that_cannot_be_are_refused(changed: dict[str, object], words: str) -> None:
    plain = {
        "address": 1,
        "shared": False,
        "process": 100,
        "command": "service",
        "count": 2,
        "waiters": [{"pid": pid, "command": "one", "seconds": 1.0} for pid in (101, 102)],
        "word": 2,
        "no_word": "",
        "inherits": False,
        "owner": None,
    }
    whole: dict[str, object] = {"errors": {}, "blocked": 0, "waits": [], "owners": [], "pools": []}
    assert len(wait_facts.read(json.dumps({**whole, "futexes": [plain]}).encode()).futexes) == 1
    with pytest.raises(ValueError, match=words):
        wait_facts.read(json.dumps({**whole, "futexes": [plain | changed]}).encode())


def test_the_script_is_one_program() -> None:
    text = wait_facts.script().decode()
    compile(text, "explain-waits", "exec")
    assert text.index("def owner_of(") < text.index("def futexes(") < text.index("main(json.loads(")


def test_futexes_of_a_genuine_dump_are_those_that_the_program_named() -> None:
    """The console of that dump: who waits where, with `vmbox demo --trigger futex --format proc-vmcore`, 6.1."""
    waits = explain(answer_of("futex"))
    plain, between, owned = (106, 107), (104, 103), (109,)
    found = {one.waiters: one for one in waits.futexes}
    assert found.keys() == {plain, between, owned}
    assert (found[plain].address, found[plain].word, found[plain].shared) == ("0x403000", 2, False)
    assert (found[between].address, found[between].word, found[between].shared) == ("0x7ff2039fa000", 7, True)
    assert (found[owned].address, found[owned].owner) == ("0x403010", 108)
    assert found[owned].word == 1 << 31 | 108
    # Of the parent of vfork() the child is who completes it.
    assert {one.pid: (one.kind, one.owner) for one in waits.waits} == {105: ("completion", 110), 109: ("futex", 108)}
    assert {one.pid: one.behind for one in waits.roots} == {108: 1, 110: 1}


def test_kinds_of_waiting_of_a_genuine_dump_have_their_owners_or_the_reason() -> None:
    """The log of that dump: who waits for whom, with `vmbox demo --trigger waiting`, 6.1."""
    waits = {one.pid: one for one in explain(answer_of("waiting")).waits}
    reader, writer, late, waiter, worker, flusher, stubborn, stopper, grace = 102, 103, 104, 106, 7, 107, 108, 109, 110
    assert (waits[late].kind, waits[late].owner) == ("percpu rwsem", writer)
    assert (waits[writer].kind, waits[writer].owner, waits[writer].confirmed) == ("percpu rwsem", None, True)
    assert waits[writer].no_owner == "1 reader holds it, and which task that is is not recorded"
    assert (waits[flusher].kind, waits[flusher].owner) == ("completion", worker)
    assert (waits[stopper].kind, waits[stopper].owner) == ("completion", stubborn)
    assert waits[waiter].kind == "semaphore"
    assert waits[waiter].no_owner == "a semaphore has no owner; its count is 0, and who took it is not recorded"
    assert waits[grace].no_owner == "RCU completes it when a grace period has ended"
    assert {waits[pid].no_owner for pid in (reader, worker, stubborn)} == {
        "a completion does not record who is to complete it"
    }


def test_what_a_newer_kernel_records_more_is_read() -> None:
    """7.2: the last that took a semaphore, and completions of RCU in a list of its own."""
    answer = answer_of("waiting-7.2")
    waits = {one.pid: one for one in explain(answer).waits}
    assert waits[121].no_owner == (
        "a semaphore has no owner; its count is 0; the last that took it was vmbox-holder (PID 120), "
        "which may have let it go"
    )
    assert waits[125].no_owner == "RCU completes it when a grace period has ended"
    assert (waits[119].owner, waits[122].owner, waits[124].owner) == (118, 11, 123)
    assert "workqueues" not in answer.errors
