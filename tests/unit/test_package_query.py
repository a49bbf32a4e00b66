"""Answers of a package manager: what is in them comes from an archive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import profiles
from sandbox.case import package_query
from sandbox.case.package_query import ContainerPackageQuery
from sandbox.debuginfo import NoPackageManager
from sandbox.engine import ContainerSpec
from sandbox.errors import BaseImageUnavailable, DownloadFailed
from sandbox.host import paths

URL = "https://deb.example/x.deb"
HASH = "ab" * 32


class Engine:
    """Stands for an engine whose container says one thing."""

    def __init__(self, said: str) -> None:
        self.said = said

    def run(self, _: ContainerSpec) -> Iterator[bytes]:
        yield self.said.encode()


def ask(said: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str, int | None, str | None]]:
    monkeypatch.setattr(package_query, "ensure_base", lambda *_: "base")
    query = ContainerPackageQuery(profiles.read(paths.data_dir() / "images" / "debian-12.toml"), Engine(said))  # type: ignore[arg-type]  # a stand-in
    found = query(["a=1:2", "b"], ["deb https://deb.example x main"])
    return [(one.package, one.version, one.url, one.size, one.sha256) for one in found]


def test_packages_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"a=1:2\t{URL}\t17\t{HASH}\nb\t{URL}\t18\t{HASH}\n"
    assert ask(said, monkeypatch) == [("a", "1:2", URL, 17, HASH), ("b", "", URL, 18, HASH)]
    assert ask("", monkeypatch) == []


@pytest.mark.parametrize("why", ["Could not resolve 'deb.debian.org'", "404  Not Found"])
def test_a_base_that_cannot_be_made_for_want_of_a_network(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> str:
        raise BaseImageUnavailable("no base image for Debian 12 is available", detail=f"Err:1 InRelease\n  {why}\n")

    monkeypatch.setattr(package_query, "ensure_base", none)
    query = ContainerPackageQuery(profiles.by_name("debian-12"), Engine(""))  # type: ignore[arg-type]  # a stand-in
    with pytest.raises(NoPackageManager if "resolve" in why else BaseImageUnavailable, match="no base image"):
        list(query(["a"], ["deb https://deb.example x main"]))


@pytest.mark.parametrize(
    "line",
    [
        "b",
        f"b\t{URL}\t17",
        f"b\t{URL}\t17\t{HASH}\tmore",
        f"b\t{URL}\t\t{HASH}",
        f"b\t{URL}\t²\t{HASH}",
        f"b\t{URL}\t{'9' * 5000}\t{HASH}",
        f"b\t{URL}\t17\t",
        f"b\t{URL}\t17\t{'a' * 400}",
        f"b\tfile:///etc/shadow\t17\t{HASH}",
        f"c\t{URL}\t17\t{HASH}",
    ],
)
def test_an_answer_that_is_none(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadFailed, match="gave an answer that is none"):
        ask(f"{line}\n", monkeypatch)
