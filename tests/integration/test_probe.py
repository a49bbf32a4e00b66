"""tools/probe-profiles against mirrors in the layouts of Debian, Enterprise Linux, Amazon and openSUSE, on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import probe_mirrors
from upkeep import probe
from upkeep.asking import Asker


@pytest.fixture
def scratch() -> Iterator[Path]:
    with probe_mirrors.probe_mirrors() as directory:
        yield directory


def _probe(monkeypatch: pytest.MonkeyPatch, memory: Path, *words: str) -> int:
    given = [*words, "--memory", str(memory), "--seconds", "0", "--output", str(memory.with_suffix(".tsv"))]
    monkeypatch.setattr(sys, "argv", ["probe", *probe_mirrors.PROFILES, *given])
    return probe.main()


def test_everything_is_found_signed_and_remembered(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, page = tmp_path / "memory", tmp_path / "probed.md"
    assert _probe(monkeypatch, memory, "--page", str(page)) == 0
    assert capsys.readouterr().err == ""
    lines = [line.split("\t") for line in memory.with_suffix(".tsv").read_text().splitlines()]
    good = {(name, kind, release): said for name, kind, release, said, _ in lines if not said.startswith("no: ")}
    assert {name for name, kind, _ in good if kind == "debuginfo"} == set(probe_mirrors.PROFILES)
    key = "signed by Kernel Builders <k@example.org>"
    assert good["el8", "crash", ""].startswith(key)
    assert good["debian-12", "packages", ""] == key
    assert good["debian-12", "crash", ""] == "there, crash 8.0.2-1"
    assert good["el8", "debuginfo", "4.18.0-477.21.1.el8_8.x86_64"].startswith(key)
    assert good["amazon-2023", "debuginfo", "6.1.90-99.173.amzn2023.x86_64"].endswith(", in 2023.1.20260101")
    assert good["debian-12", "debuginfo", "6.1.0-21-amd64"] == "there, linux-image-6.1.0-21-amd64-dbg 6.1.90-1"
    # After the suite that has it no other is asked.
    suites = [url for name, kind, release, _, url in lines if (kind, release) == ("debuginfo", "6.1.0-21-amd64")]
    assert suites[-1].endswith("/20240507T000000Z/dists/bookworm-security")
    assert "## Gone\n\nNothing.\n" in page.read_text()
    # What was answered is not asked again, but for what a killed probe had half written.
    answers = memory.read_text().splitlines(keepends=True)
    memory.write_text("".join(answers[:-1]) + answers[-1][:20])
    asked: list[str] = []
    real = Asker.ask
    monkeypatch.setattr(Asker, "ask", lambda self, one: [asked.append(one.url), real(self, one)][1])
    assert _probe(monkeypatch, memory) == 0
    assert len(asked) == 1
    assert json.loads(memory.read_text().splitlines()[-1])[1] in {True, False}


def test_a_key_that_is_not_the_vendors_and_a_crash_of_another_version(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = scratch / "config" / "images"
    (config / "keys" / "rocky-8.asc").write_text((Path(__file__).parents[2] / "images/keys/rocky-9.asc").read_text())
    text = (Path(__file__).parents[2] / "images/sles-15.toml").read_text()
    (config / "sles-15.toml").write_text(text.replace('version = "8.0.4"', 'version = "8.0.5"'))
    probe_mirrors.profiles.load.cache_clear()
    assert _probe(monkeypatch, tmp_path / "memory") == 1
    said = capsys.readouterr().err.splitlines()
    assert "el8: nothing has its crash" in said
    assert "el8: nothing has its debuginfo of 4.18.0-193.el8.x86_64" in said
    assert "sles-15: nothing has its crash" in said
    assert not [line for line in said if line.startswith(("debian-12", "amazon-2023"))]
    lines = (tmp_path / "memory.tsv").read_text()
    assert "no: not crash 8.0.5: 8.0.4-150600.1.1\t" in lines
    assert "its signature is not one of the vendor's" in lines
