"""What a case may not do with files it is asked for. A stand-in for the session: no genuine crash answers so."""

from __future__ import annotations

import base64
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case.container_spec import limits, scratch_size
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import CommandTimeout, NoSpace, SessionFailed, UsageError
from sandbox.progress import QUIET
from sandbox.session import output_files
from sandbox.session.output_files import OutputDirectory, OutputFiles


class Noting(type(QUIET)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, line: str) -> None:
        self.said.append(line)


class Hostile:
    """Answers the request for each file, and for the list of what else there is, as it likes."""

    debugger = DEFAULT

    def __init__(self, *answers: bytes | Iterator[bytes], listing: bytes = b"./\n") -> None:
        self._answers = list(answers)
        self._listing = listing
        self.asked: list[str] = []
        self.heard = 0

    def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> None:
        assert timeout <= 600
        self.asked.append(command)
        if "base64" in command:
            answer = self._answers.pop(0)
            for piece in _pieces(answer) if isinstance(answer, bytes) else answer:
                self.heard += len(piece)
                sink(piece)
        elif "tar" in command:
            for piece in _pieces(self._listing):
                sink(piece)


def _pieces(answer: bytes) -> Iterator[bytes]:
    """Of an odd size."""
    return (answer[at : at + 101] for at in range(0, len(answer), 101))


def _file(content: bytes) -> bytes:
    return base64.encodebytes(content) + b".\n"


def _bring(session: Hostile, directory: Path, commands: Sequence[str], limit: int = 1 << 20) -> list[str]:
    noting = Noting()
    with (
        OutputDirectory(directory) as made,
        OutputFiles(session, made, limit=limit, reporter=noting) as files,  # type: ignore[arg-type]
    ):
        for command in commands:
            files.expect(command)
    return noting.said


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


def test_what_commands_redirected_to_comes_out(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    session = Hostile(_file(b"PID: 1\n"), _file(b"x" * 100000), _file(b""))
    mask = os.umask(0o027)
    try:
        said = _bring(session, out, ["bt > bt.txt", "log | grep x >> a'b.txt'", "!echo > empty"])
    finally:
        os.umask(mask)
    assert said == [f"wrote {out / name}" for name in ("bt.txt", "ab.txt", "empty")]
    assert (out / "bt.txt").read_bytes() == b"PID: 1\n"
    assert (out / "ab.txt").read_bytes() == b"x" * 100000
    assert (out / "empty").read_bytes() == b""
    assert (out / "bt.txt").stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("bt > bt.txt", {"bt.txt"}),
        ("bt>>bt.txt ", {"bt.txt"}),
        ("bt -a > with a space", {"with a space"}),
        ("p init_task->comm", set()),
        ("p (1 > 0)", set()),
        ('p "a > b"', set()),
        ("p init_task->comm > name", {"name"}),
        ("log | grep -i error > errors.txt", {"errors.txt"}),
        ("log | tee x 2>/dev/null >> 'a b'", {"a b"}),
        ("!md5sum x > sums; date >dates", {"sums", "dates"}),
        ("log | grep '", set()),
        ("bt >", set()),
        ("bt > sub/bt", {"sub/bt"}),
    ],
)
def test_redirections_are_found_as_crash_finds_them(command: str, names: set[str]) -> None:
    assert DEFAULT.output_files(command) == names


def test_drgn_redirects_as_a_shell_does() -> None:
    drgn = DEBUGGERS["drgn"]
    assert drgn.output_files("bt -a > stacks") == {"stacks"}
    assert drgn.output_files("log | tee >errors 2>/dev/null") == {"errors"}
    assert not drgn.output_files("log | tail -3")


