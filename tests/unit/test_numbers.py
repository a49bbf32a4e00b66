"""Numbers and durations that are none, wherever the command line, the settings and the library take one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import sandbox
from sandbox.case.options import OpenOptions
from sandbox.cli import app
from sandbox.dump import identify
from sandbox.errors import ConfigurationError, UsageError, VmboxError
from sandbox.host import config
from sandbox.report import build
from sandbox.report.kubernetes import JobOptions, manifests
from sandbox.session.session import Session
from sandbox.triage.scheduler import triage

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"

NONE = ["nan", "inf", "-inf", "-1", "1e400", "0x10", "abc"]
HUGE = ["9999999999999999999999", "99999999999d", "9" * 400, "1e300"]
ODD = ["1_000", "\u0665"]
"""Python reads these as 1000 and 5."""

OF_NUMBERS = {"older_than", "timeout", "ttl", "limit", "memory", "cpus", "jobs", "user", "level"}


def _numbers(group: Any, above: tuple[str, ...] = ()) -> list[list[str]]:
    """A command line for each option of each command that takes a number, without its value."""
    lines = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            lines += _numbers(command, (*above, name))
            continue
        needed = [str(DUMP) for one in command.params if one.param_type_name == "argument" and one.required]
        for one in command.params:
            if one.param_type_name == "option" and not getattr(one, "is_flag", False):
                number = one.name in OF_NUMBERS or type(one.type).__name__ in {"IntRange", "FloatRange", "IntParamType"}
                if number:
                    lines.append([*above, name, *needed, one.opts[0]])
    return lines


LINES = _numbers(typer.main.get_command(app))


def test_each_command_with_numbers_is_here() -> None:
    assert len(LINES) > 12
    assert {line[0] for line in LINES} >= {"run", "report", "triage", "kube", "image", "debuginfo", "demo"}


@pytest.mark.slow
@pytest.mark.parametrize("value", [*NONE, *HUGE, *ODD])
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]} {line[-1]}")
def test_an_option_that_is_no_number_is_a_slip(
    vmbox: Callable[..., CompletedProcess[str]],
    line: list[str],
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VMBOX_ENGINE", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    done = vmbox(*line, value)
    # Some numbers are huge and still numbers: of jobs, or of bytes to keep.
    allowed = {2} if value in NONE else {2, 0, 12, 20, 22, 80}
    assert done.returncode in allowed, done
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["idle", "start", "memory", "cpus", "pids", "debuginfo_limit"])
@pytest.mark.parametrize("value", [*NONE, *HUGE[:3]])
def test_a_setting_that_is_no_number_is_a_slip(key: str, value: str) -> None:
    if key == "cpus" and value == HUGE[0]:
        return  # a number of CPUs is cut to those there are
    with pytest.raises(ConfigurationError, match=key):
        config.override([f"{key}={value}"])


def test_a_part_of_one_is_not_without_limit() -> None:
    assert (config.seconds("0.4s"), config.amount("0.4"), config.amount("0")) == (1, 1, 0)
    with pytest.raises(ConfigurationError, match="pids must be a whole number"):
        config.override(["pids=0.5"])


@pytest.mark.parametrize("timeout", [math.nan, math.inf, -math.inf, 0, -1, 1e9])
def test_the_library_takes_no_time_limit_that_is_none(timeout: float, tmp_path: Path) -> None:
    opened = sandbox.OpenCase.__new__(sandbox.OpenCase)
    session = Session.__new__(Session)
    session._debugger = SimpleNamespace(name="", line=str.encode, complaints=lambda *_: None)  # type: ignore[assignment]
    session._case = SimpleNamespace(versions={})  # type: ignore[assignment]
    for call in (
        lambda: opened.run("bt", timeout=timeout),
        lambda: opened.stream("bt", print, timeout=timeout),
        lambda: session.run("bt", print, timeout=timeout),
        lambda: session.ask(b"bt", print, timeout, "bt"),
        lambda: build.make(DUMP, OpenOptions(), timeout=timeout),
        lambda: triage([DUMP], tmp_path / "out", timeout=timeout),
    ):
        with pytest.raises(UsageError, match="is no number of seconds above 0"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("idle", [math.nan, -1, 1.5, 1 << 60, True])
def test_a_session_takes_no_idle_time_that_is_none(idle: Any) -> None:
    with pytest.raises(UsageError, match="idle must be seconds"):
        Session.__new__(Session).set_idle(idle)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": "8GB"},
        {"memory": "nan"},
        {"memory": "8"},
        {"memory": "-1Gi"},
        {"cpus": "0"},
        {"cpus": "two"},
        {"cpus": "1e3"},
        {"seconds": 1 << 31},
        {"keep": -1},
        {"user": 1 << 32},
    ],
    ids=str,
)
def test_a_job_has_the_numbers_of_kubernetes(wrong: dict[str, Any]) -> None:
    with pytest.raises(VmboxError) as found:
        manifests(identify(DUMP), JobOptions(**wrong))
    assert found.value.exit_code == 2


def test_a_job_requests_no_more_than_its_limit() -> None:
    (pod,) = manifests(identify(DUMP), JobOptions(kind="pod", memory="512Mi", cpus="500m"))
    for one in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        assert one["resources"] == {
            "limits": {"memory": "512Mi", "cpu": "500m"},
            "requests": {"memory": "512Mi", "cpu": "500m"},
        }
