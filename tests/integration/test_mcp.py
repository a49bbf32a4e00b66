"""The Model Context Protocol server, called with the SDK's own client. These tools need no engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mcp import Client

from sandbox import api, mcp
from sandbox.api import Outcome
from sandbox.errors import UsageError
from sandbox.judge.verdict import Verdict
from sandbox.mcp.answers import MOST, PAGE, newest, paged
from sandbox.mcp.search import search
from sandbox.mcp.tools import Tools
from sandbox.model import CommandStatus
from sandbox.progress import Reporter

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dumps"
DUMP = FIXTURES / "x86_64-6.1-zlib"


def _call(tool: str, directories: tuple[Path, ...] = (), **arguments: Any) -> tuple[str, bool]:
    async def ask() -> tuple[str, bool]:
        async with Client(mcp.server(directories)) as client:
            result = await client.call_tool(tool, arguments)
            return "".join(part.text for part in result.content), bool(result.is_error)

    return asyncio.run(ask())


def test_the_tools_are_marked_as_read_only() -> None:
    async def tools() -> list[Any]:
        async with Client(mcp.server()) as client:
            return (await client.list_tools()).tools

    found = {tool.name: tool for tool in asyncio.run(tools())}
    assert set(found) == {
        *("identify", "explain", "waits", "run", "dmesg", "decode", "search", "source", "drgn", "report", "log")
    }
    for tool in found.values():
        assert tool.annotations.read_only_hint
        assert tool.description
        assert "path" in tool.input_schema["required"]


def test_identify() -> None:
    text, failed = _call("identify", path=str(DUMP))
    assert not failed, text
    assert "release: 6.1" in text
    assert "cause: sysrq" in text


def test_dmesg_in_pages() -> None:
    first, _ = _call("dmesg", path=str(DUMP))
    assert "[page 1 of " in first
    last = int(first.rpartition(" of ")[2].rstrip("]"))
    text, _ = _call("dmesg", path=str(DUMP), page=last)
    assert "sysrq triggered crash" in text
    problem, failed = _call("dmesg", path=str(DUMP), page=last + 1)
    assert failed
    assert f"pages 1 to {last}" in problem


def test_an_error_has_its_hint(tmp_path: Path) -> None:
    text, failed = _call("identify", path=str(tmp_path / "vmcore"))
    assert failed
    assert "hint: check the path" in text


TOOLS = ("identify", "explain", "waits", "run", "dmesg", "decode", "search", "source", "drgn", "report", "log")
NEEDED = {"run": {"command": "bt"}, "search": {"pattern": "x"}, "source": {"place": "f+0x1"}, "drgn": {"script": "1"}}


@pytest.mark.parametrize("tool", TOOLS)
def test_bad_arguments_are_one_clear_error(tool: str, tmp_path: Path) -> None:
    given = {"path": str(DUMP), **NEEDED.get(tool, {})}
    bad = [({}, f"{tool}: path: Field required"), ({**given, "lines": 3}, f"{tool} has no parameter lines")]
    if tool not in {"identify", "source"}:
        bad += [({**given, "page": "x"}, f"{tool}: page: Input should be a valid integer")]
    if tool not in {"identify", "source", "log"}:
        bad += [({**given, "page": 0}, "there is no page 0")]
    if tool != "log":  # whose dump may be gone
        text = tmp_path / "notes"
        text.write_text("no log at all\n")
        bad += [({**given, "path": str(text)}, f"{text} is text, but no kernel log")]
        bad += [({**given, "path": str(tmp_path / "vmcore")}, f"there is no file {tmp_path / 'vmcore'}")]
    for arguments, words in bad:
        said, failed = _call(tool, **arguments)
        assert failed, said
        assert words in said
        first, *rest = said.splitlines()
        assert [one for one in rest if not one.startswith("hint: ")] == [], said
        assert "pydantic" not in first


@pytest.mark.parametrize("tool", ["identify", "dmesg", "log"])
def test_a_path_with_a_nul(tool: str) -> None:
    text, failed = _call(tool, path="/tmp/\0")
    assert failed
    assert "a path has no NUL in it" in text


def test_only_below_the_given_directories(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(DUMP)
    for path in (DUMP, tmp_path / "link", tmp_path / ".." / "x"):
        text, failed = _call("identify", (tmp_path,), path=str(path))
        assert failed
        assert "is not below" in text
    assert not _call("identify", (FIXTURES,), path=str(DUMP))[1]


@pytest.mark.parametrize(
    "command",
    [
        "wr jiffies 0",
        "!ls",
        "bt > file",
        "log | sh",
        "quit",
        'p $_shell("id")',
        "shell id",
        "gdb shell",
        "log | grep x",
    ],
)
def test_commands_that_do_more_than_read_are_refused(command: str) -> None:
    text, failed = _call("run", path=str(DUMP), command=command)
    assert failed
    assert "hint: bt, ps, log" in text


DONE = Outcome(
    command="ps",
    status=CommandStatus.OK,
    seconds=0.1,
    bytes=0,
    debugger="crash",
    reason="it knows this kernel",
    doubt=None,
    verdicts=(),
    not_judged=None,
)


def _answered(monkeypatch: pytest.MonkeyPatch, pieces: Iterable[bytes], **arguments: Any) -> str:
    """What the tool makes of a crash that prints `pieces`. A stand-in for the case: no engine is needed."""

    class Case:
        # Where the choice of a debugger would be kept.
        case = SimpleNamespace(directory=Path("/nonexistent"), doubts={})

        def stream(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Outcome:
            for piece in pieces:
                sink(piece)
            return replace(DONE, command=command, seconds=timeout)

    monkeypatch.setattr(api, "open", lambda *_, **__: nullcontext(Case()))
    text, failed = _call("run", path=str(DUMP), command="ps", **arguments)
    assert not failed, text
    return text


def test_what_an_assistant_has_to_know_of_an_answer_is_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    false = Verdict(
        subject="stack",
        agrees=False,
        by="drgn",
        against="the log's call trace",
        words="drgn has b below a, there it is c",
        stack=("a", "b"),
        witness=("a", "c"),
        pid=7,
        command="sh",
    )
    said = {
        "[error]": replace(DONE, status=CommandStatus.ERROR),
        "[answered by drgn: crash is too old; it is newer than drgn]": replace(
            DONE, debugger="drgn", reason="crash is too old", doubt="it is newer than drgn"
        ),
        "[stack of PID 7 (sh) DISAGREES WITH: the log's call trace (drgn has b below a, there it is c); "
        "the log's call trace has a < c]": replace(DONE, verdicts=(false,)),
        "[stack of PID 7 (sh) AGREES WITH: the log's call trace (2 frames)]": replace(
            DONE, verdicts=(replace(false, agrees=True, words="2 frames"),)
        ),
        "[the stack is not compared with the kernel's own: no log]": replace(DONE, not_judged="no log"),
    }
    for words, done in said.items():
        monkeypatch.setattr(f"{__name__}.DONE", done)
        assert _answered(monkeypatch, [b"one\n"]) == f"one\n\n{words}"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({}, ["one", "two Two", "three", "four"]),
        ({"grep": "o"}, ["one", "two Two", "four"]),
        ({"grep": "ee|ou"}, ["three", "four"]),
        ({"grep": "TWO"}, []),
        ({"grep": "TWO", "ignore_case": True}, ["two Two"]),
        ({"grep": ".*"}, []),
        ({"head": 2}, ["one", "two Two"]),
        ({"tail": 2}, ["three", "four"]),
        ({"grep": "o", "tail": 1}, ["four"]),
        ({"tail": 3, "head": 1}, ["two Two"]),
    ],
)
def test_what_a_pipe_would_do(arguments: dict[str, Any], lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [b"on", b"e\ntwo Two\nth", b"ree\nfour"]
    assert _answered(monkeypatch, pieces, **arguments).split("\n") == (lines or [""])


@pytest.mark.parametrize("arguments", [{}, {"tail": 100_000}, {"tail": 10**9}, {"grep": "A"}])
@pytest.mark.parametrize("piece", [b"A" * 65536, (b"A" * 63 + b"\n") * 1024], ids=["one line", "lines"])
def test_an_answer_without_an_end_is_not_held(
    piece: bytes, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = 0

    def pieces() -> Iterator[bytes]:
        nonlocal heard
        for _ in range(200 if arguments.get("tail") else 100_000):
            heard += len(piece)
            yield piece

    text = _answered(monkeypatch, pieces(), **arguments)
    assert len(text) < 2 * PAGE
    if "tail" not in arguments:
        assert heard < 10 << 20
        last = text.rpartition(" of ")[2].rstrip("]")
        assert "stopped after 8 MiB" in _answered(monkeypatch, pieces(), page=int(last), **arguments)


def test_a_negative_number_of_lines_is_refused() -> None:
    assert _call("run", path=str(DUMP), command="ps", head=-1)[1]


def test_of_what_is_long_the_newest_is_held() -> None:
    text = newest(f"{number} " + "x" * 100_000 for number in range(1000))
    assert text.startswith("[what was before is left out]\n")
    assert "\n999 x" in text
    assert len(text) < MOST + 100


def test_pages_are_whole_lines_and_lose_nothing() -> None:
    text = "\n".join(f"line {number}" for number in range(10_000)) + "\n" + "x" * 3 * PAGE
    pages = int(paged(text, 1).rpartition(" of ")[2].rstrip("]"))
    parts = [paged(text, page).rpartition("\n[page")[0] for page in range(1, pages + 1)]
    assert all(len(part) <= PAGE for part in parts)
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")


def test_a_link_beside_a_dump_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("[    0.000000] Linux version 6.1.0 secret\n" * 9)
    case = tmp_path / "case2"
    case.mkdir()
    (case / "vmcore").write_bytes(DUMP.read_bytes()[:20000])
    (case / "vmcore-dmesg.txt").symlink_to(secret)
    for tool in ("dmesg", "identify"):
        text, _ = _call(tool, (case,), path=str(case / "vmcore"))
        assert "secret" not in text


def test_the_opened_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tmp_path / "case"
    case.mkdir()
    (case / "vmcore").symlink_to(DUMP)
    # As if the name had become a link after the check of it.
    monkeypatch.setattr(Tools, "_allowed", lambda _self, path: Path(path))
    for tool in ("dmesg", "identify"):
        text, failed = _call(tool, (case,), path=str(case / "vmcore"))
        assert failed
        assert "is not below" in text


def test_search_finds_lines_of_the_log_with_what_shows_them() -> None:
    text, failed = _call("search", path=str(DUMP), pattern=r"rcu: .*RCU|^\[ +[\d.]+\] Kernel panic")
    assert not failed, text
    log = _call("dmesg", path=str(DUMP), page=1)[0].splitlines()
    first = text.splitlines()[0]
    number, _, line = first.removeprefix("dmesg:").partition(": ")
    assert log[int(number) - 1] == line
    assert _call("search", path=str(DUMP), pattern="kernel PANIC", ignore_case=True)[0].startswith("dmesg:")
    assert _call("search", path=str(DUMP), pattern="kernel PANIC")[0] == "no line matches"


def test_search_finds_lines_of_answers_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    class Case:
        def stream(self, command: str, sink: Callable[[bytes], None], *, timeout: float) -> Outcome:
            sink(b"PID: 1\n#0 [ffffc900] some_function at ffff\n")
            return replace(DONE, command=command, seconds=timeout)

    monkeypatch.setattr(api, "open", lambda *_, **__: nullcontext(Case()))

    async def ask() -> list[str]:
        async with Client(mcp.server()) as client:
            found = []
            for path, tool, more in (
                (DUMP, "run", {"command": "bt -a"}),
                (DUMP, "search", {"pattern": r"some_\w+ at"}),
                (FIXTURES / "x86_64-6.12-zstd", "search", {"pattern": r"some_\w+ at"}),
            ):
                result = await client.call_tool(tool, {"path": str(path), **more})
                found.append("".join(part.text for part in result.content))
            return found

    _, mine, other = asyncio.run(ask())
    assert mine == "run bt -a:2: #0 [ffffc900] some_function at ffff"
    assert other == "no line matches"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "the pattern is none: missing ), unterminated subpattern"),
        ("", "a pattern has 1 to 1000 characters"),
        ("x" * 1001, "a pattern has 1 to 1000 characters"),
    ],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, words: str) -> None:
    text, failed = _call("search", path=str(DUMP), pattern=pattern)
    assert failed
    assert words in text


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(a+)+$", r"((a{0,40}){0,40}){0,40}b"])
def test_a_pattern_that_takes_for_ever_is_ended(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match="takes longer than 1 seconds"):
        search(pattern, [("dmesg", "a" * 5000 + "!")], ignore_case=False, patience=1)
    assert time.monotonic() - began < 10


def test_many_and_long_lines_that_match_are_bounded() -> None:
    found = search("x+", [("run ps", ("x" * 3000 + "\n") * 5000)], ignore_case=False)
    assert found.more
    assert len(found.lines) == 2000
    assert all(len(one.line) == 500 for one in found.lines)


def test_progress_is_reported_while_a_dump_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, reporter: Reporter, **__: Any) -> Any:
        with reporter.step("Fetching debuginfo", total=3 << 20, unit="B") as step:
            for _ in range(3):
                step.advance(1 << 20)
        reporter.notice("crash is older than this kernel")
        raise UsageError("no engine here")

    monkeypatch.setattr(api, "open", opened)
    monkeypatch.setattr("sandbox.mcp.progress._BETWEEN", 0)
    told: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async def ask() -> str:
        async with Client(mcp.server()) as client:
            result = await client.call_tool("run", {"path": str(DUMP), "command": "bt"}, progress_callback=heard)
            return "".join(part.text for part in result.content)

    assert "no engine here" in asyncio.run(ask())
    assert [number for number, _ in told] == [1, 2, 3, 4, 5]
    assert [words for _, words in told] == [
        "Fetching debuginfo",
        "Fetching debuginfo: 1.0 MiB of 3.0 MiB",
        "Fetching debuginfo: 2.0 MiB of 3.0 MiB",
        "Fetching debuginfo: 3.0 MiB of 3.0 MiB",
        "crash is older than this kernel",
    ]


@pytest.mark.parametrize("place", ["", "rm -rf", "a b", "0x12", "f+0xzz", "f;g"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    text, failed = _call("source", path=str(DUMP), place=place)
    assert failed
    assert "is neither an address nor a symbol" in text


def test_source_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(UsageError, match="neither a directory nor a package of source"):
            mcp.server(sources=path)
    mcp.server(sources=tmp_path)


def test_a_script_without_a_word_is_refused() -> None:
    assert "a script has 1 to" in _call("drgn", path=str(DUMP), script=" \n")[0]
