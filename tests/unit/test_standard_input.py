"""A dump or a log on standard input: redirected, or from a pipe."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DUMPS = Path(__file__).parents[1] / "fixtures" / "dumps"
DUMP = DUMPS / "x86_64-6.1-zlib"


@pytest.fixture
def vmbox(tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {f"VMBOX_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "RUNTIME", "STATE", "CONFIG")}

    def run(*arguments: str, said: bytes | None = None, **streams: object) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-m", "sandbox", *arguments]
        given = {"input": said} if said is not None else streams
        return subprocess.run(words, env=env, capture_output=True, check=False, timeout=60, **given)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.mark.slow
def test_a_dump_from_a_pipe_is_what_its_file_is(vmbox, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    there = json.loads(vmbox("info", str(DUMP), "--json").stdout)
    assert there["release"]
    for content in (DUMP.read_bytes(), gzip.compress(DUMP.read_bytes())):
        piped = json.loads(vmbox("info", "-", "--json", said=content).stdout)
        assert piped["path"] == "-"
        for key in ("release", "build-id", "cause", "panic", "arch"):
            assert piped.get(key) == there.get(key)
    assert vmbox("dmesg", "-", said=DUMP.read_bytes()).stdout == vmbox("dmesg", str(DUMP)).stdout != b""
    # The copy is gone.
    assert {path.name for path in (tmp_path / "CACHE" / "tmp").iterdir()} == {".lock"}


@pytest.mark.slow
def test_a_redirected_dump_has_its_own_name(vmbox) -> None:  # type: ignore[no-untyped-def]
    with DUMP.open("rb") as file:
        assert json.loads(vmbox("info", "-", "--json", stdin=file).stdout)["path"] == str(DUMP)


@pytest.mark.slow
def test_a_log_from_a_pipe_is_read(vmbox) -> None:  # type: ignore[no-untyped-def]
    log = gzip.decompress((DUMPS / "x86_64-6.1.dmesg.gz").read_bytes())
    assert json.loads(vmbox("info", "-", "--json", said=log).stdout)["format"] == "log"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["info", "-"], 12, b"vmbox: standard input is empty"),
        (["run", "-", "--", "bt"], 10, b"save it: SOURCE > vmcore; only info, dmesg and decode read standard input"),
        (["report", "-"], 10, b"a dump of this command is a file, and not standard input"),
        (["explain", "-"], 10, b"a dump of this command is a file, and not standard input"),
        (["close", "-"], 0, b""),
    ],
)
def test_what_cannot_be_read_from_there_is_said(  # type: ignore[no-untyped-def]
    vmbox, arguments: list[str], status: int, words: bytes
) -> None:
    done = vmbox(*arguments, said=b"")
    assert words in done.stderr
    assert done.returncode == status or not words
    assert b"/standard-input" not in done.stderr


@pytest.mark.slow
def test_a_pipe_has_a_limit(tmp_path: Path) -> None:
    code = "from sandbox.host.standard_input import as_file\nwith as_file(longest=1 << 20): pass"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "VMBOX_CACHE_DIR": str(tmp_path)}
    for size, words in ((1 << 20, b""), ((1 << 20) + 1, b"standard input has more than 1 MiB")):
        done = subprocess.run(
            [sys.executable, "-c", code], input=bytes(size), env=env, capture_output=True, check=False, timeout=60
        )
        assert words in done.stderr
        assert (done.returncode == 0) == (words == b"")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_undoes_what_ctrl_c_undoes(number: int, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "VMBOX_CACHE_DIR": str(tmp_path)}
    # Below nohup the tests themselves ignore one of them, and so would the process.
    words = ["env", "--default-signal=HUP,TERM", sys.executable, "-m", "sandbox", "info", "-"]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        while not list((tmp_path / "tmp").glob("*/standard-input")):
            assert waiting.poll() is None
            time.sleep(0.05)
        waiting.send_signal(number)
        assert waiting.wait(60) == 128 + number
        assert waiting.stderr is not None
        said = waiting.stderr.read()
    assert said == b"vmbox: ended by a signal (%d)\n" % number
    assert {path.name for path in (tmp_path / "tmp").iterdir()} == {".lock"}


def test_a_signal_that_the_caller_ignores_is_ignored(tmp_path: Path) -> None:
    code = "import atexit, os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code += "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGHUP), print('goes on'))); "
    code += "from sandbox.__main__ import main; sys.argv = ['vmbox', '--version']; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.stdout.endswith(b"goes on\n")
