"""Genuine vmcores for the tests, made by `vmbox demo` itself, once, and kept with the engines' storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import engines
from engines import EngineUnderTest
from sandbox import profiles
from sandbox.case.package_query import ContainerPackageQuery
from sandbox.case.places import DUMP, VMLINUX
from sandbox.dump import identify
from sandbox.host.files import write_atomically
from sandbox.host.locks import locked


@pytest.fixture(autouse=True, scope="package")
def archive_mirrors() -> Iterator[None]:
    """What the tests do in their own process finds Debian 11 where the engines' vmbox does."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if (mirrors := engines.archive_mirrors()) and "VMBOX_MIRRORS" not in os.environ:
            monkeypatch.setenv("VMBOX_MIRRORS", mirrors)
        yield


AGREES = rb"vmbox: AGREES WITH: the log's call trace \(\d+ frames\)\n"
"""All that a warm `vmbox run -- bt` says on standard error."""

BY_DRGN = ("--with", "drgn", "--", "bt")
"""A question for a debugger that is up in a fifth of crash's time, where any case will do."""

# Kernels to die, the preferred one first: a mirror may hold a kernel and lack its debug package.
KERNELS = {
    # Of its security updates the index names debug packages that the pool has no longer: an older kernel is taken.
    "5.10": ("debian-11", ["linux-image-cloud-amd64", "linux-image-5.10.0-32-cloud-amd64"]),
    "6.1": ("debian-12", ["linux-image-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"]),
    "6.12": ("debian-13", ["linux-image-cloud-amd64", "linux-image-6.12.107+deb13-cloud-amd64"]),
    "7.2": ("debian-14", ["linux-image-cloud-amd64", "linux-image-7.2.12+deb14-cloud-amd64"]),
    # On demand: other flavours than that for clouds.
    "5.10-generic": ("debian-11", ["linux-image-5.10.0-32-amd64", "linux-image-amd64"]),
    "5.10-rt": ("debian-11", ["linux-image-5.10.0-32-rt-amd64", "linux-image-rt-amd64"]),
    "6.1-generic": ("debian-12", ["linux-image-amd64", "linux-image-6.1.0-50-amd64"]),
    "6.1-rt": ("debian-12", ["linux-image-rt-amd64", "linux-image-6.1.0-50-rt-amd64"]),
    "6.12-generic": ("debian-13", ["linux-image-amd64", "linux-image-6.12.107+deb13-amd64"]),
    "6.12-rt": ("debian-13", ["linux-image-rt-amd64", "linux-image-6.12.107+deb13-rt-amd64"]),
    "7.2-generic": ("debian-14", ["linux-image-amd64"]),
    "7.2-rt": ("debian-14", ["linux-image-rt-amd64"]),
}

