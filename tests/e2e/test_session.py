"""The warm session: what reaches it, who may use it when, how long it stays, and what is kept of it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from e2e.conftest import AGREES, BY_DRGN, wait_for
from engines import EngineUnderTest
from sandbox.engine import labels

CALLERS, COMMANDS = 8, 50
ONE = pytest.mark.parametrize("engine", ["podman_rootless"], indirect=True)
"""For what no engine has a part in, but a client, FIFOs, and the session script, which is the same on all; and for what
tests/unit/test_opening.py shows of the decisions."""


def test_quit_ends_the_commands_and_not_the_session(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    done = vmbox("run", own_dump, "-", input=b"p 1+1\n# as in a crash input file\n\nquit\np 2+2\n", stdin=None)
    assert re.fullmatch(rb"\$\d+ = 2\n", done.stdout)
    # Warm still: nothing was started for it.
    assert vmbox("run", own_dump, "--", "p 3").stderr == b""


def test_an_answer_ends_where_crash_ended_it(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    """Whatever crash was made to do with its words, its gdb or its way of printing."""
    commands = [
        ("alias gdb log", r"alias: cannot alias existing command name: gdb\n"),
        ("set gdb on", None),
        ("print 1+2", r"\$\d+ = 3\n"),
        ("crash set gdb off", None),
        ("set radix 16", None),
        ("p 17", r"\$\d+ = 0x11\n"),
        ("set radix 10", None),
        ("gdb set width 60", None),
        ("p 17", r"\$\d+ = 17\n"),
        ("gdb set width 0", None),
        ("gdb echo no end", "no end"),
        ("!printf 'no end'", "no end"),
        ("rd 0", r"rd: .*\n"),
        ("nosuch", r"crash: command not found: nosuch\n"),
        ("set silent off", None),
        ("p 5", r"crash> p 5\n\$\d+ = 5\n[\s\S]*"),
        ("set silent on", None),
        ("p 6", r"\$\d+ = 6\n"),
    ]
    words = " -- ".join(command for command, _ in commands).split()
    done = vmbox("run", own_dump, "--json", "--", *words, status=1)
    for line, (command, answer) in zip(done.stdout.splitlines(), commands, strict=True):
        said = json.loads(line)
        assert said["command"] == command
        assert answer is None or re.fullmatch(answer, said["output"]), said
        assert said["status"] == ("error" if command in {"alias gdb log", "rd 0", "nosuch"} else "ok"), said
    assert re.fullmatch(AGREES, vmbox("run", own_dump, "--", "bt").stderr)


def test_files_come_out_and_nothing_else(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1 > earlier")
    out = engine.directory() / "out"
    stays = "mkdir deep; touch deep/one other; ln -s /etc/passwd link"
    made = f"{stays}; head -c 200000 /dev/urandom > random; md5sum < random"
    done = vmbox("run", own_dump, "--output", out, "--", "bt > bt.txt", "--", f"!{made}")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == ["bt.txt", "random"]
    assert b"sysrq_handle_crash" in (out / "bt.txt").read_bytes()
    there = subprocess.run(["md5sum"], input=(out / "random").read_bytes(), capture_output=True, check=True)
    assert there.stdout == done.stdout
    for name in (b"deep/one", b"other", b"link"):
        assert b"'%s' is left in the case" % name in done.stderr
    again = vmbox("run", own_dump, "--output", out, "--", "bt > bt.txt", status=2)
    assert b"is not empty" in again.stderr


@ONE
def test_once_leaves_nothing_and_touches_nobody(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    before = vmbox("list", "--json").stdout
    assert vmbox("run", own_dump, "--once", "--with", "drgn", "--", "!echo once").stdout == b"once\n"
    assert vmbox("list", "--json").stdout == before
    assert len(engine.engine.containers({labels.CASE: ""})) == len(json.loads(before))


@ONE
def test_two_users_of_an_engine_open_the_same_dump(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    """A runtime directory of its own is what another user, or another host, of the same engine has."""
    vmbox("run", own_dump, "--", "p 1")
    other = {**engine.env, "VMBOX_RUNTIME_DIR": str(engine.directory())}
    command = [*engine.vmbox, "run", "--once", str(own_dump), *BY_DRGN]
    first = subprocess.run(command, env=other, check=True, capture_output=True).stdout
    assert b"sysrq_handle_crash" in first
    command.remove("--once")
    assert subprocess.run(command, env=other, check=True, capture_output=True).stdout == first
    # Without a notice that the dump is opened: the first case is still there.
    assert vmbox("run", own_dump, "--", "!true").stderr == b""
    subprocess.run([*engine.vmbox, "close", str(own_dump)], env=other, check=True, capture_output=True)
    assert vmbox("run", own_dump, "--", "!true").stderr == b""


def test_an_idle_case_disposes_of_itself_unless_it_is_kept(podman_rootless: EngineUnderTest, dumps) -> None:
    """On one engine: the script in the container is the same on all."""
    dump = dumps.copy_for(podman_rootless, dumps())
    env = {**podman_rootless.env, "VMBOX_IDLE": "6"}

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [*podman_rootless.vmbox, "run", str(dump), *arguments]
        return subprocess.run(command, env=env, check=True, capture_output=True)

    ask = ("--with", "drgn", "--", "p jiffies")
    run(*ask)
    # Somebody at a command is not idle, however long it takes.
    assert run("--with", "drgn", "--", "!sleep 12; echo up").stdout == b"up\n"
    run("--keep", *ask)
    time.sleep(12)
    assert run(*ask).stderr == b""
    podman_rootless.run("close", str(dump))
    run(*ask)
    (case,) = json.loads(podman_rootless.run("list", "--json").stdout)
    wait_for(lambda: podman_rootless.engine.container(case["container"]) is None, 30)
    assert json.loads(podman_rootless.run("list", "--json").stdout) == []
    assert re.search(rb"\d+\n$", run(*ask).stdout)
    podman_rootless.run("close", str(dump))


def test_what_a_reboot_leaves_behind_is_no_obstacle(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    (case,) = json.loads(vmbox("list", "--json").stdout)
    # FIFOs, locks and description of a container that nobody removed in order.
    engine.signal(case["container"], "KILL")
    wait_for(lambda: not any(one.running for one in engine.engine.containers({labels.CASE: ""})))
    assert re.search(rb"= 2\n$", vmbox("run", own_dump, "--", "p 1+1").stdout)


def test_eight_callers_with_fifty_commands_each(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    words = [" -- ".join(f"p {caller}{number:03}" for number in range(COMMANDS)).split() for caller in range(1, 9)]
    callers = [
        subprocess.Popen(
            [*engine.vmbox, "run", str(own_dump), "--", *words[caller]],
            env=dict(engine.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for caller in range(CALLERS)
    ]
    for number, caller in enumerate(callers, 1):
        output, errors = caller.communicate(timeout=300)
        assert re.sub(rb"\$\d+ = ", b"", output) == b"".join(b"%d%03d\n" % (number, one) for one in range(COMMANDS))
        assert re.fullmatch(rb"(vmbox: waiting: the case is in use by \d+ others?\n)?", errors)


def test_who_waits_says_so_and_who_has_nothing_to_ask_lets_others(
    vmbox, engine: EngineUnderTest, own_dump: Path
) -> None:
    vmbox("run", own_dump, "--", "p 1")
    run = [*engine.vmbox, "run", str(own_dump)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": dict(engine.env)}
    with subprocess.Popen([*run, "--", "!echo begun; sleep 3"], **pipes) as first:
        assert first.stdout.readline() == b"begun\n"
        assert b"waiting: the case is in use by 1 other" in vmbox("run", own_dump, "--", "p 1").stderr
    with subprocess.Popen([*run, "-"], stdin=subprocess.PIPE, **pipes) as slow:
        slow.stdin.write(b"p 20+1\n")
        slow.stdin.flush()
        assert slow.stdout.readline().endswith(b"= 21\n")
        time.sleep(0.3)
        assert vmbox("run", own_dump, "--", "p 1").stderr == b""
        assert slow.communicate(b"p 20+2\n", timeout=60)[0].endswith(b"= 22\n")


@ONE
def test_a_crash_that_hangs_is_ended_and_its_case_stays(vmbox, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    (before,) = json.loads(vmbox("list", "--json").stdout)
    done = vmbox("run", own_dump, "--timeout", "1", "--", "!kill -STOP $PPID; sleep 100", status=62)
    assert b"does not answer the interrupt" in done.stderr
    assert re.search(rb"= 2\n$", vmbox("run", own_dump, "--", "p 1+1").stdout)
    assert json.loads(vmbox("list", "--json").stdout) == [before]


@ONE
def test_ctrl_c_at_a_terminal(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--", "p 1")
    command, *arguments = [*engine.vmbox, "run", str(own_dump), "--"]

    def typed(words: str) -> pexpect.spawn:
        return pexpect.spawn(command, [*arguments, words], env=dict(engine.env), timeout=30)

    with typed("!echo begun; sleep 60") as terminal:
        terminal.expect("begun\r\n")
        terminal.sendintr()
        terminal.expect("vmbox: interrupted")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 130
    # Warm still.
    assert vmbox("run", own_dump, "--", "p 1").stderr == b""
    # One that does not answer is waited for, and ended by the second one.
    # crash passes on what the shell prints, so it must not be stopped before it has.
    with typed("!echo begun; sleep 1; kill -STOP $PPID; sleep 60") as terminal:
        terminal.expect("begun\r\n")
        time.sleep(1.5)
        terminal.sendintr()
        terminal.expect("crash has not stopped yet; Ctrl-C ends it")
        began = time.monotonic()
        terminal.sendintr()
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 130
        assert time.monotonic() - began < 5
    again = vmbox("run", own_dump, "--", "p 1+1")
    assert b"Starting crash" in again.stderr
    assert again.stdout.endswith(b"= 2\n")


def test_a_timeout_is_the_commands_and_the_others_are_answered(vmbox, own_dump: Path) -> None:
    done = vmbox("run", own_dump, "--json", "--timeout", "2", "--", "!echo a; sleep 60", "--", "p 1+1", status=62)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["status"] for answer in answers] == ["timeout", "ok"]
    assert answers[0]["output"] == "a\n"


@ONE
def test_a_flood_is_streamed_in_little_memory(engine: EngineUnderTest, own_dump: Path) -> None:
    # Opening a case takes more than that.
    engine.run("run", str(own_dump), "--", "p 1")
    size = 100 << 20
    flood = f"!yes 0123456789abcdef0123456789abcdef | head -c {size}"
    for options in ([], ["--json"]):
        with subprocess.Popen(
            [*engine.vmbox, "run", str(own_dump), *options, "--", flood],
            env=dict(engine.env),
            stdout=subprocess.PIPE,
            preexec_fn=_little_memory,  # noqa: PLW1509 - no threads here
        ) as process:
            assert process.stdout is not None
            received = sum(map(len, iter(lambda: process.stdout.read(1 << 20), b"")))
            assert process.wait() == 0
        assert received >= size


@ONE
def test_the_transcript(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    vmbox("run", own_dump, "--no-transcript", "--", "p 11111")
    vmbox("run", own_dump, "--", "p 22222", "--", "nosuch", status=1)
    header, *kept = [json.loads(line) for line in vmbox("log", own_dump, "--json").stdout.splitlines()]
    assert header["debuginfo"]["proof"].startswith("build-id ")
    kept = [one for one in kept if "opened" not in one]
    assert [(one["command"], one["status"]) for one in kept[-2:]] == [("p 22222", "ok"), ("nosuch", "error")]
    assert kept[-2]["output"].endswith("= 22222\n")
    assert not any("11111" in one["command"] for one in kept)
    shown = vmbox("log", own_dump).stdout
    assert b"crash> p 22222\n" in shown
    script = engine.directory() / "again"
    script.write_bytes(vmbox("log", own_dump, "--script").stdout)
    assert script.read_text().endswith("p 22222\nnosuch\n")
    (case,) = json.loads(vmbox("list", "--json").stdout)
    vmbox("close", own_dump)
    assert vmbox("log", case["id"]).stdout == shown
    assert case["id"].encode() in vmbox("log").stdout
    assert b"no transcript" in vmbox("log", "nothing", status=63).stderr


def described(engine: EngineUnderTest) -> list[dict[str, Any]]:
    """What the open cases have written down for their clients."""
    return [json.loads(file.read_text()) for file in Path(engine.env["VMBOX_RUNTIME_DIR"]).glob("cases/*/case.json")]


# These two end the case, so that they come last.


# As root of the host, without capabilities, and as a user.
@pytest.mark.parametrize("engine", ["docker_engine", "podman_rootless"], indirect=True)
def test_a_case_that_a_dump_took_over_holds_no_client(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    """It holds its lock, prints without end, says that crash has ended, and keeps its FIFOs full."""
    vmbox("run", own_dump, "--", "p 1")
    (case,) = (one for one in json.loads(vmbox("list", "--json").stdout) if one["dump"] == str(own_dump))
    out = engine.directory() / "out"
    began = time.monotonic()
    hold = "!(flock -x /run/vmbox/lock sleep 300) >/dev/null 2>&1 &"
    vmbox("run", own_dump, "--timeout", "20", "--", hold, "--", "p 2")
    flood = "!(yes xxxxxxxx | tr -d '\\n') 2>/dev/null &"
    flooded = engine.run("run", str(own_dump), "--timeout", "5", "--output", str(out), "--", flood, "--", "bt > bt.txt")
    assert flooded.returncode in {60, 61, 62}, flooded.stderr
    assert {path.name for path in out.iterdir()} <= {"bt.txt"}
    (token,) = (one["token"] for one in described(engine) if one["id"] == case["id"])
    known = vmbox(
        "run", own_dump, "--timeout", "60", "--", "!pkill yes; env; cat /proc/*/environ /proc/*/cmdline"
    ).stdout
    assert b"IDLE=" in known
    assert token.encode() not in known
    lie = f"!(yes '{token} exit 1 0badcafe') 2>/dev/null &"
    lied = engine.run("--set", "start=5", "run", str(own_dump), "--timeout", "5", "--", lie, "--", "p 1")
    assert lied.returncode in {60, 61, 62}, lied.stderr
    fill = "!pkill yes; (while :; do head -c 4096 /dev/zero; done >/run/vmbox/ctl) >/dev/null 2>&1 &"
    filled = engine.run("--set", "start=5", "run", str(own_dump), "--timeout", "5", "--", fill)
    assert b"Traceback" not in flooded.stderr + lied.stderr + filled.stderr
    assert time.monotonic() - began < 90
    began = time.monotonic()
    engine.run("close", str(own_dump))
    assert time.monotonic() - began < 30
    assert engine.engine.container(case["container"]) is None


# The limit is the kernel's; that each engine sets it is in the contract's tests.
@pytest.mark.parametrize("engine", ["docker_engine"], indirect=True)
def test_a_crash_without_memory(engine: EngineUnderTest, own_dump: Path) -> None:
    """Ended by the kernel at the case's limit, at its start, where only drgn is tried, or at a command."""

    def run(limit: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        return engine.run("--set", f"memory={limit}", "run", str(own_dump), "--once", "--", *words)

    small = run("60M", "sys")
    assert b"crash was killed while it started, most likely for want of memory; trying drgn" in small.stderr
    assert small.stderr.count(b"trying") == 1
    # drgn needs less; whether that is there is the machine's matter.
    if small.returncode == 0:
        assert b"RELEASE: 6.1." in small.stdout
    else:
        assert small.returncode == 61
        assert b"--set memory=16G" in small.stderr
    # gdb reads all debug information of the kernel: several times what the limit allows.
    engine.run("close", str(own_dump))
    limited = ["--set", "memory=500M", "run", str(own_dump), "--"]
    large = engine.run(*limited, "p 1", "--", "gdb maint expand-symtabs")
    assert large.returncode == 61
    assert b"crash was killed, most likely for want of memory" in large.stderr
    assert engine.run(*limited, "p 1+1").stdout.endswith(b"= 2\n")
    engine.run("close", str(own_dump))


def _little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (160 << 20, 160 << 20))
