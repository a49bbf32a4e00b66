"""`vmbox mcp` as an editor starts it, with a genuine dump behind it."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp import Client, StdioServerParameters

from engines import EngineUnderTest


def test_an_assistant_reads_a_dump(docker_engine: EngineUnderTest, dumps) -> None:
    dump = dumps()
    command, *arguments = [*docker_engine.vmbox, "mcp", str(dump.parent)]
    parameters = StdioServerParameters(command=command, args=arguments, env=dict(docker_engine.env))

    async def session() -> dict[str, Any]:
        async with Client(parameters, read_timeout_seconds=600) as client:
            calls: dict[str, dict[str, Any]] = {
                "run": {"path": str(dump), "command": "bt"},
                "report": {"path": str(dump)},
                "log": {"path": str(dump)},
            }
            answers = {name: await client.call_tool(name, given) for name, given in calls.items()}
            answers["unknown"] = await client.call_tool("run", {"path": str(dump), "command": "nosuch"})
            return answers

    answers = {name: "".join(part.text for part in answer.content) for name, answer in asyncio.run(session()).items()}
    assert "sysrq_handle_crash" in answers["run"]
    assert "crash> foreach UN bt" in answers["report"]
    assert "crash> bt\n" in answers["log"]
    assert "[error]" in answers["unknown"]
    # The same warm crash answers the command line.
    done = docker_engine.run("run", str(dump), "--", "bt")
    assert answers["run"] in done.stdout.decode()
    assert done.stderr == b""
    docker_engine.run("close", "--all")
