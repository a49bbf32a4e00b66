"""What `vmbox info --json` prints is what the shipped schema says, for every kind of input."""

import gzip
import io
import json
import tarfile
from importlib.resources import files
from pathlib import Path

import dump_writer
import jsonschema
import pytest

from sandbox import render
from sandbox.commands.info import describe, show_schema
from sandbox.dump import identify
from sandbox.model import DumpFormat, PageCompression, Wrapper

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
SCHEMA = json.loads(files("sandbox.dump").joinpath("vmcore.schema.json").read_text())
INFO = b"OSRELEASE=5.14.0-427.18.1.el9_4.x86_64\nPAGESIZE=4096\n"
PAGES = {pfn: bytes([pfn]) * 4096 for pfn in (0, 3)}
LOG = b"[    0.000000] Linux version 6.1.0-test (a@b) #1\n[    9.500000] Kernel panic - not syncing: x\n"

# What people and programs were promised by name.
PROMISED = [
    "path",
    "format",
    "flattened",
    "wrappers",
    "release",
    "utsname_version",
    "arch",
    "class",
    "variant",
    "vendor",
    "profile",
    "build_id",
    "page_size",
    "nr_cpus",
    "crash_time",
    "uptime_seconds",
    "dump_level",
    "compression",
    "excerpt",
    "complete",
    "incomplete_reason",
    "cause",
    "panic",
    "taint",
    "hardware",
    "origins",
]


def printed(path):
    return json.loads(json.dumps(render.plain(describe(identify(path)))))


def sosreport():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, content in {
            "sosreport-x/sos_commands/kernel/uname_-a": b"Linux host 6.1.0-50-amd64 #1 SMP x86_64 GNU/Linux\n",
            "sosreport-x/var/crash/127.0.0.1-2026-01-02-03:04:05/vmcore-dmesg.txt": LOG,
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def written():
    dump = (FIXTURES / "x86_64-6.1-zlib").read_bytes()
    return {
        "vmcore": dump_writer.kdump(PAGES, INFO),
        "cut": dump[:30000],
        "no vmcoreinfo": dump_writer.kdump(PAGES, b"", utsname=("",) * 6, cpus=0),
        "flat": dump_writer.flatten(dump),
        "elf": dump_writer.elf(PAGES, INFO),
        "vmcore.gz": gzip.compress(dump),
        "diskdump": dump_writer.kdump(PAGES, b"", signature=b"DISKDUMP", status=8),
        "lkcd": bytes.fromhex("ed238f61730119a8") + bytes(4096),
        "s390": bytes.fromhex("a8190173618f23fd") + bytes(600),
        "xen": b"\xed\xeb\x0f\xf0" + bytes(600),
        "vmcore-dmesg.txt": LOG,
        "sosreport.tar.xz": sosreport(),
    }


@pytest.mark.slow
def test_every_kind(tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    paths = [path for path in FIXTURES.iterdir() if path.suffix != ".py"]
    for name, content in written().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    problems = [f"{path.name}: {problem.message}" for path in paths for problem in validator.iter_errors(printed(path))]
    assert problems == []


def test_every_key_is_described():
    assert set(PROMISED) <= set(SCHEMA["required"])
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])


def test_words_are_those_of_the_model():
    described = SCHEMA["properties"]
    assert set(described["format"]["enum"]) == {*DumpFormat} - {DumpFormat.FLATTENED, DumpFormat.RELEASE}
    assert set(described["wrappers"]["items"]["enum"]) == {*Wrapper} - {Wrapper.RAR}
    assert set(described["compression"]["enum"]) == {*PageCompression, None}


@pytest.mark.parametrize(("name", "unknown"), [("vmcore", {"taint", "cause", "panic", "vendor", "uptime_seconds"})])
def test_unknown_is_null(tmp_path, name, unknown):
    (tmp_path / name).write_bytes(written()[name])
    found = printed(tmp_path / name)
    assert {key for key in unknown if found[key] is not None} == set()
    assert (found["class"], found["origins"]["class"], found["profile"]) == ("rhel:9.4", "release", "el9")


def test_schema_is_printed(capsys):
    show_schema()
    assert json.loads(capsys.readouterr().out) == SCHEMA
