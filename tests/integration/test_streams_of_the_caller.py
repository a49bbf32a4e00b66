"""Standard streams that are closed or full, a working directory that was removed, a dump that was removed and is still
open, a proxy that is none, no place for temporary files, and the limits of a process (setrlimit(2)): under each of
them, each command ends with a status of its own, and nothing goes to the wrong stream.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from sandbox.cli import app
from sandbox.errors import VmboxError

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"

LIMITS = {"few files": "files", "no threads": "threads"}
"""What a process may have no more of. Fewer processes are no limit for root, so it is threads that are denied."""

COMMANDS = [
    ["--version"],
    ["info", str(DUMP)],
    ["info", str(DUMP), "--json"],
    ["info", "/nosuch"],
    ["info", "vmcore"],
    ["info", "-"],
    ["dmesg", str(DUMP)],
    ["dmesg", "/nosuch"],
    ["dmesg", "-"],
    ["run", str(DUMP), "--", "bt"],
    ["run", str(DUMP), "--json", "--", "bt"],
    ["run", str(DUMP)],
    ["shell", str(DUMP)],
    ["list"],
    ["list", "--json"],
    ["close", "nosuch"],
    ["close", "--all"],
    ["log"],
    ["report", str(DUMP), "-o", "r.html"],
    ["report", str(DUMP), "-o", "-"],
    ["report", str(DUMP), "--json"],
    ["triage", str(DUMP), "-o", "triaged"],
    ["kube", str(DUMP)],
    ["prepare", str(DUMP)],
    ["prepare", "--release", "6.1.0-50-amd64"],
    ["debuginfo", "list"],
    ["debuginfo", "add", "/nosuch"],
    ["debuginfo", "prune"],
    ["debuginfo", "fetch", str(DUMP), "--debuginfo", "/nosuch"],
    ["image", "list"],
    ["image", "build", "debian-12"],
    ["image", "push", "debian-12", "--registry", "localhost:1/vmbox"],
    ["image", "pull", "debian-12", "--registry", "localhost:1/vmbox"],
    ["image", "load", "/nosuch"],
    ["image", "prune"],
    ["image", "save", str(DUMP), "-o", "-"],
    ["verify", str(DUMP)],
    ["doctor", "--offline"],
    ["config", "show"],
    ["config", "template"],
    ["decode", str(DUMP.with_name("x86_64-6.1.dmesg.gz"))],
    ["explain", str(DUMP)],
    ["waits", str(DUMP)],
    ["excerpt", str(DUMP), "-o", "excerpt"],
    ["excerpt", str(DUMP), "-o", "-"],
    ["mcp"],
    ["demo", "--level", "99"],
]

# Each command begins with the streams as this process got them.
PROGRAM = """
import json, os, sys
from sandbox import __main__, log
closed = [number for number in range(3) if number in map(int, sys.argv[1].split())]
place, statuses = sys.argv[2], os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT)
if sys.argv[5] == "threads":
    import threading
    def refused(_):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refused
import resource
usual = resource.getrlimit(resource.RLIMIT_NOFILE)
for command in json.loads(sys.argv[4]):
    for number in closed:
        try:
            os.close(number)
        except OSError:
            pass
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    if place:
        os.makedirs(place, exist_ok=True)
        os.chdir(place)
        os.rmdir(place)
    words, sys.argv[1:] = sys.argv[1:], command
    status = 0
    try:
        if words[4] == "files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, usual[1]))
        __main__.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    sys.argv[1:] = words
    log.stop()
    os.write(statuses, json.dumps([command, status]).encode() + b"\\n")
