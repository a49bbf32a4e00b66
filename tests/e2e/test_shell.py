"""vmbox shell in a real terminal, and the tools beside crash."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from e2e.conftest import wait_for
from engines import EngineUnderTest
from sandbox.engine import labels
from sandbox.host import paths

PROMPT = r"crash> "


@contextmanager
def _shell(engine: EngineUnderTest, dump: Path, *options: str) -> Iterator[pexpect.spawn]:
    command, *arguments = [*engine.vmbox, "shell", str(dump), *options]
    terminal = pexpect.spawn(command, arguments, env=dict(engine.env), timeout=120, dimensions=(33, 99))
    try:
        yield terminal
    finally:
        terminal.close(force=True)


def test_crash_prompt(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    # On one engine: that the warm crash is another than the prompt's.
    warm = engine.name == "docker"
    before = vmbox("run", own_dump, "--", "set 1", "--", "set").stdout if warm else b""
    with _shell(engine, own_dump) as terminal:
        terminal.expect(PROMPT)
        terminal.sendline("p 40+2")
        terminal.expect(r"\$1 = 42\r\n")
        terminal.expect(PROMPT)
        terminal.sendline("!stty size")
        terminal.expect("33 99")
        terminal.setwinsize(44, 88)
        time.sleep(0.5)
        terminal.expect(PROMPT)
        terminal.sendline("!stty size")
        terminal.expect("44 88")
        terminal.expect(PROMPT)
        # Ctrl-C ends a command, Ctrl-D is a new line to crash: quit leaves it.
        terminal.sendline("!echo begun; sleep 60")
        terminal.expect("begun\r\n")
        terminal.sendintr()
        terminal.expect(PROMPT)
        terminal.sendeof()
        terminal.expect(PROMPT)
        terminal.sendline("set 0")
        terminal.expect(PROMPT)
        terminal.sendline("p 7*8")
        terminal.expect(PROMPT)
        terminal.sendline("quit")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0
    # Another crash than the warm one, whose context is its own.
    after = vmbox("run", own_dump, "--", "set").stdout if warm else b""
    assert after == before.rpartition(b"    PID")[1] + before.rpartition(b"    PID")[2]
    # What was typed is there again in the next one.
    with _shell(engine, own_dump) as terminal:
        terminal.expect(PROMPT)
        terminal.send("\x1b[A\x1b[A\r")
        terminal.expect(r"\$1 = 56\r\n")
        terminal.expect(PROMPT)
        # Ctrl-P, with which engines begin to detach unless they are told not to, is the line before, at once.
        terminal.send("\x10")
        terminal.expect(r"p 7\*8")
        terminal.sendline()
        terminal.expect(PROMPT)
        # Its parent is our script and not the engine's runtime, with which it would end at its start.
        terminal.sendline("!grep PPid /proc/$PPID/status")
        terminal.expect(r"PPid:\s+[1-9]")
        terminal.expect(PROMPT)
        terminal.sendline("h")
        terminal.expect(r"p 40\+2")
        terminal.expect(PROMPT)
        # A client that is killed leaves no crash behind.
        terminal.kill(signal.SIGKILL)
    wait_for(lambda: vmbox("run", own_dump, "--with", "drgn", "--", "!ls -A /tmp/.shells").stdout == b"")


def test_a_shell_needs_a_terminal(vmbox, own_dump: Path) -> None:
    assert b"needs a terminal" in vmbox("shell", own_dump, status=2).stderr
    assert b"--tool is one of" in vmbox("shell", own_dump, "--tool", "gdb", status=2).stderr


def test_a_shell_in_the_sandbox(engine: EngineUnderTest, own_dump: Path) -> None:
    with _shell(engine, own_dump, "--tool", "bash") as terminal:
        terminal.expect("[$#] ")
        terminal.sendline("echo $((6*7)); ls /case; exit 3")
        terminal.expect("42\r\n.*vmcore")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 3


def test_drgn_runs_a_script_of_the_host(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    script = engine.directory() / "tasks.py"
    script.write_text(
        "import sys\n"
        "from drgn.helpers.linux.pid import for_each_task\n"
        "print(sys.argv[1:], prog['init_uts_ns'].name.release.string_().decode())\n"
        "print(sorted(task.comm.string_().decode() for task in for_each_task(prog))[:1])\n"
        "print('to standard error', file=sys.stderr)\n"
    )
    done = vmbox("run", own_dump, "--tool", "drgn", "--", script, "one", "-2")
    assert re.match(rb"\['one', '-2'\] 6\.1\.", done.stdout)
    assert b"to standard error" in done.stderr
    # The prompt's names are at hand.
    found = vmbox("run", own_dump, "--tool", "drgn", "-e", "print(find_task(prog, 1).comm.string_().decode())").stdout
    assert found == b"init\n"
    failed = vmbox("run", own_dump, "--tool", "drgn", "-e", "1/0", status=1)
    assert b"ZeroDivisionError" in failed.stderr
    late = vmbox("run", own_dump, "--tool", "drgn", "--timeout", "3", "-e", "import time; time.sleep(60)", status=62)
    assert b"was stopped after 3 seconds" in late.stderr
    assert b"no-such.py" in vmbox("run", own_dump, "--tool", "drgn", "--", "no-such.py", status=2).stderr
    kept = [json.loads(line) for line in vmbox("log", own_dump, "--json").stdout.splitlines()]
    assert ["tasks.py one -2", "ok"] in [[record.get("command"), record.get("status")] for record in kept]


def test_drgn_cannot_reach_the_live_kernel(vmbox, own_dump: Path) -> None:
    code = "print(len(open('/proc/kcore', 'rb').read(64)))"
    tried = vmbox("run", own_dump, "--tool", "drgn", "-e", f"try:\n    {code}\nexcept OSError: print('none')").stdout
    assert tried in {b"0\n", b"none\n"}


def test_drgn_prompt(engine: EngineUnderTest, own_dump: Path) -> None:
    with _shell(engine, own_dump, "--tool", "drgn") as terminal:
        terminal.expect(">>> ")
        terminal.sendline("prog['init_task'].pid")
        terminal.expect(r"\(pid_t\)0")
        terminal.expect(">>> ")
        terminal.sendline("exit()")
        terminal.expect(pexpect.EOF)


def test_drgn_prompt_with_the_commands_of_crash(engine: EngineUnderTest, own_dump: Path) -> None:
    with _shell(engine, own_dump, "--with", "drgn") as terminal:
        terminal.expect("%crash> ")
        terminal.sendline("p init_task.pid")
        terminal.expect(r"init_task\.pid = \(pid_t\)0")
        terminal.expect("%crash> ")
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)


def test_drgn_for_an_image_without_it(docker_engine: EngineUnderTest, dumps, tmp_path: Path) -> None:
    dump = str(dumps("5.10"))
    (tmp_path / "images").mkdir()
    profile = (paths.data_dir() / "images" / "debian-11.toml").read_text().replace('"drgn-wheel", ', "")
    # Its crash is older than its kernel.
    profile = re.sub(r"(?m)^max_kernel.*$", "", profile)
    (tmp_path / "images" / "debian-11.toml").write_text(profile)

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        env = {**docker_engine.env, "VMBOX_CONFIG_DIR": str(tmp_path)}
        return subprocess.run([*docker_engine.vmbox, "run", dump, *words], env=env, capture_output=True, check=False)

    docker_engine.run("close", dump)
    done = run("--with", "drgn", "--", "bt")
    assert b"sysrq_handle_crash" in done.stdout, done.stderr
    assert b"image debian-11 has no drgn: it runs in that of latest" in done.stderr
    # In a case of its own, which is gone; the dump's own is still there.
    left = json.loads(docker_engine.run("list", "--json").stdout)
    assert [case["profile"] for case in left if case["dump"] == dump] == ["debian-11"]
    assert len(docker_engine.engine.containers({labels.CASE: ""})) == len(left)
    named = run("--image", "debian-11", "--tool", "drgn", "-e", "1")
    docker_engine.run("close", dump)
    assert named.returncode == 2
    assert b"image debian-11 has no drgn" in named.stderr
    assert b"--image latest" in named.stderr
