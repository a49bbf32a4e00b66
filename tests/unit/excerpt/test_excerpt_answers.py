"""What an excerpt says of itself, and how its answers are compared."""

import gzip
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case import page_record
from sandbox.case.options import OpenOptions
from sandbox.dump import kdump
from sandbox.excerpt import compare, make, page_kinds, questions
from sandbox.excerpt.model import PageRange, Question, ranges
from sandbox.model import CommandStatus
from sandbox.progress import QUIET
from sandbox.report.model import CommandRun


def run(command, output, status=CommandStatus.OK):
    return CommandRun(command=command, status=status, seconds=0.1, output=output)


def asked(name, frames=(), runs=()):
    return Question(name=name, debugger="crash", frames=frames, runs=runs)


def test_a_page_is_listed_with_the_first_question_that_read_it():
    one, two = asked("report by crash", (7, 5, 6)), asked("bt", (6, 8, 20))
    assert list(ranges([one, two], None, frozenset())) == [
        PageRange(first=5, count=3, question="report by crash", kind=None),
        PageRange(first=8, count=1, question="bt", kind=None),
        PageRange(first=20, count=1, question="bt", kind=None),
    ]


def test_pages_that_are_left_out_are_not_listed():
    kinds = {5: "slab", 6: "anonymous", 7: "slab", 8: "reserved"}
    assert list(ranges([asked("bt", (5, 6, 7, 8))], kinds, frozenset({6}))) == [
        PageRange(first=5, count=1, question="bt", kind="slab"),
        PageRange(first=7, count=1, question="bt", kind="slab"),
        PageRange(first=8, count=1, question="bt", kind="reserved"),
    ]


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (run("sys", "    DUMPFILE: other\n  CPUS: 2\n"), None),
        (run("sys", "    DUMPFILE: other\n  CPUS: 1\n"), "CPUS: 1"),
        (run("sys", "    DUMPFILE: other\n"), "CPUS: 2"),
        (
            run("sys", "sys: page excluded\n", CommandStatus.ERROR),
            "error instead of ok: sys: page excluded",
        ),
        (None, "the excerpt was not opened"),
    ],
)
def test_answers_are_the_same_but_for_names_of_files(monkeypatch, tmp_path, now, line):
    before = asked("report by crash", runs=(run("sys", "    DUMPFILE: vmcore\n  CPUS: 2\n"), run("ps", "1\n")))
    after = None if now is None else asked("report by crash", runs=(now, run("ps", "1\n")))
    monkeypatch.setattr(questions, "report", lambda *_args, **_kwargs: after)
    found = list(compare.differences(tmp_path, [before], OpenOptions(), QUIET, timeout=1))
    assert [(one.command, one.line) for one in found if one.command == "sys"] == (
        [] if line is None else [("sys", line)]
    )


def test_a_record_is_read_as_far_as_it_is_whole(tmp_path):
    record = page_record.create(tmp_path)
    record.write_bytes((5).to_bytes(8, "little") + (9).to_bytes(8, "little") + b"\1\2")
    assert page_record.read(record) == [5, 9]
    assert page_record.read(record, 1) == [9]
    assert record.stat().st_mode & 0o777 == 0o600


def test_a_case_that_lies_about_pages_leaves_them_out(monkeypatch):
    @contextmanager
    def session():
        yield SimpleNamespace()

    def answer(_session, _what, _code, _arguments, output, *, timeout):
        assert timeout
        output(b"5 slab\n2 kerneI\n" + b"9" * 5000 + b" slab\n" + "\u0666 slab\n\u00b2 slab\n".encode())
        return CommandStatus.OK, b""

    monkeypatch.setattr(page_kinds, "open_session", lambda *_: (session(), None))
    monkeypatch.setattr(page_kinds, "run_script", answer)
    found = page_kinds.kinds(Path("vmcore"), [2, 5, 6], OpenOptions(), QUIET, timeout=1)
    assert found == {2: "unknown", 5: "slab", 6: "unknown"}


def test_a_name_that_is_no_text_is_noted():
    assert rb"of \udcff" in kdump.excerpt_note("of \udcff", "little")


def test_a_name_of_gzip_is_compressed(tmp_path):
    """Bitmaps of 1 TiB have 64 MiB, and are nothing then."""
    pieces = [b"header", b"\xff" * (1 << 20), bytes(1 << 20), b"pages"]
    for name in ("small", "small.gz"):
        assert make._write(tmp_path / name, iter(pieces)) == (tmp_path / name).stat().st_size
    assert (tmp_path / "small").read_bytes() == gzip.decompress((tmp_path / "small.gz").read_bytes())
    assert (tmp_path / "small.gz").stat().st_size < 4096
