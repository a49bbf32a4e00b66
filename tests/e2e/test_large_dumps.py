"""A genuine dump of some 5 GB, of memory that does not compress, in the forms and archives that people have.

Each form is read, opened, reported, verified and excerpted on each engine, and its answers are those of the plain copy
of /proc/vmcore. Needs 10 GB of disk beside the engines' storage, 15 for zst, and half an hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import engines
from e2e.conftest import Dumps
from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.engine import Bind, ContainerSpec
from sandbox.image.containerfile import BuildContext
from sandbox.image.package_sources import package_sources
from sandbox.remote.places import DESCRIBED

pytestmark = pytest.mark.on_demand("LARGE")

FILLED = 4096
"""MiB of noise."""
QUESTIONS = ("bt", "--", "ps", "--", "kmem", "-i", "--", "log", "--", "mod")
FORMS = {
    "proc-vmcore": "",
    "flattened": "makedumpfile -F -d 1 vmcore > flattened",
    "part-2": "makedumpfile --split -d 1 vmcore part-1 part-2 part-3",
    "vmcore.xz": "xz -0 -T0 -k vmcore",
    "vmcore.gz": "gzip -1k vmcore",
    "vmcore.zst": "zstd -1qkf vmcore",
}
"""By the file that is named, what makes it beside vmcore. makedumpfile's are stored pages, for noise has no other."""
FROM_THE_BEGINNING = {"vmcore.gz", "vmcore.zst"}
"""Forms of which `info` reads the beginning, and the log beside them."""
UNPACKED = {"vmcore.zst"}
"""Forms that are not read where they are: of one frame, that is, which cannot be sought in."""


@dataclass
class Large:
    directory: Path
    maker: EngineUnderTest
    answers: dict[str, bytes] = field(default_factory=dict)
    """Of the plain dump, by engine."""

    def make(self, name: str) -> Path:
        """A form of the dump; the one before it is removed."""
        for file in self.directory.iterdir():
            if file.name not in {"vmcore", "vmcore-dmesg.txt"}:
                file.unlink()
        if not FORMS[name]:
            return self.directory / "vmcore"
        profile = profiles.by_name("debian-12")
        tools = image.build(
            BuildContext(
                name=f"demo-{profile.name}",
                fragments=("base", "apt", "demo-apt"),
                args={},
                files=package_sources(profile),
            ),
            self.maker.engine,
            base=lambda: image.ensure_base(profile, self.maker.engine),
        )
        container = ContainerSpec(
            image=tools,
            argv=["sh", "-c", f"cd /large && {FORMS[name]} && chmod 644 *"],
            binds=[Bind(source=self.directory, target="/large", read_only=False)],
            hardened=False,
            as_caller=False,
        )
        for _ in self.maker.engine.run(container):
            pass
        return self.directory / name


@pytest.fixture(scope="module")
def large(dumps: Dumps) -> Iterator[Large]:
    dumps()  # it chooses a kernel whose debuginfo can be had
    directory = engines.cache_root() / "large-dump"  # which each engine's user can pass
    shutil.rmtree(directory, ignore_errors=True)
    words = ["--kernel", dumps.package("6.1"), "--format", "proc-vmcore"]
    words += ["--fill", str(FILLED), "--memory", str(FILLED + 1024)]
    made = dumps.maker.run("demo", str(directory), *words, timeout=1800)
    try:
        assert made.returncode == 0, made.stderr.decode()
        directory.chmod(0o755)
        for file in directory.iterdir():
            file.chmod(0o644)
        assert (directory / "vmcore").stat().st_size > FILLED << 20
        yield Large(directory, dumps.maker)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMS)
def test_each_form_on_each_engine(request: pytest.FixtureRequest, large: Large, name: str) -> None:
    if not os.access("/dev/fuse", os.F_OK):
        os.mknod("/dev/fuse", 0o020666, os.makedev(10, 229))
    Path("/dev/fuse").chmod(0o666)
    path = large.make(name)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    for fixture in ("podman_rootful", "docker_engine", "podman_rootless"):
        engine: EngineUnderTest = request.getfixturevalue(fixture)

        def vmbox(
            *words: object, status: int = 0, engine: EngineUnderTest = engine
        ) -> subprocess.CompletedProcess[bytes]:
            done = engine.run(*map(str, words), timeout=1800)
            assert done.returncode == status, (engine.name, words, done.stdout[-2000:], done.stderr[-4000:])
            return done

        told = json.loads(vmbox("info", "--json", path).stdout)
        assert told["complete"] is (None if name in FROM_THE_BEGINNING else True)
        assert told["cause"] == "sysrq"
        if engine.name not in large.answers:
            plain = vmbox("run", large.directory / "vmcore", "--", *QUESTIONS)
            assert b"AGREES WITH: the log's call trace" in plain.stderr
            large.answers[engine.name] = plain.stdout
            vmbox("close", "--all")
        answer = vmbox("run", path, "--", *QUESTIONS)
        assert answer.stdout == large.answers[engine.name]
        copies = [
            one
            for one in Path(engine.env["VMBOX_CACHE_DIR"], "dumps").glob("*/vmcore*")
            if one.parent.suffix != DESCRIBED
        ]
        assert bool(copies) is (name in UNPACKED)
        made = json.loads(vmbox("report", "--json", path).stdout)
        assert (made["problem"], made["signature"]["basis"]) == (None, "backtrace")
        assert vmbox("verify", path).stdout.split()[0].decode() == sha256
        vmbox("close", path)
        small = engine.directory() / "small.vmcore"
        excerpt = vmbox("excerpt", path, "-o", small, "--verify", status=11 if name in UNPACKED else 0)
        if name in UNPACKED:
            assert re.search(rb"hint: unpack it first: zstd -d \S+/vmcore.zst", excerpt.stderr)
        else:
            assert b"the excerpt answers as the dump does" in excerpt.stdout
            assert small.stat().st_size < 20 << 20
        vmbox("close", "--all")