FORMS = {
    "kdump": "makedumpfile -c -d 31 /proc/vmcore kdump",
    "lzo": "makedumpfile -l -d 31 /proc/vmcore lzo",
    "stored": "makedumpfile -d 31 /proc/vmcore stored",
    "level-0": "makedumpfile -l -d 0 /proc/vmcore level-0",
    "proc-vmcore": "cp /proc/vmcore proc-vmcore",
    "flattened": "makedumpfile -F -c -d 31 /proc/vmcore > flattened",
    "flattened-elf": "makedumpfile -F -E -d 31 /proc/vmcore > flattened-elf",
    "part-1": "makedumpfile --split -c -d 31 /proc/vmcore part-1 part-2 part-3",
    # A target that is too small.
    "full-kdump": "mkdir /tmp/small; mount -t tmpfs -o size=6m tmpfs /tmp/small; "
    "makedumpfile -c -d 31 /proc/vmcore /tmp/small/v; mv /tmp/small/v full-kdump",
    "full-elf": "makedumpfile -E -d 31 /proc/vmcore /tmp/small/v; mv /tmp/small/v full-elf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """A crash that is written down in several forms: to boot a kernel and have it die takes longer than to write."""

    form: str
    """What `vmbox demo` is asked for."""
    more: Mapping[str, str]
    """The others: by file name, what the capture kernel runs."""
    memory: int | None = None
    """MiB, as in `DemoSpec`; less where all of it is written down."""


BOOTS = {
    "6.1": Boot(form="elf", more=FORMS, memory=640),
    "6.12": Boot(form="kdump-zstd", more={"kdump": FORMS["kdump"], "stored": FORMS["stored"]}),
    "7.2": Boot(form="kdump", more={"level-0": FORMS["level-0"]}),
}
"""By kernel series."""
MOST_WANTED = ("6.1", "kdump")
"""What `vmbox demo` makes when it is asked for nothing: by itself, so that nobody has to wait for the others."""
_PATIENCE = 300.0
"""Seconds for which a process without an engine that makes dumps waits for one of another process."""
_MAKE = """
import json, sys
from pathlib import Path
from sandbox import engine
from sandbox.commands.demo import DemoSpec, make_vmcore
spec, directory = sys.argv[1:]
make_vmcore(DemoSpec(**json.loads(spec)), Path(directory), engine=engine.connect())
"""
"""What makes a dump in more forms than one: `vmbox demo` writes one."""


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

    _maker: Callable[[], EngineUnderTest]
    _own: dict[str, Path] = field(default_factory=dict)
    _indexed: bool = False

    @property
    def maker(self) -> EngineUnderTest:
        """Whichever engine runs here already makes them, if its user may write what the others read; else Docker."""
        return next(_makers(), None) or self._maker()

    def __call__(self, kernel: str = "6.1", *, form: str = "kdump", trigger: str = "sysrq") -> Path:
        """The vmcore of a kernel series, written in a certain form, after a certain trigger."""
        boot = BOOTS.get(kernel)
        if boot is None or form not in {boot.form, *boot.more} or trigger != "sysrq" or (kernel, form) == MOST_WANTED:
            return self._made(kernel, form, trigger) / "vmcore"
        return self._made(kernel, boot.form, trigger, boot) / form

    def forms(self) -> Path:
        """The directory with one crash of a 6.1 kernel in all `FORMS`, and in "elf"."""
        return self("6.1", form="elf").parent

    def _made(self, kernel: str, form: str, trigger: str, boot: Boot | None = None) -> Path:
        # Named after all that is in it: a cache of an earlier state of the tests may lack a form.
        name = "-and-".join([f"{kernel}-{form}-{trigger}", *(boot.more if boot else ())])
        directory = engines.cache_root() / "dumps" / name
        if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1 and next(_makers(), None) is None:
            # Another process has an engine that makes it sooner or later; here one would have to be started for it.
            _wait((directory / "vmcore").exists, _PATIENCE)
        # Another process of the same run may be making it.
        with locked(directory.with_name(directory.name + ".lock")):
            if not (directory / "vmcore").exists():
                self._make(kernel, form, trigger, directory, boot)
        return directory

    def package(self, kernel: str) -> str:
        """The package of an earlier dump of a kernel series, as NAME=VERSION; else that of the series' newest kernel.

        The earlier one is there, and so is its debuginfo: no package manager is asked again, which takes seconds.
        """
        known = _package_file(kernel)
        return known.read_text() if known.exists() else KERNELS[kernel][1][0]

    def own_of(self, user: EngineUnderTest) -> Path:
        """The same copy of the 6.1 kdump each time, for tests that do not change it."""
        if user.name not in self._own:
            self._own[user.name] = self.copy_for(user, self())
        return self._own[user.name]

    def copy_for(self, user: EngineUnderTest, dump: Path) -> Path:
        """The dump as a file of `user`'s that nobody else can read."""
        copy = user.directory() / "vmcore"
        shutil.copyfile(dump, copy)
        copy.chmod(0o600)
        os.chown(copy, user.uid, user.gid)
        if user.uid != os.getuid() and dump.parent.name == "-".join((*MOST_WANTED, "sysrq")):
            self._index(user, copy)
        return copy

    def _index(self, user: EngineUnderTest, dump: Path) -> None:
        """Fetch debuginfo with an index, once, before it is fetched without.

        An opening makes none for crash 9. With one it starts in two thirds of the processor's time, a hundred times.
        """
        if not self._indexed:
            self._indexed = True
            user.run("debuginfo", "fetch", str(dump))

    def _make(self, kernel: str, form: str, trigger: str, directory: Path, boot: Boot | None) -> None:
        profile, candidates = KERNELS[kernel]
        maker = self.maker
        said = ""
        earlier = self.package(kernel)
        for package in dict.fromkeys((earlier, *candidates)):
            if boot is None:
                words = ["--profile", profile, "--kernel", package, "--format", form, "--trigger", trigger]
                command = [*maker.vmbox, "demo", str(directory), *words]
            else:
                spec = {"profile": profile, "kernel": package, "format": form, "trigger": trigger, "timeout": 600}
                spec |= {"memory": boot.memory, "more": [*boot.more.values()]}
                command = [*maker.vmbox[:-1], _MAKE, json.dumps(spec), str(directory)]
            made = subprocess.run(
                command,
                env=dict(maker.env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=850,
                check=False,
            )
            said += made.stderr.decode()
            needed = "=" not in package and (form == "kdump" or boot is not None)
            if made.returncode == 0 and (not needed or self._has_debuginfo(directory / "vmcore", profile)):
                if boot is not None:
                    os.link(directory / "vmcore", directory / form)
                if needed:
                    name, version, _ = json.loads((directory / "demo.json").read_text())["package"].split("_")
                    write_atomically(_package_file(kernel), f"{name}={version}".encode())
                if (kernel, form) == MOST_WANTED:
                    maker.run("debuginfo", "fetch", str(directory / "vmcore"))
                return
            shutil.rmtree(directory, ignore_errors=True)
        pytest.fail(f"no {kernel} dump could be made: {said}")

    def _has_debuginfo(self, dump: Path, profile: str) -> bool:
        release = identify(dump).release
        home = profiles.by_name(profile)
        assert home.debuginfo is not None
        sources = (*home.image.sources, *home.debuginfo.sources)
        for package in ContainerPackageQuery(home, self.maker.engine)([f"linux-image-{release}-dbg"], sources):
            head = ["curl", "--head", "--silent", "--fail", "--location", package.url]
            return subprocess.run(head, capture_output=True, check=False).returncode == 0
        return False


def _package_file(kernel: str) -> Path:
    return engines.cache_root() / "dumps" / f"{kernel}.package"


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
    assert _wait(condition, seconds)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until `condition` holds, and returns whether it does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds


def _makers() -> Iterator[EngineUnderTest]:
    return (engine for engine in engines.RUNNING if engine.uid == os.getuid())


@pytest.fixture(scope="module", autouse=True)
def _cases_end_with_their_module() -> Iterator[None]:
    """So that each module's tests find only cases of their own."""
    yield
    for engine in engines.RUNNING:
        if any(Path(engine.env["VMBOX_RUNTIME_DIR"]).glob("cases/*/")):
            engine.run("close", "--all")


@pytest.fixture(scope="session")
def dumps(request: pytest.FixtureRequest) -> Dumps:
    return Dumps(lambda: request.getfixturevalue("docker_engine"))


# Of the module: one of the session would be that of another module's `engine`, where a module has a fixture of its own.
@pytest.fixture(scope="module")
def own_dump(engine: EngineUnderTest, dumps: Dumps) -> Path:
    """A 6.1 kdump that belongs to the engine's user, 0600."""
    return dumps.own_of(engine)


@pytest.fixture
def vmbox(engine: EngineUnderTest) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """`vmbox ARGUMENTS` with this engine; fails the test on another status than `status`."""

    def run(*arguments: object, status: int = 0, **options: object) -> subprocess.CompletedProcess[bytes]:
        done = engine.run(*map(str, arguments), **options)
        assert done.returncode == status, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        return done

    return run