@pytest.mark.parametrize(
    "name", ["../escaped", "/escaped", "sub/escaped", ".bashrc", "..", "a\x1b]0;b", "a\x85b", "\udcff", "x" * 256]
)
def test_only_plain_names_come_out(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    session = Hostile(_file(b"x"))
    (said,) = _bring(session, out, [f"bt > {name}"])
    assert "is left in the case" in said
    assert _names(tmp_path) == ["out"]
    assert not any("base64" in command for command in session.asked)


def test_what_no_command_redirected_to_stays_and_is_said(tmp_path: Path) -> None:
    listing = b"./\n./deep/\n./deep/random\n./vmcore\n./bt.txt\n" + b"".join(b"./%d\n" % number for number in range(90))
    said = _bring(Hostile(_file(b"x"), listing=listing), tmp_path / "out", ["bt > bt.txt", "!make things"])
    assert _names(tmp_path / "out") == ["bt.txt"]
    assert said[1:3] == [
        f"'{name}' is left in the case: no command redirected to it" for name in ("deep/random", "vmcore")
    ]
    assert said[-1] == "82 more files are left in the case"


def test_a_list_without_an_end_is_not_heard_to_its_end(tmp_path: Path) -> None:
    assert len(_bring(Hostile(listing=b"x" * (10 << 20)), tmp_path / "out", [])) == 1


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "my files"
    out.mkdir()
    (out / "vmcore").write_text("evidence")
    (tmp_path / "my files-2").mkdir()
    with pytest.raises(UsageError, match="is not empty") as caught:
        OutputDirectory(out)
    assert caught.value.hint == f"--output '{tmp_path}/my files-3'"
    with pytest.raises(UsageError, match="cannot be written"):
        OutputDirectory(out / "vmcore")


def test_what_came_into_the_directory_meanwhile_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    with OutputDirectory(out) as made:
        (out / "bt.txt").symlink_to(tmp_path / "precious")
        (out / "log.txt").write_text("mine")
        noting = Noting()
        with OutputFiles(Hostile(), made, limit=1 << 20, reporter=noting) as files:  # type: ignore[arg-type]
            files.expect("bt > bt.txt")
            files.expect("log > log.txt")
    assert len([line for line in noting.said if line.endswith("exists")]) == 2
    assert (tmp_path / "precious").read_text() == (out / "log.txt").read_text() == "mine"


def test_a_directory_that_is_moved_and_replaced_by_a_link_leads_nowhere(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with OutputDirectory(out) as made:
        out.rename(tmp_path / "moved")
        out.symlink_to(elsewhere)
        with OutputFiles(Hostile(_file(b"x")), made, limit=1 << 20) as files:  # type: ignore[arg-type]
            files.expect("bt > bt.txt")
    assert _names(elsewhere) == []
    assert (tmp_path / "moved" / "bt.txt").read_bytes() == b"x"


def test_what_was_not_written_is_said(tmp_path: Path) -> None:
    assert _bring(Hostile(b""), tmp_path / "out", ["nosuch > bt.txt"]) == ["'bt.txt' was not written by its command"]
    assert _names(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"garbage!\n.\n", "base64|data"),
        (base64.encodebytes(b"x" * 500), "in part only"),
        (_file(b"x") + _file(b"y"), "more follows its end"),
        (_file(b"x" * (1 << 20) + b"y"), "more of it than the case has scratch memory"),
    ],
)
def test_what_is_no_file_is_one_error(answer: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(SessionFailed, match=why):
        _bring(Hostile(answer), tmp_path / "out", ["bt > bt.txt"])
    assert _names(tmp_path / "out") == []


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(SessionFailed, match="scratch memory"):
        _bring(Hostile(_file(b"x" * 600), _file(b"y" * 600)), tmp_path / "out", ["bt > a", "bt > b"], limit=1000)
    assert _names(tmp_path / "out") == ["a"]


def test_megabytes_without_a_newline_are_cut_off(tmp_path: Path) -> None:
    session = Hostile(b"A" * 65536 for _ in range(4000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SessionFailed, match="a line of more than 4096 bytes"):
        _bring(session, tmp_path / "out", ["bt > bt.txt"])
    assert session.heard <= 65536
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


def test_a_case_that_takes_its_time_is_given_up(tmp_path: Path) -> None:
    class Slow(Hostile):
        def run(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> None:
            if "base64" in command:
                raise CommandTimeout(f"{command!r} was stopped after {timeout} seconds")

    with pytest.raises(SessionFailed, match="did not come out within"):
        _bring(Slow(), tmp_path / "out", ["bt > bt.txt"])
    assert _names(tmp_path / "out") == []


def test_a_full_disk_is_said_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_files, "write_all", full)
    with pytest.raises(NoSpace):
        _bring(Hostile(_file(b"x")), tmp_path / "out", ["bt > bt.txt"])
    assert _names(tmp_path / "out") == []


@pytest.mark.parametrize("memory", ["", "1G", "0"])
def test_the_bound_is_the_size_of_the_scratch(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory:
        monkeypatch.setenv("VMBOX_MEMORY", memory)
    host = SimpleNamespace(memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), cpus=2)
    case = SimpleNamespace(remote=False)
    assert scratch_size(case) == limits(host).scratch  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "free"), [(".", "there-2"), ("..", "-2"), ("/", "output-2")])
def test_a_directory_without_a_name_of_its_own_is_refused_like_others(
    name: str, free: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(UsageError, match="is not empty") as caught:
        OutputDirectory(Path(name))
    assert caught.value.hint.endswith(free)
