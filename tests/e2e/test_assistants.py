"""`vmbox mcp` as an editor starts it, with a genuine dump behind it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import jsonschema
from mcp import Client, StdioServerParameters

from e2e.conftest import AGREES
from engines import EngineUnderTest
from sandbox.report import write


def test_an_assistant_reads_a_dump(docker_engine: EngineUnderTest, dumps) -> None:
    dump = dumps()
    command, *arguments = [*docker_engine.vmbox, "mcp", str(dump.parent)]
    parameters = StdioServerParameters(command=command, args=arguments, env=dict(docker_engine.env))

    async def session() -> dict[str, str]:
        async with Client(parameters, read_timeout_seconds=600) as client:

            async def ask(tool: str, **given: Any) -> str:
                answer = await client.call_tool(tool, {"path": str(dump), **given})
                return "".join(part.text for part in answer.content)

            answers = {"run": await ask("run", command="bt"), "report": "", "log": await ask("log")}
            for page in range(1, 100):
                text = await ask("report", page=page)
                last = re.search(r"\n\[page (\d+) of (\d+)\]$", text)
                answers["report"] += text[: last.start()] + "\n" if last else text
                if last is None or last[1] == last[2]:
                    break
            answers["explain"] = await ask("explain")
            answers["waits"] = await ask("waits")
            answers["unknown"] = await ask("run", command="struct nosuch")
            answers["lines"] = await ask("run", command="bt", grep="PID: |nowhere", head=1)
            answers["gdb"] = await ask("run", command="shell id")
            return answers

    answers = asyncio.run(session())
    assert "sysrq_handle_crash" in answers["run"]
    report = json.loads(answers["report"])
    jsonschema.validate(report, write.schema())
    assert report["panic"]["cause"] == "sysrq"
    assert "sysrq_handle_crash" in [frame["function"] for frame in report["backtrace"]["frames"]]
    assert "No instruction of the kernel faulted: Kernel panic - not syncing: sysrq" in answers["explain"]
    assert answers["waits"].startswith("0 tasks were in uninterruptible sleep")
    assert "crash> bt\n" in answers["log"]
    assert "[error]" in answers["unknown"]
    assert re.fullmatch(r".*PID: .*\n?", answers["lines"])
    assert "not a command that only reads" in answers["gdb"]
    # The same warm crash answers the command line.
    done = docker_engine.run("run", str(dump), "--", "bt")
    stack, remark = answers["run"].rsplit("\n[", 1)
    assert stack.rstrip("\n") in done.stdout.decode()
    assert re.fullmatch(r"stack AGREES WITH: the log's call trace \(\d+ frames\)\]", remark)
    assert re.fullmatch(AGREES, done.stderr)
    docker_engine.run("close", "--all")
