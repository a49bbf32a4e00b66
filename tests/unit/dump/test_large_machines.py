"""Machines with hundreds of CPUs, tens of thousands of tasks, and a terabyte, by structure: there is none here."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import dump_writer
import pytest

from sandbox.dump import identify, view
from sandbox.dump.kdump_lost import reads_as_zeros
from sandbox.dump.source import FileSource

CPUS, TASKS, MEMORY = 512, 50_000, 1 << 40
ANSWERS = Path(__file__).parents[2] / "fixtures" / "crash" / "6.1.jsonl"
DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"


def _answers() -> dict[str, str]:
    """What crash says of such a machine: the lines of a small one, as often as there would be."""
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    told = {row["command"]: row["output"] for row in rows}

    def tasks(text: str, head: int = 0) -> str:
        lines = text.splitlines(keepends=True)
        body = lines[head:]
        more = (body[number % len(body)] for number in range(TASKS))
        numbered = (re.sub(r"^(>?\s*)\d+", rf"\g<1>{number + 100_000}", one) for number, one in enumerate(more))
        return "".join((*lines[:head], *numbered))

    stack = told["bt -a"].split("\n\n")[0] + "\n\n"
    return told | {
        "ps": tasks(told["ps"], 1),
        "ps -m": tasks(told["ps -m"]),
        "ps -t": told["ps -t"] * (TASKS // max(told["ps -t"].count("PID:"), 1)),
        "bt -a": "".join(re.sub(r"CPU: \d+", f"CPU: {cpu}", stack) for cpu in range(CPUS)),
        "foreach UN bt": stack * 2000,
        "runq": "".join(told["runq"].replace("CPU 0", f"CPU {cpu}") for cpu in range(CPUS)),
    }


MAKE = """
import json, sys
from pathlib import Path
import sandbox.cli
from sandbox.dump import identify, view
from sandbox.dump.kdump_lost import reads_as_zeros
from sandbox.dump.source import FileSource
from sandbox.model import CommandStatus
from sandbox.report.build import read
from sandbox.report.collect import ExternalOutput, from_external
from sandbox.report.html import html

told = json.loads(Path(sys.argv[1]).read_bytes())
found = {name: ExternalOutput(status=CommandStatus.OK, output=text) for name, text in told.items()}
del told
made = read(identify(Path(sys.argv[2])), from_external(found, case={"debugger": "crash"}))
page = html(made)
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(made.tasks_total, len(made.cpus), len(page), peak)
"""


@pytest.mark.slow
def test_a_report_of_a_large_machine_needs_200_megabytes_at_most(tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    answers.write_text(json.dumps(_answers()), encoding="utf-8")
    argv = [sys.executable, "-c", MAKE, str(answers), str(DUMPS / "x86_64-6.1-zlib")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    tasks, cpus, page, peak = map(int, done.stdout.split())
    assert (tasks, cpus) == (TASKS, CPUS)
    assert page < 8 << 20
    assert peak < 200 << 10, f"{peak >> 10} MB"


def _sparse_elf(path: Path) -> None:
    """/proc/vmcore of a machine with that many CPUs: notes, and memory as one segment that is a hole."""
    note = struct.pack("<III", 5, 336, 1) + b"CORE\0\0\0\0" + bytes(336)
    info = b"OSRELEASE=6.1.0-50-cloud-amd64\nPAGESIZE=4096\n"
    notes = note * CPUS + struct.pack("<III", 11, len(info), 0) + b"VMCOREINFO\0\0" + info + bytes(-len(info) % 4)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 4, 0, 4096, 0, 0, len(notes), len(notes), 0)
    head += struct.pack("<IIQQQQQQ", 1, 0, 1 << 20, 0xFFFF888000000000, 0, MEMORY, MEMORY, 0)
    with path.open("wb") as out:
        out.write(head)
        out.seek(4096)
        out.write(notes)
        out.truncate((1 << 20) + MEMORY)


def _sparse_kdump(path: Path) -> None:
    """Bitmaps of 32 MiB each, and a page at each end of memory."""
    info = b"OSRELEASE=6.1.0-50-cloud-amd64\nPAGESIZE=4096\n"
    pages = {1: bytes(4096), MEMORY // 4096 - 1: bytes(4096)}
    path.write_bytes(dump_writer.kdump(pages, info, cpus=CPUS, level=31))


@pytest.mark.slow
@pytest.mark.parametrize("make", [_sparse_elf, _sparse_kdump])
def test_a_dump_of_a_terabyte_is_identified_at_once(tmp_path: Path, make: object) -> None:
    path = tmp_path / "vmcore"
    make(path)  # type: ignore[operator]
    began = time.thread_time()
    found = identify(path)
    assert time.thread_time() - began < 0.5
    assert (found.release, found.nr_cpus, found.complete) == ("6.1.0-50-cloud-amd64", CPUS, True)


def _in_a_tar(path: Path) -> None:
    """The sparse ELF file as a tar stores it."""
    inner = path.with_name("inner")
    _sparse_elf(inner)
    member = tarfile.TarInfo("crash/vmcore")
    member.size = inner.stat().st_size
    with path.open("wb") as out:
        out.write(member.tobuf(tarfile.GNU_FORMAT))
        with inner.open("rb") as source:
            out.write(source.read(1 << 20))
        out.truncate(512 + member.size + 1024)


def _cut_kdump(path: Path) -> None:
    _sparse_kdump(path)
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [_in_a_tar, _sparse_kdump, _cut_kdump])
def test_a_terabyte_is_served_at_once(tmp_path: Path, make: object) -> None:
    path = tmp_path / "vmcore"
    make(path)  # type: ignore[operator]
    began = time.thread_time()
    found = identify(path)
    with FileSource(path) as file:
        opened = view.open_view(file, tmp_path, marking=reads_as_zeros(found))
        assert opened is not None
        assert opened.size == (MEMORY + (1 << 20) if make is _in_a_tar else path.stat().st_size)
        for at in (0, opened.size // 2, opened.size - 5000):
            assert len(opened.read_at(at, 4096)) == 4096
    assert time.thread_time() - began < 3
    assert found.release == "6.1.0-50-cloud-amd64"
