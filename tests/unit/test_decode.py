"""What files and other processes may say: it becomes a value of the right type, or an error that names the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from sandbox.case import store as cases
from sandbox.case.on_engine_host import parse_answer
from sandbox.commands.verify import verify
from sandbox.debuginfo.store import Store
from sandbox.errors import ConfigurationError, DumpDamaged
from sandbox.host import config, decode
from sandbox.host.decode import DecodeError, UnknownKey
from sandbox.model import field_with_key
from sandbox.progress import QUIET
from sandbox.triage.journal import Journal


class _Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    title: str
    part: _Part
    count: int = 0
    ratio: float = 0.0
    ready: bool = False
    place: Path = Path()
    when: datetime | None = None
    colour: _Colour = _Colour.RED
    words: tuple[str, ...] = ()
    parts: tuple[_Part, ...] = ()
    other: _Part | None = None
    table: Mapping[str, str] = field(default_factory=dict)
    skipped: str | None = field_with_key("unread", None)


GOOD: dict[str, Any] = {"title": "x", "part": {"name": "y"}}


def test_everything_becomes_what_its_annotation_says() -> None:
    text = json.dumps(
        GOOD
        | {
            "count": 7,
            "ratio": 2,
            "ready": True,
            "place": "/a/b",
            "when": "2026-01-01T02:00:00+02:00",
            "colour": "blue",
            "words": ["a", "b"],
            "parts": [{"name": "p", "size": 1}],
            "other": None,
            "table": {"k": "v"},
            "unread": "z",
        }
    )
    found = decode.from_json(_Whole, text)
    assert found == _Whole(
        title="x",
        part=_Part(name="y"),
        count=7,
        ratio=2.0,
        ready=True,
        place=Path("/a/b"),
        when=datetime(2026, 1, 1, tzinfo=UTC),
        colour=_Colour.BLUE,
        words=("a", "b"),
        parts=(_Part(name="p", size=1),),
        table={"k": "v"},
        skipped="z",
    )
    assert isinstance(found.ratio, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 3}, "title must be a string"),
        ({"title": None}, "title must be a string"),
        ({"count": True}, "count must be a whole number"),
        ({"count": 1.0}, "count must be a whole number"),
        ({"count": 1 << 65}, "count must be a whole number"),
        ({"ratio": "1"}, "ratio must be a number"),
        ({"ratio": False}, "ratio must be a number"),
        ({"ratio": 10**400}, "ratio must be a number"),
        ({"ratio": float("inf")}, "ratio must be a number"),
        ({"ready": 1}, "ready must be true or false"),
        ({"place": 1}, "place must be a path"),
        ({"place": "a\0b"}, "place must be a path"),
        ({"place": "\ud800"}, "place must be a path"),
        ({"when": "yesterday"}, "when must be a date and time with its zone"),
        ({"when": "2026-01-01T00:00:00"}, "when must be a date and time with its zone"),
        ({"when": "0001-01-01T00:00:00+14:00"}, "when must be a date and time with its zone"),
        ({"when": 0}, "when must be a date and time with its zone"),
        ({"colour": "green"}, "colour must be one of red, blue"),
        ({"colour": ["red"]}, "colour must be one of red, blue"),
        ({"words": "ab"}, "words must be a list of strings"),
        ({"words": ["a", 1]}, "words must be a list of strings"),
        ({"parts": {}}, "parts must be a list of tables"),
        ({"parts": ["a"]}, "parts is not a table"),
        ({"parts": [{"name": "p"}, {"name": 1}]}, "parts.name must be a string"),
        ({"part": {"name": "y", "size": "big"}}, "part.size must be a whole number"),
        ({"part": {}}, r"\[part\] lacks name"),
        ({"part": []}, r"needs a table \[part\]"),
        ({"other": "a"}, "other is not a table"),
        ({"table": []}, "table must be a table of strings"),
        ({"table": {"k": 1}}, "table must be a table of strings"),
        ({"colours": 1}, "unknown key colours"),
        ({"part": {"name": "y", "sise": 1}}, "unknown key part.sise"),
        ({"skipped": "z"}, "unknown key skipped"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=f"^{message}$"):
        decode.decode(_Whole, GOOD | change)


@pytest.mark.parametrize("value", [None, 1, "x", [], [GOOD]], ids=str)
def test_no_table_at_all(value: object) -> None:
    with pytest.raises(DecodeError, match="top level is not a table"):
        decode.decode(_Whole, value)


def test_all_that_lacks_is_said_at_once() -> None:
    with pytest.raises(DecodeError, match=r"^needs a table \[part\]$"):
        decode.decode(_Whole, {})
    with pytest.raises(DecodeError, match=r"^\[top level\] lacks name$"):
        decode.decode(_Part, {})


def test_which_keys_may_be_there() -> None:
    more = {"name": "a", "size": 1, "colour": "red"}
    assert decode.decode(_Part, more, keys="any") == _Part(name="a", size=1)
    with pytest.raises(UnknownKey) as caught:
        decode.decode(_Part, more)
    assert (caught.value.table, caught.value.key, caught.value.known) == ("", "colour", ("name", "size"))
    assert decode.decode(_Part, {"name": "a"}) == _Part(name="a")
    with pytest.raises(DecodeError, match="lacks size"):
        decode.decode(_Part, {"name": "a"}, keys="all")


def test_what_is_given_cannot_be_set() -> None:
    assert decode.decode(_Part, {}, given={"name": "a"}) == _Part(name="a")
    with pytest.raises(UnknownKey, match="unknown key name"):
        decode.decode(_Part, {"name": "b"}, given={"name": "a"})


LONG = "9" * 5000
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        b"\xff",
        f'{{"name": "a", "size": {LONG}}}',
        f'{{"name": "a", "more": {LONG}}}',
        '{"name": "a", "size": NaN}',
        '{"name": "a", "size": -Infinity}',
        '{"name": "a", "size": 1e999}',
        f'{{"name": {DEEP}',
        DEEP + "]" * 100_000,
        " " * ((16 << 20) + 1),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_hostile_json(text: str | bytes) -> None:
    with pytest.raises(DecodeError):
        decode.from_json(_Part, text, keys="any")


@pytest.mark.parametrize(
    "text",
    [
        b"a =",
        b"a = '\xff'",
        f"a = {LONG}".encode(),
        f"a = [{{ b = 0x{'f' * 5000} }}]".encode(),
        b"a = nan",
        b"a = -inf",
        f"a = {DEEP}".encode(),
        b"#" * ((16 << 20) + 1),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_hostile_toml(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(text)
    with pytest.raises(DecodeError):
        decode.read_toml(tmp_path / "a.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode.read_json(_Part, tmp_path / "a.json")


def test_an_annotation_that_is_not_known_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Odd:
        either: int | str

    with pytest.raises(TypeError, match="int"):
        decode.decode(Odd, {"either": 1})


HOSTILE = (
    "null",
    "[]",
    f'{{"size": {LONG}}}',
    '{"size": NaN}',
    DEEP,
    '{"id": 3, "build_id": 3, "fingerprint": 3, "key": 3, "path": 3}',
)
"""What the files of the tests below hold; each caller answers as to a file that is not there, or with its own error."""


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_cases_that_are_not_understood_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "case.json").write_text(text)
    assert cases.read(tmp_path) is None


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_builds_that_are_not_understood_are_not_in_the_cache(tmp_path: Path, text: str) -> None:
    place = tmp_path / "debuginfo" / "00"
    place.mkdir(parents=True)
    (place / "vmlinux").touch()
    (place / "about.json").write_text('{"build_id": null, "origin": "x", "verified": ""}')
    found = Store(tmp_path).find("00")
    assert found is not None
    assert (found.about.banners, found.about.keys) == ((), ())
    (place / "about.json").write_text(text)
    assert Store(tmp_path).find("00") is None


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_records_that_are_not_understood_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))
    dump = tmp_path / "vmcore"
    dump.write_bytes(b"x")
    assert verify([dump])[0].newly_recorded
    (record,) = (tmp_path / "state" / "evidence").iterdir()
    assert record.suffix == ".json"
    record.write_text(text)
    assert verify([dump])[0].newly_recorded
    # Of a newer version, which knows more of a file.
    written = json.loads(record.read_text())
    record.write_text(json.dumps(written | {"colour": "red"}))
    assert not verify([dump])[0].newly_recorded


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_lines_of_a_journal_that_are_not_understood_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    # As if the user's own vmbox, of another version, had written them.
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(Journal, "_seal", lambda *_: "sealed")
    (tmp_path / "rows.jsonl").write_text(f'{text[:-1]}, "seal": "sealed"}}\n{text}\n')
    assert list(Journal(tmp_path, [], QUIET).rows()) == []


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_answers_that_are_not_understood_are_of_a_damaged_dump(text: str) -> None:
    with pytest.raises(DumpDamaged, match="is not understood"):
        parse_answer(text.encode(), "/case/vmcore", Path("/var/crash/vmcore"))


@pytest.mark.parametrize("text", [f"idle = {LONG}", "cpus = nan", "cpus = inf", f"idle = {DEEP}", "idle = '\xff'"])
def test_settings_that_are_not_understood_name_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="latin-1")
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"config\.toml: "):
        config.current()
