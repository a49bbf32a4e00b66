"""Sessions whose case no container runs: this test holds the other ends of the FIFOs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case import container, opening, overdue, store, with_debugger
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS, StartMode
from sandbox.engine import orphans
from sandbox.errors import DebuginfoMismatch, DumpDamaged, EngineFailed, SessionDied, SessionFailed
from sandbox.host import network_files
from sandbox.model import Case
from sandbox.session import choice, start
from sandbox.session.fallback import mode_file
from sandbox.session.session import DAMAGED, Session

ONCE, WARM = OpenOptions(once=True), OpenOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A case, and the ids of those that were closed."""

    case: Case
    closed: list[str] = field(default_factory=list)

    def turn_is_free(self) -> bool:
        return not list(self.case.directory.glob("turn-*"))


@pytest.fixture
def bench(make_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    place = tmp_path / "0123-docker.once12"
    store.make_directory(place)
    made = Bench(case=make_case(id=place.name, directory=place))
    monkeypatch.setattr(container, "close", lambda case, **_: made.closed.append(case.id))
    _opening(monkeypatch, made.case)
    ends = [os.open(made.case.shared / name, os.O_RDWR) for name in ("in", "out", "in-2", "out-2", "ctl")]
    yield made
    for end in ends:
        os.close(end)


def _opening(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(start, "find_or_open_case", lambda *_: replace(case, opened=datetime.now(UTC)))


def _starting(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None = None) -> None:
    def started(*_: object) -> bytes:
        if outcome is not None:
            raise outcome
        return b""

    monkeypatch.setattr(Session, "start", started)


def test_a_case_of_one_session_ends_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _starting(monkeypatch)
    session, _ = start.open_session(bench.case.dump, ONCE)
    with session:
        session.release()
        assert bench.turn_is_free()
        session.acquire()
        assert bench.closed == []
    session.close()
    assert bench.closed == [bench.case.id]
    assert bench.turn_is_free()


def test_a_case_that_others_find_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _starting(monkeypatch)
    with start.open_session(bench.case.dump, WARM)[0]:
        pass
    # A second session of a case that is another's alone, e.g. for the modules that its prompt asks for.
    with Session(bench.case):
        pass
    assert bench.closed == []


@pytest.mark.parametrize(
    ("outcome", "options", "closed"),
    [
        (SessionFailed("no"), ONCE, 1),
        # Nothing could be done in it.
        (SessionFailed("no"), WARM, 1),
        (KeyboardInterrupt(), ONCE, 1),
        (KeyboardInterrupt(), WARM, 0),
        (SessionDied("gone"), ONCE, 1),
        (SessionDied("gone"), WARM, 0),
    ],
)
def test_a_start_that_fails_or_is_interrupted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: BaseException, options: OpenOptions, closed: int
) -> None:
    _opening(monkeypatch, replace(bench.case, profile="latest", versions={"crash": "9.0.2", "drgn": "0.3.0"}))
    _starting(monkeypatch, outcome)
    with pytest.raises(type(outcome)):
        start.open_session(bench.case.dump, options)
    assert bench.closed == [bench.case.id] * closed
    assert bench.turn_is_free()


def test_a_case_that_has_ended_before_its_session_began(
    make_case: Callable[..., Case], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = make_case(id="nowhere")
    _opening(monkeypatch, nowhere)
    with pytest.raises(SessionDied):
        start.open_session(nowhere.dump, ONCE)
    assert bench.closed == ["nowhere"]


def test_a_dump_without_a_part(make_case: Callable[..., Case], bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = make_case(id=bench.case.id, directory=bench.case.directory, incomplete="cut off")
    _opening(monkeypatch, cut)
    _starting(monkeypatch, SessionFailed("no"))
    with pytest.raises(DumpDamaged, match="cut off"):
        start.open_session(cut.dump, ONCE)
    assert bench.closed == [cut.id]


def test_a_case_that_a_debugger_has_opened_stays_when_another_one_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode_file(bench.case, DEBUGGERS["crash"]).write_text("")
    monkeypatch.setattr(start, "case_with", lambda *_args, **_named: (bench.case, False))
    _starting(monkeypatch, SessionFailed("no"))
    with pytest.raises(SessionFailed):
        start.open_session(bench.case.dump, replace(WARM, debugger="drgn"))
    assert bench.closed == []


def test_a_case_that_a_stalled_file_system_keeps_is_said_to_be_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(*_args: object, **_named: object) -> None:
        raise EngineFailed("Podman cannot remove a container: given PIDs did not die within timeout")

    monkeypatch.setattr(container, "close", close)
    with Session(bench.case) as session, pytest.raises(EngineFailed):
        session._give_up()
    monkeypatch.setattr(network_files, "kind", lambda _: "fuse.sshfs")
    with Session(bench.case) as session:
        given_up = session._give_up()
    assert "(fuse.sshfs), which does not answer" in given_up.message
    assert given_up.hint == f"when it does, or is ended: vmbox close {bench.case.id}"


@pytest.mark.parametrize(
    ("options", "doubts", "tried"),
    [
        (ONCE, {}, ["drgn --partial"]),
        # Where drgn would read zeros, it is the last resort but one.
        (ONCE, {"drgn": "zeros"}, ["crash ", "drgn ", "crash --zero_excluded"]),
        (replace(ONCE, debugger="crash"), {}, ["crash ", "crash --minimal"]),
    ],
)
def test_what_is_tried_on_a_dump_that_is_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: OpenOptions, doubts: dict[str, str], tried: list[str]
) -> None:
    versions = {"crash": "9.0.2", "drgn": "0.3.0"}
    case = replace(bench.case, incomplete="cut off in the page data", doubts=doubts, versions=versions)
    _opening(monkeypatch, replace(case, vmlinux=Path("vmlinux")))
    seen = []

    def started(session: Session, modes: Sequence[StartMode] | None = None) -> bytes:
        seen.extend(f"{session.debugger.name} {mode.option}" for mode in modes or session.debugger.start_modes)
        raise SessionFailed("no")

    monkeypatch.setattr(Session, "start", started)
    monkeypatch.setattr(start, "case_with", lambda *_args, **_named: (case, True))
    with pytest.raises(DumpDamaged, match="cut off"):
        start.open_session(bench.case.dump, options)
    assert seen[: len(tried)] == tried
    assert len(seen) == len(tried) or doubts


@pytest.mark.parametrize(
    ("vmlinux", "options", "words"),
    [
        (None, WARM, ["there is no debuginfo (--no-debuginfo)", "vmbox debuginfo fetch"]),
        (None, replace(WARM, no_debuginfo=True), []),
        (Path("vmlinux"), WARM, []),
    ],
)
def test_an_open_case_without_debuginfo_says_so_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, vmlinux: Path | None, options: OpenOptions, words: list[str]
) -> None:
    case = replace(bench.case, vmlinux=vmlinux, no_debuginfo="" if vmlinux else "--no-debuginfo")
    choice.keep(case, choice.by_kernel(case))
    _opening(monkeypatch, case)
    _starting(monkeypatch)
    for _ in range(2):
        said: list[str] = []
        reporter = SimpleNamespace(notice=said.append)
        start.open_session(case.dump, options, reporter)[0].close()  # type: ignore[arg-type]  # all that is used
        assert len(said) == (1 if words else 0)
        assert all(word in said[0] for word in words)


@pytest.mark.parametrize("opens", [True, False])
def test_damaged_pages_are_named_once(bench: Bench, monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    def started(session: Session, *_: object) -> bytes:
        session.damaged = True
        if not opens:
            raise SessionFailed("crash does not open this dump", detail="crash: uncompress failed: -5")
        return b""

    monkeypatch.setattr(Session, "start", started)
    said: list[str] = []
    reporter = SimpleNamespace(notice=said.append)
    if opens:
        start.open_session(bench.case.dump, WARM, reporter)[0].close()  # type: ignore[arg-type]  # all that is used
        assert [line for line in said if "damaged" in line] == [DAMAGED]
        return
    chosen = replace(WARM, debugger="crash", image="latest")
    monkeypatch.setattr(start, "case_with", lambda *_, **__: (bench.case, True))
    with pytest.raises(DumpDamaged, match="cannot be unpacked"):
        start.open_session(bench.case.dump, chosen, reporter)  # type: ignore[arg-type]


def test_a_case_is_replaced_when_everything_is_at_hand(
    make_case: Callable[..., Case], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
    before, after = make_case(id="before", dump=dump), make_case(id="after", dump=dump)
    monkeypatch.setattr(store, "find", lambda *_, **__: before)
    engine: Future[object] = Future()
    engine.set_result(None)
    monkeypatch.setattr(opening, "_connecting", lambda _: nullcontext(engine))
    monkeypatch.setattr(overdue, "close_overdue", lambda: None)
    monkeypatch.setattr(orphans, "orphans", lambda _: [])
    monkeypatch.setattr(opening, "_refuse_remote", lambda *_: None)
    outcome: list[Exception] = [DebuginfoMismatch("of another build")]

    def provision(*_: object) -> None:
        if outcome:
            raise outcome.pop()

    monkeypatch.setattr(opening, "provision_or_without", provision)
    monkeypatch.setattr(opening, "_case", lambda *_: after)
    options = OpenOptions(image="debian-12")
    with pytest.raises(DebuginfoMismatch):
        opening.find_or_open_case(dump, options)
    assert bench.closed == []
    assert opening.find_or_open_case(dump, options) == after
    assert bench.closed == ["before"]


def test_an_image_without_a_debugger_says_why(make_case: Callable[..., Case]) -> None:
    said = {
        name: with_debugger.lacks(make_case(profile=name), DEBUGGERS["drgn"])
        for name in ("el7", "debian-12", "of-a-user")
    }
    assert said == {
        "el7": "image el7 has no drgn (the C library is 2.17, and the wheel needs 2.27)",
        # Where the wheel could not be fetched.
        "debian-12": "image debian-12 has no drgn",
        "of-a-user": "image of-a-user has no drgn",
    }
    error = with_debugger.lacking(make_case(profile="el7"), DEBUGGERS["drgn"])
    assert error.message == said["el7"]
    assert "--image latest" in (error.hint or "")
