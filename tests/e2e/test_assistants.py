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

SCRIPT = """\
drgn.seen = True
print(prog.crashed_thread().object.comm.string_().decode())
print("said")
"""


def test_an_assistant_reads_a_dump(docker_engine: EngineUnderTest, dumps) -> None:
    dump = dumps()
    command, *arguments = [*docker_engine.vmbox, "mcp", str(dump.parent)]
    docker_engine.run("close", "--all")
    parameters = StdioServerParameters(command=command, args=arguments, env=dict(docker_engine.env))

    told: list[str | None] = []

    async def session() -> dict[str, str]:
        async with Client(parameters, read_timeout_seconds=600) as client:

            async def heard(progress: float, total: float | None, message: str | None) -> None:
                del progress, total
                told.append(message)

            async def ask(tool: str, **given: Any) -> str:
                answer = await client.call_tool(tool, {"path": str(dump), **given}, progress_callback=heard)
                return "".join(part.text for part in answer.content)

            answers = {"run": await ask("run", command="bt"), "report": "", "log": await ask("log")}
            answers["told"] = str(len(told))
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
            answers["search"] = await ask("search", pattern=r"sysrq_handle_crash\+0x|#\d+ .* sysrq_handle_crash at")
            place = re.search(r"\bsysrq_handle_crash\+0x[0-9a-f]+/0x[0-9a-f]+", answers["search"])
            answers["source"] = await ask("source", place=place[0])
            answers["nowhere"] = await ask("source", place="no_such_function+0x12")
            answers["decode"] = await ask("decode") + await ask("decode", page=2)
            # What a script does to its debugger is not seen by the next one.
            answers["drgn"] = await ask("drgn", script=SCRIPT)
            answers["again"] = await ask("drgn", script="print(hasattr(drgn, 'seen'))\nprog['nosuch']")
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
    assert int(answers["told"]) > 0, "the opening took seconds and nothing was said"
    assert "Starting crash" in " ".join(filter(None, told)), told
    assert re.search(r"^dmesg:\d+: .* sysrq_handle_crash\+0x", answers["search"], re.MULTILINE)
    assert re.search(r"^run bt:\d+: +#\d+ ", answers["search"], re.MULTILINE)
    assert re.search(r"\n  sysrq_handle_crash \S*drivers/tty/sysrq\.c:\d+:\d+\n +sym ", answers["source"])
    assert "no symbol of this kernel has that name: no_such_function+0x12" in answers["nowhere"]
    line = re.search(r"sysrq\.c:\d+", answers["source"])[0]
    assert re.search(rf"sysrq_handle_crash\+0x\S+ \(.*{line}\)", answers["decode"]), answers["decode"][-3000:]
    assert answers["drgn"] == "init\nsaid"
    assert answers["again"].startswith("False\n")
    assert "ObjectNotFoundError: could not find 'nosuch'" in answers["again"]
    # The same warm crash answers the command line.
    done = docker_engine.run("run", str(dump), "--", "bt")
    stack, remark = answers["run"].rsplit("\n[", 1)
    assert stack.rstrip("\n") in done.stdout.decode()
    assert re.fullmatch(r"stack of PID 1 \(init\) AGREES WITH: the log's call trace \(\d+ frames\)\]", remark)
    assert re.fullmatch(AGREES, done.stderr)
    docker_engine.run("close", "--all")
