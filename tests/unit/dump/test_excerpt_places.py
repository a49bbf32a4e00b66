"""Where an excerpt may be written, and how much of a dump it may have."""

import bz2
import subprocess
import sys

import dump_writer
import pytest

from sandbox.case import page_record
from sandbox.case.options import OpenOptions
from sandbox.dump import identify
from sandbox.dump.source import FileSource
from sandbox.dump.view import View
from sandbox.errors import DumpNotFound, DumpUnreadable, UsageError
from sandbox.excerpt.make import make
from sandbox.remote.naming import named
from sandbox.render import plain

INFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nNUMBER(phys_base)=0\n"


@pytest.fixture
def directory(tmp_path):
    """With a dump of two parts, and other names of the second."""
    crash, other = tmp_path / "crash", tmp_path / "other"
    pages = {pfn: bytes([pfn]) * 4096 for pfn in range(20)}
    for place in (crash, other):
        place.mkdir()
    for number in (1, 2):
        part = dump_writer.kdump(pages, INFO, split=(10 * number - 10, 10 * number))
        (crash / f"vmcore.{number}").write_bytes(part)
    (other / "hard").hardlink_to(crash / "vmcore.2")
    (other / "link").symlink_to(crash / "vmcore.2")
    return crash


@pytest.mark.parametrize("dump", [".", "vmcore.1", "file:"])
@pytest.mark.parametrize("place", ["vmcore.1", "vmcore.2", "../other/hard", "../other/link"])
@pytest.mark.parametrize("listed", [False, True])
def test_no_part_of_the_dump_is_written_over(directory, dump, place, listed):
    before = {one: one.read_bytes() for one in directory.iterdir()}
    path = named(f"file://{directory}/vmcore.1") if dump == "file:" else directory / dump
    places = {"output": directory / "new", "listed": directory / place} if listed else {"output": directory / place}
    with pytest.raises(UsageError, match="which is only read"):
        make(path, options=OpenOptions(), **places)
    assert {one: one.read_bytes() for one in directory.iterdir()} == before


def test_the_manifest_is_another_file_than_the_excerpt(directory):
    (directory / "other").symlink_to("new")
    with pytest.raises(UsageError, match="the excerpt and its manifest"):
        make(directory / "vmcore.1", directory / "new", OpenOptions(), listed=directory / "other")


def test_a_place_is_looked_at_before_the_dump_is_asked(directory):
    with pytest.raises(UsageError, match=str(directory)):
        make(directory / "vmcore.1", directory, OpenOptions())


def test_a_form_of_which_no_excerpt_is_made_is_refused_before_anything_is_started(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf({3: bytes(4096)}, INFO, machine=243))
    with pytest.raises(DumpUnreadable, match=r"vmcore \(elf of riscv64\) is of a form of which no excerpt is made"):
        make(path, tmp_path / "new", OpenOptions(engine="unix:///nowhere"))
    (tmp_path / "vmcore.bz2").write_bytes(bz2.compress(dump_writer.kdump({3: bytes(4096)}, INFO)))
    with pytest.raises(DumpUnreadable, match="cannot be read where they are") as refused:
        make(tmp_path / "vmcore.bz2", tmp_path / "new", OpenOptions(engine="unix:///nowhere"))
    assert refused.value.hint == f"unpack it first: bzip2 -dk {tmp_path}/vmcore.bz2"
    (tmp_path / "log").write_text("[    0.0] Linux version 6.1.0 (a@b)\n[    1.0] Kernel panic - not syncing: x\n")
    with pytest.raises(DumpNotFound, match="the vmcore itself is not in it"):
        make(tmp_path / "log", tmp_path / "new", OpenOptions(engine="unix:///nowhere"))
    # Nor of one part of two.
    path.write_bytes(dump_writer.kdump({3: bytes(4096)}, INFO, split=(0, 10), max_mapnr=20))
    with pytest.raises(DumpUnreadable, match="what has pages 10 to 20 is not beside it"):
        make(path, tmp_path / "new", OpenOptions(engine="unix:///nowhere"))


def test_what_reads_too_much_of_a_dump_makes_no_excerpt(directory, monkeypatch):
    monkeypatch.setattr(page_record, "MOST", 2)
    path = directory / "vmcore"
    path.write_bytes(dump_writer.kdump({number: bytes([number]) * 4096 for number in (3, 4, 5)}, INFO))
    record = page_record.create(directory)
    with FileSource(path) as source:
        view = page_record.recorded([View(source)], plain(identify(path)), record)
        start = view.size - 3 * 4096
        view.read_at(start, 4096)
        assert page_record.read(record) == [3]
        view.read_at(start, 8192)
        with pytest.raises(DumpUnreadable):
            view.read_at(start + 8192, 1)
    with pytest.raises(DumpUnreadable, match="2 pages or more"):
        page_record.read(record)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["crash/vmcore.2", "other/hard", "other/link"])
@pytest.mark.parametrize("line", [("report",), ("image", "save"), ("image", "build", "--sbom")])
def test_nothing_else_is_written_over_the_dump(directory, place, line):
    before = (directory / "vmcore.2").read_bytes()
    option = [] if "--sbom" in line else ["-o"]
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *line, *option, directory.parent / place, directory / "vmcore.2"],
        check=False,
        capture_output=True,
    )
    assert (done.returncode, b"which is only read" in done.stderr) == (2, True)
    assert (directory / "vmcore.2").read_bytes() == before
