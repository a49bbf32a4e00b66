"""What --verbose and $VMBOX_LOG say, and what they never do: secrets, and anything on standard output."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from sandbox import log, render
from sandbox.cli import manual
from sandbox.commands.verbose import begin_in_worker
from sandbox.engine import requests_log
from sandbox.errors import ConfigurationError
from sandbox.log import Log, without_secrets
from sandbox.progress import QUIET

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
LINE = re.compile(r"vmbox: (?:debug|info): \d+\.\d{3} [a-z]+: \S.*")

Vmbox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def silent_again() -> Iterator[None]:
    yield
    log.stop()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://user:pass@host/x.rpm", "https://***@host/x.rpm"),
        ("https://token@host/x.rpm", "https://***@host/x.rpm"),
        ("HTTP://a:b@c@host:80/x", "HTTP://***@host:80/x"),
        ("http://user:pa/ss@proxy:3128/", "http://***@proxy:3128/"),
        ("proxy for https: user:pass@proxy:3128", "proxy for https: ***@proxy:3128"),
        ("docker.io=me:pw@registry.example:5000/hub", "docker.io=***@registry.example:5000/hub"),
        ("ssh://root@host:22/run/docker.sock", "ssh://root@host:22/run/docker.sock"),
        ("ssh://root:pw@host", "ssh://root:***@host"),
        ("https://cdn/x.rpm?X-Amz-Signature=00ff&Expires=1", "https://cdn/x.rpm?X-Amz-Signature=***&Expires=***"),
        ("https://cdn/x?abcdef, and more", "https://cdn/x?***, and more"),
        ("https://host/x#access_token=1", "https://host/x#access_token=***"),
        ("https://host/x?sig=a;b=c'", "https://host/x?sig=***&b=***'"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
        ("{'Proxy-Authorization': 'Bearer abc'}", "{'Proxy-Authorization': ***"),
        ("X-Registry-Auth: eyJ1c2VyIjoi\nnext", "X-Registry-Auth: ***\nnext"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ("it wants bearer abcdefgh123", "it wants bearer ***"),
        ("password=hunter2 user=me", "password=*** user=me"),
        ('{"identitytoken": "abc", "x": 1}', '{"identitytoken": ***, "x": 1}'),
        ('"auth": "dXNlcjpwYXNz"', '"auth": ***'),
        ("MY_API_KEY=abc", "MY_API_KEY=***"),
        ("a -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- b", "a *** b"),
        ("-----BEGIN CERTIFICATE-----\ncut off", "***"),
    ],
)
def test_secrets_are_removed(said: str, shown: str) -> None:
    assert without_secrets(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "http://deb.debian.org:80/debian/pool/a@b_1.deb: 404 Not Found",
        "docker.io/library/debian:12@sha256:00ff: the engine has it",
        "localhost/vmbox/debian-12:0123456789ab",
        "/var/crash/127.0.0.1-2026-01-01-00:00:00/vmcore",
        "unix:///run/docker.sock, the standard socket: no engine answers",
        "no debuginfo of kernel 5.14.0-427.13.1.el9_4.x86_64 #1 SMP Wed May 1 19:11:28 UTC 2024",
        "signature of the header; 20.0 MiB of 900.0 MiB were read",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert without_secrets(said) == said


def test_long_texts_are_cut_off_without_half_a_secret() -> None:
    text = without_secrets("x " * 7990 + "https://user:" + "pass" * 100 + "@host")
    assert len(text) == 4000
    assert "pass" not in text


def test_nothing_is_formatted_while_nobody_listens() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    Log("x").debug("%s", Costly())


def test_a_program_listens_as_to_any_logger(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="vmbox")
    Log("x").info("at %s", "https://a:b@host/")
    (record,) = caplog.records
    assert (record.name, record.getMessage(), record.filename) == ("vmbox.x", "at https://***@host/", "test_log.py")


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.start("debug", render.visible)
    Log("x").debug("100 %")
    Log("x").info("%s", "two\nlines \x1b[31m")
    begin_in_worker("info")
    Log("x").debug("not said")
    Log("x").info("said")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.partition(" x: ")[2] for line in lines] == ["100 %", r"two\nlines \x1b[31m", "said"]
    assert all(LINE.fullmatch(line) for line in lines[:2])
    assert re.match(r"vmbox\[\d+\]: info: ", lines[2])


def test_steps_say_how_long_they_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert render.reporter(quiet=True) is QUIET
    log.start("info", render.visible)
    with render.reporter(quiet=True).step("Waiting"):
        pass
    with pytest.raises(ConfigurationError), render.reporter(quiet=True).step("Failing"):
        raise ConfigurationError("x")
    render.reporter(quiet=True).notice("crash says this of the dump")
    said = [line.split(" ", 3)[3] for line in capsys.readouterr().err.splitlines()]
    assert [re.sub(r"\d\.\d{3}", "0", line) for line in said] == [
        "steps: Waiting: 0 s",
        "steps: Failing: failed after 0 s",
    ]


def test_requests_of_an_engine(caplog: pytest.LogCaptureFixture) -> None:
    """No query, which may name registries and their passwords; and what is polled is not said each time."""
    caplog.set_level(logging.DEBUG, logger="vmbox")
    session = requests.Session()
    requests_log.attach(session)

    class Answering(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:  # type: ignore[override]  # no engine is asked
            answer = requests.Response()
            answer.status_code, answer.request, answer._content = 200, request, b""
            return answer

        def close(self) -> None: ...

    session.mount("http://", Answering())
    for path in ("a/json?x=secret", "a/json", "a/json", "b"):
        session.get(f"http://engine/containers/{path}")
    said = [re.sub(r"\d+ ms", "0 ms", message) for message in caplog.messages]
    assert said == ["GET /containers/a/json 200 0 ms", "2 more of the same", "GET /containers/b 200 0 ms"]


@pytest.mark.parametrize("words", [("-v", "info", DUMP, "--json"), ("info", "--verbose", DUMP, "--json")])
def test_of_a_command(vmbox: Vmbox, words: tuple[object, ...]) -> None:
    plain, told = vmbox("info", DUMP, "--json"), vmbox(*words)
    assert plain.stderr == ""
    assert (told.returncode, told.stdout) == (0, plain.stdout)
    json.loads(told.stdout)
    lines = told.stderr.splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert re.search(r"vmbox: vmbox \S+, Python 3\.", lines[0])
    assert any("dump: " in line and "build_id from vmcoreinfo" in line for line in lines)
    assert any("profiles: latest, debuginfo as debian-12: crash " in line for line in lines)
    # What the kernel said when it died stands in the dump.
    panic = json.loads(told.stdout)["panic"]
    assert panic
    assert panic not in told.stderr


def test_of_the_environment(vmbox: Vmbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_LOG", "info")
    monkeypatch.setenv("VMBOX_MIRRORS", "http://deb.debian.org=http://me:pw@mirror.example")
    told = vmbox("info", DUMP)
    assert "debug: " not in told.stderr
    assert "setting mirrors = http://deb.debian.org=http://***@mirror.example, from $VMBOX_MIRRORS" in told.stderr
    # The command line goes before the environment.
    assert "debug: " in vmbox("-v", "info", DUMP).stderr


def test_errors_are_said_with_their_kind(vmbox: Vmbox, tmp_path: Path) -> None:
    told = vmbox("info", "-v", tmp_path / "nothing")
    assert told.returncode == 10
    assert " vmbox: DumpNotFound, exit status 10" in told.stderr


def test_a_level_that_there_is_not(vmbox: Vmbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_LOG", "nonsense")
    told = vmbox("info", DUMP)
    assert (told.returncode, told.stdout) == (ConfigurationError.exit_code, "")
    assert told.stderr.startswith("vmbox: $VMBOX_LOG must be debug or info\n")


def test_completion_says_nothing(vmbox: Vmbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for level in ("debug", "nonsense"):
        for name, value in {
            "VMBOX_LOG": level,
            "_VMBOX_COMPLETE": "complete_bash",
            "COMP_WORDS": "vmbox info --verb",
            "COMP_CWORD": "2",
        }.items():
            monkeypatch.setenv(name, value)
        told = vmbox()
        assert (told.stdout.split(), told.stderr) == (["--verbose"], "")


def test_the_manual_has_it() -> None:
    text = manual.page()
    assert r".B VMBOX_LOG" in text
    assert text.count(r"\-\-verbose, \-v") + text.count(r"\-v, \-\-verbose") > 20