os._exit(0)
"""


ENVIRONMENTS = {
    "proxy": {"https_proxy": "garbage", "http_proxy": "http://[", "all_proxy": "socks9://x"},
    "no temporary files": {"TMPDIR": "/proc"},
}


@pytest.mark.parametrize(
    "condition",
    ["no stdin", "no stdout", "no stderr", "none", "full", "no directory", "removed dump", *ENVIRONMENTS, *LIMITS],
)
def test_each_command_has_a_status_of_its_own(condition: str, tmp_path: Path) -> None:
    closed = {"no stdin": "0", "no stdout": "1", "no stderr": "2", "none": "0 1 2"}.get(condition, "")
    limit = LIMITS.get(condition, "")
    # asyncio prints of its own loop that could not be made.
    commands = [one for one in COMMANDS if one != ["mcp"] or not limit]
    # Only there: its number may be high, and the limit of files is one of their numbers.
    given = []
    if condition == "removed dump":
        removed = os.memfd_create("vmcore")
        os.write(removed, DUMP.read_bytes())
        given.append(removed)
        there = f"/proc/self/fd/{removed}"
        commands = [[there if word == str(DUMP) else word for word in one] for one in commands]
    place = str(tmp_path / "gone") if condition == "no directory" else ""
    env = {**os.environ, "VMBOX_ENGINE": f"unix://{tmp_path}/no.sock", "PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {f"VMBOX_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "RUNTIME", "STATE", "CONFIG")}
    env |= ENVIRONMENTS.get(condition, {})
    env.pop("VMBOX_DEBUG", None)
    work = tmp_path / "work"
    work.mkdir()
    with (
        (tmp_path / "out").open("wb") as out,
        (tmp_path / "err").open("wb") as err,
        Path("/dev/full").open("wb") as full,
    ):
        subprocess.run(
            [sys.executable, "-c", PROGRAM, closed, place, str(tmp_path / "statuses"), json.dumps(commands), limit],
            stdin=subprocess.DEVNULL,
            stdout=full if condition == "full" else out,
            stderr=err,
            cwd=work,
            env=env,
            check=True,
            timeout=120,
            pass_fds=given,
        )
    for one in given:
        os.close(one)
    ended = [json.loads(line) for line in (tmp_path / "statuses").read_text().splitlines()]
    assert [command for command, _ in ended] == commands
    said = (tmp_path / "err").read_text()
    assert [one for one in ended if one[1] == VmboxError.exit_code or not isinstance(one[1], int)] == [], said
    assert "Traceback" not in said
    assert re.search(r"(?m)^(vmbox|hint): ", (tmp_path / "out").read_text()) is None
    if condition in {"no stdout", "none"}:
        assert (tmp_path / "out").read_bytes() == b""
    if condition in {"no stderr", "none"}:
        assert said == ""
    if condition == "full":
        assert ["list", "--json"] in [command for command, status in ended if status == 50]
        assert "where standard output goes" in said
    if condition in LIMITS:
        assert re.search("too many files are open|no more processes can be started", said), said


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands that do something, by the words that name them. Typer's classes are click's, or a copy of them."""
    if not hasattr(command, "commands"):
        return {path: command}
    return {key: leaf for name, one in command.commands.items() for key, leaf in leaves(one, (*path, name)).items()}


LEAVES = leaves(typer.main.get_command(app))


def test_each_command_is_tried() -> None:
    tried = {path for path in LEAVES if any(tuple(line[: len(path)]) == path for line in COMMANDS)}
    assert tried == LEAVES.keys()
    assert {("excerpt",), ("image", "load")} <= tried


TIMED = [path for path, command in LEAVES.items() if any("--timeout" in one.opts for one in command.params)]


def test_a_timeout_is_a_number_of_seconds(tmp_path: Path) -> None:
    assert {("run",), ("report",), ("triage",), ("kube",), ("explain",), ("waits",), ("excerpt",)} <= set(TIMED)
    commands = [[*path, str(DUMP), f"--timeout={value}"] for path in TIMED for value in ("nan", "0", "-1", "inf", "")]
    env = {**os.environ, "VMBOX_ENGINE": f"unix://{tmp_path}/no.sock", "PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {f"VMBOX_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "RUNTIME", "STATE", "CONFIG")}
    statuses = tmp_path / "statuses"
    words = [sys.executable, "-c", PROGRAM, "", "", str(statuses), json.dumps(commands), ""]
    subprocess.run(words, env=env, capture_output=True, check=True, timeout=120)
    ended = [json.loads(line) for line in statuses.read_text().splitlines()]
    assert [(command, status) for command, status in ended if status != 2] == []
    assert len(ended) == len(commands)


@pytest.mark.parametrize(
    "width", ["COLUMNS=0", "COLUMNS=99999999", "COLUMNS=-5", "TERMINAL_WIDTH=abc", "COLUMNS=\u0665\u0660"]
)
def test_a_width_that_is_none_is_not_believed(width: str) -> None:
    name, _, value = width.partition("=")
    env = {key: held for key, held in os.environ.items() if key not in {"COLUMNS", "TERMINAL_WIDTH"}}
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "--help"],
        env=env | {name: value},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert 2000 < len(done.stdout) < 50_000
    assert b"triage" in done.stdout
