"""Settings: where each value comes from, and what is said about one that makes no sense."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from sandbox.errors import ConfigurationError
from sandbox.host import config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty configuration directory, and nothing in the environment or from --set."""
    for name in list(os.environ):
        if name.startswith(config.PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    config.replace_overrides([])
    yield tmp_path
    config.replace_overrides([])


def _write(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text)


def test_defaults_without_any_setting(home: Path) -> None:
    assert config.current() == config.Settings()
    assert {item.origin for item in config.show()} == {"default"}


def test_the_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, 'engine = "docker"\nidle = "2h"\n')
    monkeypatch.setenv("VMBOX_ENGINE", "podman")
    assert config.current().engine == "podman"
    assert config.current().idle == 7200
    origins = {item.key: item.origin for item in config.show()}
    assert origins["engine"] == "$VMBOX_ENGINE"
    assert origins["idle"] == str(home / "config.toml")
    assert origins["verify"] == config.origin("verify") == "default"


def test_a_changed_file_is_read_again(home: Path) -> None:
    _write(home, 'idle = "2h"\n')
    assert config.current().idle == 7200
    _write(home, 'idle = "30min"\n')
    assert config.current().idle == 1800
    (home / "config.toml").unlink()
    assert config.current().idle == config.Settings().idle


def test_mirrors_are_a_table_or_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, '[mirrors]\n"docker.io" = "registry.example:5000/"\n')
    assert config.current().mirrors == {"docker.io": "registry.example:5000"}
    monkeypatch.setenv("VMBOX_MIRRORS", "http://a=http://b http://c=http://d/")
    assert config.current().mirrors == {"http://a": "http://b", "http://c": "http://d"}


def test_the_command_line_goes_before_both(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, 'idle = "2h"\n')
    monkeypatch.setenv("VMBOX_ENGINE", "podman")
    config.override(["idle=90s", "engine=docker", "mirrors=docker.io=registry.example:5000"])
    assert (config.current().idle, config.current().engine) == (90, "docker")
    assert config.current().mirrors == {"docker.io": "registry.example:5000"}
    assert config.origin("idle") == "--set"
    with pytest.raises(ConfigurationError, match="--set: unknown key idel") as caught:
        config.override(["idel=1"])
    assert caught.value.hint == "did you mean idle?"
    with pytest.raises(ConfigurationError, match="--set idle must be seconds"):
        config.override(["idle=soon"])
    with pytest.raises(ConfigurationError, match="--set idle has no value"):
        config.override(["idle"])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('engin = "docker"', "unknown key engin", "did you mean engine?"),
        ("xyzzy = 1", "unknown key xyzzy", "keys: cache_dir"),
        ("idle = true", "idle must be seconds", "True"),
        ('idle = "soon"', "idle must be seconds", "soon"),
        ("idle = -5", "idle must be seconds", "-5"),
        ('verify = "never"', "verify must be auto or strict", "never"),
        ("mirrors = 3", "mirrors must be FROM=TO", "3"),
        ("engine = 3", "engine must be text", "3"),
        ("engine = ", "config.toml: ", "fix the file"),
    ],
)
def test_nonsense_in_the_file(home: Path, text: str, message: str, hint: str) -> None:
    _write(home, text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        config.current()
    assert str(home) in caught.value.message
    assert hint in caught.value.hint


def test_nonsense_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_IDLE", "a while")
    with pytest.raises(ConfigurationError, match=r"\$VMBOX_IDLE must be seconds"):
        config.current()


def test_a_misspelt_variable_is_noticed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_ENGIN", "docker")
    monkeypatch.setenv("VMBOX_SOMETHING_OF_ANOTHER_PROGRAM", "1")
    assert config.unknown_variables() == {"VMBOX_ENGIN": "VMBOX_ENGINE"}


@pytest.mark.parametrize(
    ("text", "value"), [("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("2g", 2 << 30), ("7", 7), ("500MB", 5 * 10**8)]
)
def test_amounts(text: str, value: int) -> None:
    assert config.amount(text) == value


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        *(("idle", seconds, text) for seconds, text in ((1800, "30m"), (90, "90s"), (7200, "2h"), (0, "0"))),
        *(("memory", size, text) for size, text in ((20 * 10**9, "20GB"), (3 << 30, "3GiB"), (1234, "1234B"))),
        ("pids", 512.0, "512"),
        ("mirrors", {"a": "b", "c": "d"}, "a=b c=d"),
        ("engine", None, ""),
    ],
)
def test_spelled_as_it_may_be_set(home: Path, key: str, value: object, text: str) -> None:
    assert config.format_value(key, value) == text
    if text:
        config.replace_overrides([f"{key}={text}"])
        assert getattr(config.current(), key) == value


def test_every_example_of_the_template_is_valid(home: Path) -> None:
    """The template with its comment signs taken off is a file that says something about every key."""
    lines = [line.removeprefix("# ") for line in config.template().splitlines()]
    keys = [item.name for item in fields(config.Settings)]
    _write(home, "\n".join(line for line in lines if line.partition(" = ")[0] in keys))
    config.current()
    assert {item.origin for item in config.show()} == {str(home / "config.toml")}


def test_show(
    home: Path, monkeypatch: pytest.MonkeyPatch, vmbox: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    _write(home, 'idle = "1h"\n')
    monkeypatch.setenv("VMBOX_ENGINE", "docker")
    monkeypatch.setenv("VMBOX_ENGIN", "podman")
    shown = vmbox("config", "show", "--json")
    assert shown.returncode == 0
    values = {item["key"]: (item["value"], item["origin"]) for item in json.loads(shown.stdout)}
    assert values["idle"] == (3600, str(home / "config.toml"))
    assert values["engine"] == ("docker", "$VMBOX_ENGINE")
    assert "did you mean $VMBOX_ENGINE?" in shown.stderr
    _write(home, "idel = 1\n")
    wrong = vmbox("config", "show")
    assert wrong.returncode == ConfigurationError.exit_code
    assert wrong.stderr.splitlines() == [
        f"vmbox: {home / 'config.toml'}: unknown key idel",
        "hint: did you mean idle?",
    ]
