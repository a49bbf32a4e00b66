"""From a vmcore to its backtrace, on each engine, with nothing at hand but the engine and a package mirror."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from e2e.conftest import AGREES, crash_by_hand, wait_for
from engines import EngineUnderTest
from sandbox.engine import labels


def test_backtrace(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    first = vmbox("run", own_dump, "--", "bt")
    assert b"sysrq_handle_crash" in first.stdout
    assert b"PID: 1 " in first.stdout
    # Progress belongs to standard error, and is said.
    assert b"Starting crash" in first.stderr
    # Warm: nothing is said but that the stack and the clock are the kernel's own, and the answer is what crash prints.
    again = vmbox("run", own_dump, "--", "bt", "--", "sys", "--", "ps -t", "--", "mod")
    assert re.fullmatch(AGREES + rb"(?:vmbox: (?:date|uptime|tasks): AGREES WITH: .*\n){3}", again.stderr)
    if engine.name != "docker":
        return  # the same crash of the same image
    directly = crash_by_hand(engine, own_dump, "bt\nsys\nps -t\nmod\n")
    # What comes before are the warnings of crash's start: vmbox shows them once, on standard error.
    assert directly.endswith(again.stdout)
    assert directly.removesuffix(again.stdout).strip() in first.stderr


def test_several_commands_and_json(vmbox, own_dump: Path) -> None:
    done = vmbox("run", own_dump, "--json", "--", "p", "jiffies", "--", "nosuch", "--", "log | tail -1", status=1)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == ["ok", "error", "ok"]
    assert [answer["command"] for answer in answers] == ["p jiffies", "nosuch", "log | tail -1"]
    assert answers[0]["output"].startswith("jiffies = $")
    assert "command not found" in answers[1]["output"]
    assert answers[2]["output"].count("\n") == 1


def test_commands_from_standard_input_and_from_a_file(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    script = engine.directory() / "commands"
    script.write_text("# what runs\nps 1\n\nsym schedule\n")
    from_file = vmbox("run", own_dump, "-i", script)
    piped = vmbox("run", own_dump, "-", stdin=None, input=script.read_bytes())
    assert from_file.stdout == piped.stdout
    assert b"init" in piped.stdout
    assert b"schedule" in piped.stdout


def test_a_closed_pipe_ends_the_command_and_not_the_session(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    with subprocess.Popen(
        [*engine.vmbox, "run", str(own_dump), "--", "!yes"], env=dict(engine.env), stdout=subprocess.PIPE
    ) as flood:
        assert flood.stdout is not None
        assert flood.stdout.read(4) == b"y\ny\n"
        flood.stdout.close()
        assert flood.wait(30) == 141
    assert vmbox("run", own_dump, "--", "p 1+1").stdout.endswith(b"= 2\n")


def test_ctrl_c_and_timeout_stop_the_command_and_not_the_session(
    vmbox, engine: EngineUnderTest, own_dump: Path
) -> None:
    late = vmbox("run", own_dump, "--timeout", "1", "--", "!sleep 60", status=62)
    assert b"was stopped after 1 seconds" in late.stderr
    with _busy(engine, own_dump, "!echo begun; sleep 60") as command:
        command.send_signal(signal.SIGINT)
        assert command.wait(20) == 130
    answer = vmbox("run", own_dump, "--", "p 1+1")
    assert answer.stdout.endswith(b"= 2\n")
    assert b"Starting crash" not in answer.stderr


def test_a_killed_client_leaves_nothing_to_its_successor(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    with _busy(engine, own_dump, "!echo begun; yes") as command:
        command.kill()
        command.wait(20)
    answer = vmbox("run", own_dump, "--", "p 1+1")
    assert re.fullmatch(rb"\$\d+ = 2\n", answer.stdout)


# By the session script, which is the same on all.
@pytest.mark.parametrize("engine", ["podman_rootless"], indirect=True)
def test_a_crash_that_ends_is_said_and_started_again(vmbox, own_dump: Path) -> None:
    killed = vmbox("run", own_dump, "--", "p 1+1", "--", "!kill -KILL $PPID; sleep 5", "--", "p 2+2", status=61)
    assert re.search(rb"(?m)= 2$", killed.stdout)
    assert b"killed" in killed.stderr
    assert vmbox("run", own_dump, "--", "p 1+1").stdout.endswith(b"= 2\n")


def test_list_and_close(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    (case,) = json.loads(vmbox("list", "--json").stdout)
    assert case["dump"] == str(own_dump)
    assert case["engine"] == engine.engine.info().name
    assert case["id"].encode() in vmbox("list").stdout
    vmbox("close", own_dump)
    assert json.loads(vmbox("list", "--json").stdout) == []
    wait_for(lambda: engine.engine.containers({labels.CASE: ""}) == [])
    assert [
        path
        for path in Path(engine.env["VMBOX_RUNTIME_DIR"]).rglob("*")
        if path.name in {"in", "out", "in-2", "out-2", "ctl"}
    ] == []
    assert b"no open case" in vmbox("close", own_dump, status=63).stderr


@pytest.mark.parametrize("kernel", ["5.10", "6.12"])
def test_other_kernels_with_their_own_crash(docker_engine: EngineUnderTest, dumps, kernel: str) -> None:
    dump = dumps(kernel)
    done = docker_engine.run("run", str(dump), "--", "bt", "--", "sys", "--", "ps")
    assert done.returncode == 0, done.stderr
    assert b"sysrq_handle_crash" in done.stdout
    assert f"RELEASE: {kernel}".encode() in done.stdout
    docker_engine.run("close", "--all")


@pytest.mark.parametrize("form", ["elf", "flattened"])
def test_other_forms(docker_engine: EngineUnderTest, dumps, form: str) -> None:
    dump = dumps(form=form)
    info = json.loads(docker_engine.run("info", str(dump), "--json").stdout)
    assert info["profile"] == "latest"
    assert info["flattened"] == (form == "flattened")
    done = docker_engine.run("run", str(dump), "--", "bt")
    assert done.returncode == 0, done.stderr
    assert b"sysrq_handle_crash" in done.stdout
    docker_engine.run("close", "--all")


def _busy(engine: EngineUnderTest, dump: Path, command: str) -> subprocess.Popen[bytes]:
    """A vmbox whose command has printed "begun" and goes on."""
    # A new process group: the signal is for vmbox and not for whoever tests it.
    process = subprocess.Popen(
        [*engine.vmbox, "run", str(dump), "--", command],
        env=dict(engine.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process
