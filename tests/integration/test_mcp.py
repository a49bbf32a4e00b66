"""The Model Context Protocol server, asked through the SDK's own client; no engine is needed for these tools."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from sandbox import mcp
from sandbox.errors import UsageError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "dumps"
DUMP = FIXTURES / "x86_64-6.1-zlib"


def _call(tool: str, directories: tuple[Path, ...] = (), **arguments: Any) -> tuple[str, bool]:
    async def ask() -> tuple[str, bool]:
        async with Client(mcp.server(directories)) as client:
            result = await client.call_tool(tool, arguments)
            return "".join(part.text for part in result.content), bool(result.is_error)

    return asyncio.run(ask())


def test_the_tools_say_that_they_only_read() -> None:
    async def tools() -> list[Any]:
        async with Client(mcp.server()) as client:
            return (await client.list_tools()).tools

    found = {tool.name: tool for tool in asyncio.run(tools())}
    assert set(found) == {"identify", "run", "dmesg", "report", "log"}
    for tool in found.values():
        assert tool.annotations.read_only_hint
        assert tool.description
        assert "path" in tool.input_schema["required"]


def test_identify() -> None:
    text, failed = _call("identify", path=str(DUMP))
    assert not failed
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


def test_an_error_comes_with_its_hint(tmp_path: Path) -> None:
    text, failed = _call("identify", path=str(tmp_path / "vmcore"))
    assert failed
    assert "hint: check the path" in text


def test_only_below_the_given_directories(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(DUMP)
    for path in (DUMP, tmp_path / "link", tmp_path / ".." / "x"):
        text, failed = _call("identify", (tmp_path,), path=str(path))
        assert failed
        assert "is not below" in text
    assert not _call("identify", (FIXTURES,), path=str(DUMP))[1]


@pytest.mark.parametrize(
    "command",
    ["wr jiffies 0", "!ls", "bt > file", "log | sh", "quit", "bt | grep x | tee y", "gdb shell", "rd `x`", "repeat bt"],
)
def test_commands_that_do_more_than_read_are_refused(command: str) -> None:
    with pytest.raises(UsageError):
        mcp.refuse(command)
    assert _call("run", path=str(DUMP), command=command)[1]


@pytest.mark.parametrize("command", ["bt -a", "log | grep -i error | tail -5", "p init_task->comm", "foreach UN bt"])
def test_commands_that_read_are_not(command: str) -> None:
    mcp.refuse(command)


def test_pages_are_whole_lines_and_lose_nothing() -> None:
    text = "\n".join(f"line {number}" for number in range(10_000)) + "\n" + "x" * 3 * mcp.PAGE
    pages = int(mcp._paged(text, 1).rpartition(" of ")[2].rstrip("]"))
    parts = [mcp._paged(text, page).rpartition("\n[page")[0] for page in range(1, pages + 1)]
    assert all(len(part) <= mcp.PAGE for part in parts)
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
    monkeypatch.setattr(mcp._Answers, "_allowed", lambda _self, path: Path(path))
    for tool in ("dmesg", "identify"):
        text, failed = _call(tool, (case,), path=str(case / "vmcore"))
        assert failed
        assert "is not below" in text
