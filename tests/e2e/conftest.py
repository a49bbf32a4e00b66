"""Genuine vmcores for the tests, made by `vmbox demo` itself, once, and kept with the engines' storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import engines
from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.case import DUMP, VMLINUX
from sandbox.dump import identify
from sandbox.locks import locked

# Kernels to die, the preferred one first: a mirror may hold a kernel and lack its debug package.
KERNELS = {
    "5.10": ("debian-11", ["linux-image-5.10.0-32-cloud-amd64", "linux-image-cloud-amd64"]),
    "6.1": ("debian-12", ["linux-image-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"]),
    "6.12": ("debian-13", ["linux-image-cloud-amd64", "linux-image-6.12.107+deb13-cloud-amd64"]),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    left = [item for item in items if not _asked_for(item.get_closest_marker("on_demand"))]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def _asked_for(marker: pytest.Mark | None) -> bool:
    """Whether the environment wants a test that is marked so: on_demand means VMBOX_TEST_FAULTS=all."""
    return marker is None or os.environ.get(f"VMBOX_TEST_{(*marker.args, 'FAULTS')[0]}") == "all"


@dataclass
class Dumps:
    """Makes dumps with one engine and hands copies to the users of the others."""

    maker: EngineUnderTest
    _kernels: dict[str, str] = field(default_factory=dict)

    def __call__(self, kernel: str = "6.1", *, form: str = "kdump", trigger: str = "sysrq") -> Path:
        """The vmcore of a kernel series, written in a certain form, after a certain trigger."""
        directory = engines.cache_root() / "dumps" / f"{kernel}-{form}-{trigger}"
        # Another process of the same run may be making it.
        with locked(directory.with_name(directory.name + ".lock")):
            if not (directory / "vmcore").exists():
                self._make(kernel, form, trigger, directory)
        return directory / "vmcore"

    def copy_for(self, user: EngineUnderTest, dump: Path) -> Path:
        """The dump as a file of `user`'s that nobody else can read."""
        copy = user.directory() / "vmcore"
        shutil.copyfile(dump, copy)
        copy.chmod(0o600)
        os.chown(copy, user.uid, user.gid)
        return copy

    def _make(self, kernel: str, form: str, trigger: str, directory: Path) -> None:
        profile, candidates = KERNELS[kernel]
        said = ""
        for package in [self._kernels[kernel]] if kernel in self._kernels else candidates:
            made = self.maker.run(
                "demo",
                str(directory),
                "--profile",
                profile,
                "--kernel",
                package,
                "--format",
                form,
                "--trigger",
                trigger,
            )
            said += made.stderr.decode()
            if made.returncode == 0 and (form != "kdump" or self._has_debuginfo(directory / "vmcore", profile)):
                self._kernels[kernel] = package
                return
            shutil.rmtree(directory, ignore_errors=True)
        pytest.fail(f"no {kernel} dump could be made: {said}")

    def _has_debuginfo(self, dump: Path, profile: str) -> bool:
        release = identify(dump).release
        oracle = image.PackageOracle(profiles.by_name(profile), self.maker.engine)
        for package in oracle([f"linux-image-{release}-dbg"]):
            head = ["curl", "--head", "--silent", "--fail", "--location", package.url]
            return subprocess.run(head, capture_output=True, check=False).returncode == 0
        return False


def crash_by_hand(engine: EngineUnderTest, dump: Path, commands: str) -> bytes:
    """What crash itself prints for `commands`, lines, started by hand in the dump's open case."""
    (case,) = (case for case in json.loads(engine.run("list", "--json").stdout) if case["dump"] == str(dump))
    # By lines, as crash writes to a terminal: else what it says on standard error comes at another place.
    # And in a shell that lives as long as crash does: crash ends with its parent, see Containerfile.d/files/shell.
    crash = f"stdbuf -oL crash -s --no_crashrc --no_scroll {VMLINUX} {DUMP} 2>&1; exit $?"
    with engine.engine.exec(case["container"], ["sh", "-c", crash], stdin=True) as process:
        process.write(f"{commands}quit\n".encode())
        said = b"".join(iter(process.read, b""))
        assert process.exit_code() == 0, said
    return said


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until `condition` holds; fails the test when that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def _cases_end_with_their_module() -> Iterator[None]:
    """So that each module's tests find only cases of their own."""
    yield
    for engine in engines.RUNNING:
        engine.run("close", "--all")


@pytest.fixture(scope="session")
def dumps(request: pytest.FixtureRequest) -> Dumps:
    # Whichever engine runs here already makes them, if its user may write what the others read.
    running = [engine for engine in engines.RUNNING if engine.uid == os.getuid()]
    return Dumps(running[0] if running else request.getfixturevalue("docker_engine"))


@pytest.fixture(scope="session")
def own_dump(engine: EngineUnderTest, dumps: Dumps) -> Path:
    """A 6.1 kdump that belongs to the engine's user, 0600."""
    return dumps.copy_for(engine, dumps())


@pytest.fixture
def vmbox(engine: EngineUnderTest) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`vmbox ARGUMENTS` with this engine; fails the test on another status than `status`."""

    def run(*arguments: object, status: int = 0, **options: object) -> subprocess.CompletedProcess[bytes]:
        done = engine.run(*map(str, arguments), **options)
        assert done.returncode == status, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        return done

    return run
