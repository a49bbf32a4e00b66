"""Which debugger answers, in which order they are started, and what is said of it; no container runs them here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sandbox.case import store
from sandbox.case.options import OpenOptions
from sandbox.debugger import StartMode
from sandbox.errors import CommandTimeout, SessionDied, SessionError, SessionFailed
from sandbox.model import Case
from sandbox.progress import QUIET
from sandbox.session import choice, start
from sandbox.session.session import Session

NEW = {"crash": "crash 9.0.2 of latest knows kernels up to 7.0, and this is 7.2.12: what it prints may be wrong"}


class Noting(type(QUIET)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, line: str) -> None:
        self.said.append(line)


class Bench:
    """A case whose debuggers come up as `works` says: (debugger, option)."""

    def __init__(
        self,
        case: Case,
        works: set[tuple[str, str]],
        monkeypatch: pytest.MonkeyPatch,
        ends: Mapping[str, SessionError],
    ) -> None:
        self.case = case
        self.tried: list[tuple[str, str]] = []
        self.noting = Noting()

        def started(session: Session, mode: StartMode) -> bytes:
            self.tried.append((session.debugger.name, mode.option))
            if self.tried[-1] in works:
                return b""
            if session.debugger.name in ends:
                raise ends[session.debugger.name]
            raise SessionFailed("no", detail=f"{session.debugger.name}: a page is missing")

        monkeypatch.setattr(Session, "_start", started)
        monkeypatch.setattr(start, "find_or_open_case", lambda *_: self.case)

    def open(self, debugger: str | None = None, *, quick: bool = False) -> Session:
        options = OpenOptions(debugger=debugger)
        session, _ = start.open_session(self.case.dump, options, self.noting, case=self.case, quick=quick)
        session.close()
        return session


@pytest.fixture
def bench(
    make_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Bench]]:
    place = tmp_path / "0123-podman"
    store.make_directory(place)
    case = make_case(
        id=place.name,
        directory=place,
        profile="latest",
        opened=datetime.now(UTC),
        versions={"crash": "9.0.2", "drgn": "0.3.0"},
    )
    ends = [os.open(case.shared / name, os.O_RDWR) for name in ("in", "out", "in-2", "out-2", "ctl")]

    def make(
        works: set[tuple[str, str]], *, ends: Mapping[str, SessionError] = MappingProxyType({}), **different: object
    ) -> Bench:
        return Bench(replace(case, **different), works, monkeypatch, ends)  # type: ignore[arg-type]  # fields of a case

    yield make
    for end in ends:
        os.close(end)


def test_crash_answers_about_a_kernel_that_it_knows(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", ""), ("drgn", "")})
    assert table.open().choice.debugger == "crash"
    assert table.noting.said == ["crash answers: version 9.0.2 of image latest knows this kernel"]
    # It is chosen once.
    assert table.open().choice.reason == "version 9.0.2 of image latest knows this kernel"
    assert len(table.noting.said) == 1


def test_a_report_is_answered_by_what_is_up_first(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", ""), ("drgn", "")})
    assert table.open(quick=True).choice.debugger == "drgn"
    assert table.tried == [("drgn", "")]
    assert table.noting.said == ["drgn answers: it is up before crash, which is asked what it does not answer"]
    # The choice for commands is another.
    assert table.open().choice.debugger == "crash"
    assert table.open(quick=True).choice.debugger == "drgn"
    # A user's own wish counts.
    assert table.open("crash", quick=True).choice.debugger == "crash"


@pytest.mark.parametrize("end", [SessionDied("drgn was killed"), CommandTimeout("drgn did not come up within 900 s")])
def test_a_report_goes_on_with_crash_where_drgn_ends_as_it_starts(
    bench: Callable[..., Bench], end: SessionError
) -> None:
    table = bench({("crash", "")}, ends={"drgn": end})
    assert table.open(quick=True).choice.debugger == "crash"
    assert table.noting.said[0] == f"drgn cannot open the dump: {end.message}; trying crash"
    # One that is asked for has no other in its place.
    with pytest.raises(type(end), match=end.message):
        table.open("drgn", quick=True)


@pytest.mark.parametrize(
    "different",
    [
        {"doubts": {"drgn": "drgn 0.3.0 was tried with kernels up to 7.2"}},
        {"versions": {"crash": "7.2.9"}},
        {"files": 3},
    ],
    ids=str,
)
def test_a_report_is_answered_by_crash_where_drgn_may_not(bench: Callable[..., Bench], different: Any) -> None:
    table = bench({("crash", ""), ("drgn", "")}, **different)
    assert table.open(quick=True).choice.debugger == "crash"
    assert table.tried == [("crash", "")]


def test_a_report_is_answered_by_crash_where_drgn_does_not_come_up(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", "")})
    assert table.open(quick=True).choice.debugger == "crash"
    assert table.tried == [("drgn", ""), ("crash", "")]
    # Where crash came up only with less, drgn is not tried again.
    table = bench({("crash", "--no_modules")})
    table.open()
    before = len(table.tried)
    assert table.open(quick=True).choice.debugger == "crash"
    assert ("drgn", "") not in table.tried[before:]


def test_no_crash_is_started_above_its_ceiling(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", ""), ("drgn", "")}, doubts=NEW)
    session = table.open()
    assert session.choice.debugger == "drgn"
    assert session.doubt is None
    assert table.tried == [("drgn", "")]
    assert table.noting.said == ["drgn answers: crash 9.0.2 of latest knows kernels up to 7.0, and this is 7.2.12"]


MISREAD = {
    "crash": "no crash reads all stacks of kernels 5.8 to 5.11 right, and this is 5.10.0: interrupts change stacks"
}


def test_drgn_answers_about_a_kernel_of_which_each_crash_misreads_stacks(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", ""), ("drgn", "")}, doubts=MISREAD, only_misread=True)
    session = table.open()
    assert (session.choice.debugger, session.doubt) == ("drgn", None)
    assert table.tried == [("drgn", "")]
    assert table.noting.said == [f"drgn answers: {MISREAD['crash'].partition(': ')[0]}"]
    # A report is drgn's, too.
    assert table.open(quick=True).choice.debugger == "drgn"
    assert table.open("crash").doubt == MISREAD["crash"]


@pytest.mark.parametrize(
    ("different", "tried", "reason"),
    [
        ({}, [("drgn", ""), ("crash", "")], "drgn cannot open the dump: drgn: a page is missing"),
        ({"files": 3}, [("crash", "")], "drgn does not read split dumps"),
    ],
    ids=["drgn fails", "split"],
)
def test_crash_answers_with_its_doubt_where_drgn_cannot_and_it_knows_all_but_some_stacks(
    bench: Callable[..., Bench], different: Any, tried: list[tuple[str, str]], reason: str
) -> None:
    table = bench({("crash", ""), ("drgn", "--partial")}, doubts=MISREAD, only_misread=True, **different)
    session = table.open()
    assert table.tried == tried
    assert (session.choice.debugger, session.choice.reason) == ("crash", reason)
    assert session.doubt == MISREAD["crash"]
    # So it does the next time.
    assert table.open().doubt == MISREAD["crash"]


def test_a_kernel_newer_than_both_is_one_line(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", "")}, doubts=NEW)
    with pytest.raises(
        SessionFailed, match=r"^drgn does not open this dump, and crash 9\.0\.2 .* up to 7\.0"
    ) as failed:
        table.open()
    assert "--with crash" in str(failed.value.hint)
    assert table.tried == [("drgn", ""), ("drgn", "--partial")]


def test_a_crash_that_is_asked_for_answers_with_its_doubt(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", "--no_modules"), ("drgn", "")}, doubts=NEW)
    session = table.open("crash")
    assert session.doubt == NEW["crash"]
    assert session.choice.reason == "it was asked for"
    assert [name for name, _ in table.tried] == ["crash"] * 3
    # What is asked for once is not chosen for others.
    assert table.open().choice.debugger == "drgn"


ORDER = [
    ("crash", ""),
    ("drgn", ""),
    ("crash", "--zero_excluded"),
    ("crash", "--no_modules"),
    ("drgn", "--partial"),
    ("crash", "--minimal"),
]


@pytest.mark.parametrize("last", range(len(ORDER)))
def test_what_can_do_most_is_started_first(bench: Callable[..., Bench], last: int) -> None:
    table = bench({ORDER[last]})
    session = table.open()
    assert table.tried == ORDER[: last + 1]
    assert session.choice.debugger == ORDER[last][0]
    assert table.noting.said[-1].startswith(f"{ORDER[last][0]} answers: ")
    assert last == 0 or "crash: a page is missing" in session.choice.reason
    # The next session starts it at once.
    table.tried.clear()
    assert table.open().choice == session.choice
    assert table.tried == [ORDER[last]]


def test_nothing_that_opens_the_dump_says_why(bench: Callable[..., Bench]) -> None:
    table = bench(set())
    with pytest.raises(SessionFailed) as failed:
        table.open()
    assert failed.value.detail == "crash: a page is missing"
    assert table.tried == ORDER


def test_drgn_is_not_tried_on_a_split_dump(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", "--zero_excluded")}, files=3)
    assert table.open().choice.debugger == "crash"
    assert table.tried == [("crash", ""), ("crash", "--zero_excluded")]


def test_a_broken_note_of_the_choice_is_chosen_again(bench: Callable[..., Bench]) -> None:
    table = bench({("crash", "")})
    for text in ("", "{", '{"debugger": "gdb", "reason": ""}', '{"debugger": 3, "reason": ""}'):
        (table.case.directory / "choice").write_text(text)
        assert choice.kept(table.case) is None
    assert table.open().choice.debugger == "crash"
