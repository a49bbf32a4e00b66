"""What is decided between the path of a dump and a debugger at its prompt: on an engine in memory, in milliseconds.

Which image and which debugger are taken, what happens when one is lacking, who closes what, and what is said of it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from debuginfo_bench import Heard
from engines import INFO
from memory_case import KILLED, Cases
from memory_engine import MemoryEngine
from sandbox import debuginfo, image as images, profiles
from sandbox.case import container, idle, opening, places, self_contained, store, what_to_open, with_debugger
from sandbox.case.options import OpenOptions
from sandbox.cli import app
from sandbox.cli.run import close
from sandbox.commands import info, shell
from sandbox.debugger import DEBUGGERS
from sandbox.dump import identify
from sandbox.engine import EngineInfo, Image, detection, labels, orphans
from sandbox.errors import (
    BaseImageUnavailable,
    CaseNotFound,
    DebuginfoError,
    DebuginfoNotFound,
    DumpNotFound,
    EmulationMissing,
    EngineFailed,
    ImageBuildFailed,
    SessionDied,
    SessionFailed,
    UnknownKernel,
    UsageError,
)
from sandbox.host import checks
from sandbox.image import bootstrap
from sandbox.model import Case, Vmcore
from sandbox.profiles import platforms
from sandbox.remote import described
from sandbox.report.fault import explain_dump
from sandbox.session import start

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


@dataclass(kw_only=True)
class Bench:
    """An engine in memory with the image of `latest`, a dump whose debuginfo is at hand, and what was said."""

    engine: MemoryEngine
    cases: Cases
    dump: Path
    heard: Heard = field(default_factory=Heard)
    connected: int = 0

    @property
    def vmcore(self) -> Vmcore:
        return identify(self.dump)

    def have(self, *names: str) -> None:
        """Let the engine have the images of profiles."""
        for name in names:
            profile = platforms.by_name(name)
            assert profile is not None
            self.engine.have(images.reference(profile), {labels.IMAGE: name})

    def started(self) -> list[str]:
        """The profiles of the images of the cases that were started, in order."""
        return [spec.image.removeprefix("localhost/vmbox/").partition(":")[0] for spec in self.engine.started]

    def running(self) -> int:
        return len(self.engine.containers({labels.CASE: ""}))

    def directories(self) -> list[str]:
        return [path.name for path in store.directory().iterdir() if path.is_dir()]

    def open(self, **options: object) -> Case:
        return opening.find_or_open_case(self.dump, OpenOptions(**options), self.heard)  # type: ignore[arg-type]

    def ask(self, **options: object) -> tuple[str, str]:
        """(debugger, what it answers) of a session, which is closed again."""
        session, _ = start.open_session(self.dump, OpenOptions(**options), self.heard)  # type: ignore[arg-type]
        with session:
            said = bytearray()
            session.run("sys", said.extend)
            return session.debugger.name, said.decode()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("CACHE", "RUNTIME", "STATE", "CONFIG"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"VMBOX_{name}_DIR", str(tmp_path / name))
    cases = Cases()
    bench = Bench(engine=MemoryEngine(programs={places.SESSION: cases.program}), cases=cases, dump=tmp_path / "vmcore")
    bench.dump.write_bytes(DUMP.read_bytes())
    bench.have("latest")
    _keep_debuginfo(bench.vmcore, tmp_path / "CACHE")

    def connect(_wanted: str | None) -> MemoryEngine:
        bench.connected += 1
        return bench.engine

    monkeypatch.setattr(detection, "detect", connect)
    # A process of this host for each case, which has tests of its own.
    monkeypatch.setattr(idle, "keep", lambda *_: None)
    # No engine here has a network, and no test may.
    monkeypatch.setattr(bootstrap, "make_rootfs", _no_packages)
    yield bench
    for case in store.open_cases():
        container.close(case)
    left = bench.engine.containers({})
    bench.engine.end()
    assert left == []
    assert bench.directories() == []
    # Who connects to an engine closes it.
    assert bench.engine.closed == bench.connected


def _keep_debuginfo(vmcore: Vmcore, cache: Path) -> None:
    assert vmcore.build_id is not None
    entry = cache / "debuginfo" / vmcore.build_id
    entry.mkdir(parents=True)
    (entry / "vmlinux").write_bytes(b"\x7fELF")
    about = {"build_id": vmcore.build_id, "origin": "here", "verified": "signed", "check": "signature"}
    (entry / "about.json").write_text(json.dumps(about))


def _no_packages(*_: object, **__: object) -> None:
    raise BaseImageUnavailable("no mirror answers", hint="name one")


# Which image


def test_an_image_and_debuginfo_at_hand_are_used_as_they_are(bench: Bench) -> None:
    case = bench.open()
    assert (case.profile, bench.started()) == ("latest", ["latest"])
    assert not any(method in {"build", "pull", "import"} for method, _ in bench.engine.asked)
    (spec,) = bench.engine.started
    assert (spec.hardened, spec.network) == (True, "none")
    assert [bind.source for bind in spec.binds if bind.target == places.DUMP] == [bench.dump]
    # The same case is found again, and nothing else is said of it.
    bench.heard.notices.clear()
    assert bench.open() == case
    assert bench.heard.notices == []
    assert bench.running() == 1


def test_an_image_that_is_lacking_is_built_on_a_base_that_is_pulled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = profiles.by_name("debian-13")
    (base, *_) = images.base_references(wanted)
    registry = {base: Image(id="b", tags=(base,), labels={}, size=1)}
    bench.engine = MemoryEngine(
        programs={places.SESSION: bench.cases.program}, registries={base.partition("/")[0]: registry}
    )
    assert bench.open(image="debian-13").profile == "debian-13"
    ref = images.reference(wanted)
    assert [one for one in bench.engine.asked if one[0] in {"pull", "build", "start"}] == [
        ("pull", base),
        ("build", ref),
        ("start", ref),
    ]
    assert "the image debian-13 is made first, which takes minutes, once on this host" in bench.heard.notices
    bench.connected = bench.engine.closed


def test_an_image_that_cannot_be_made_is_replaced_by_the_next_that_reads_the_kernel(bench: Bench) -> None:
    """No registry answers and no mirror: in one line, and the stable image that is there is taken."""
    bench.engine.remove_image(images.reference(profiles.by_name("latest")))
    bench.have("debian-13")
    case = bench.open()
    assert (case.profile, bench.started()) == ("debian-13", ["debian-13"])
    (said,) = (line for line in bench.heard.notices if "in place of" in line)
    assert said.startswith(
        "no base image for Newest crash is available; debian-13 with crash 8.0.6 is used in place of"
    )
    assert not [line for line in bench.heard.notices if "no mirror answers" in line]


def test_an_image_that_was_chosen_is_not_replaced(bench: Bench) -> None:
    bench.have("debian-12")
    with pytest.raises(BaseImageUnavailable, match="no base image"):
        bench.open(image="debian-13")
    assert bench.engine.started == []


def test_a_build_that_fails_says_so_and_starts_nothing(bench: Bench) -> None:
    def fail(ref: str, command: str) -> Iterator[str]:
        yield "E: Unable to locate package crash"
        raise ImageBuildFailed("exit status 100")

    bench.engine = MemoryEngine(on_run=fail, programs={places.SESSION: bench.cases.program})
    bench.engine.have("localhost/vmbox/base-debian-13:trixie")
    with pytest.raises(ImageBuildFailed) as caught:
        bench.open(image="debian-13")
    assert "E: Unable to locate package crash" in (caught.value.detail or "")
    assert bench.engine.started == []
    bench.connected = bench.engine.closed


# Self-contained images


def _kernel_image(bench: Bench, **different: str) -> str:
    vmcore = bench.vmcore
    ref = self_contained.reference(vmcore)
    carried = {
        labels.IMAGE: labels.KERNEL_IMAGE,
        labels.PROFILE: "debian-13",
        labels.KERNEL_BUILD_ID: vmcore.build_id or "",
        labels.KERNEL_BANNER: vmcore.banner or "",
        labels.DEBUGINFO_CHECK: "signature",
        **different,
    }
    bench.engine.have(ref, carried)
    return ref


def test_a_self_contained_image_needs_nothing_else(bench: Bench) -> None:
    bench.cases.versions = "crash=8.0.6 drgn=0.0.32"
    ref = _kernel_image(bench)
    bench.engine.remove_image(images.reference(profiles.by_name("latest")))
    case = bench.open()
    assert (case.image, case.profile, case.origin) == (ref, "debian-13", f"image {ref}")
    (spec,) = bench.engine.started
    assert not any(bind.target == "/case/debuginfo" for bind in spec.binds)


def test_a_self_contained_image_of_another_kernel_is_said_and_not_used(bench: Bench) -> None:
    ref = _kernel_image(bench, **{labels.KERNEL_BUILD_ID: "ab" * 20, labels.KERNEL_BANNER: "Linux version 5.0"})
    assert bench.open().image != ref
    assert any(line.endswith("; it is not used") for line in bench.heard.notices)


def test_a_self_contained_image_of_another_version_is_said_and_not_used(bench: Bench) -> None:
    """After an upgrade: no dump of its kernel could be opened until somebody removed it."""
    ref = _kernel_image(bench, **{labels.SESSION: str(places.SESSION_VERSION - 1)})
    assert bench.open().profile == "latest"
    assert any(
        line.startswith(f"{ref} is of another version of vmbox, and is not used") for line in bench.heard.notices
    )
    container.close(store.open_cases()[0])
    _kernel_image(bench, **{labels.SESSION: str(places.SESSION_VERSION)})
    bench.cases.versions = "crash=8.0.6"
    assert bench.open().image == ref


def test_a_self_contained_image_in_the_registry_is_pulled_under_its_own_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMBOX_REGISTRY", "registry.example/team")
    bench.cases.versions = "crash=8.0.6"
    ref = _kernel_image(bench)
    found = bench.engine.image(ref)
    assert found is not None
    there = self_contained.remote_reference(ref, "registry.example/team")
    bench.engine = MemoryEngine(
        programs={places.SESSION: bench.cases.program}, registries={"registry.example": {there: found}}
    )
    assert bench.open().image == ref
    assert bench.engine.image(there) is None
    assert ("pull", there) in bench.engine.asked
    bench.connected = bench.engine.closed


def test_a_registry_without_it_or_out_of_reach_is_no_obstacle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_REGISTRY", "registry.example/team")
    assert bench.open().profile == "latest"
    assert any(line.startswith("the registry cannot be asked: ") for line in bench.heard.notices)


# Debuginfo


def test_without_debuginfo_the_newest_image_is_taken_and_drgn_answers(bench: Bench) -> None:
    assert bench.ask(no_debuginfo=True)[0] == "drgn"
    (case,) = store.open_cases()
    assert (case.vmlinux, case.no_debuginfo, case.profile) == (None, "--no-debuginfo", "latest")
    assert "drgn answers: there is no debuginfo (--no-debuginfo)" in bench.heard.notices


def test_debuginfo_that_is_not_found_is_done_without_where_no_debugger_needs_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locate(*_: object, **__: object) -> None:
        raise DebuginfoNotFound("no debuginfo of 6.1.0 is anywhere", hint="vmbox info names the places")

    monkeypatch.setattr(debuginfo, "locate", locate)
    assert bench.ask()[0] == "drgn"
    (case,) = store.open_cases()
    assert case.no_debuginfo == "no debuginfo of 6.1.0 is anywhere"
    assert any("the dump is read by the BTF" in line and "hint: vmbox info" in line for line in bench.heard.notices)
    # crash cannot: then it is an error, and the open case stays.
    with pytest.raises(DebuginfoNotFound):
        bench.ask(debugger="crash")
    assert bench.running() == 1


# Which debugger


def test_crash_answers_where_it_knows_the_kernel(bench: Bench) -> None:
    assert bench.ask() == ("crash", "answered: sys\n")
    assert bench.cases.tried == [("latest", "crash", "")]
    assert "crash answers: version 9.0.2 of image latest knows this kernel" in bench.heard.notices
    # What was chosen is kept: it is neither chosen nor said again, and nothing is started.
    bench.heard.notices.clear()
    assert bench.ask()[0] == "crash"
    assert (bench.heard.notices, len(bench.cases.tried)) == ([], 1)


def test_drgn_answers_where_crash_does_not_come_up(bench: Bench) -> None:
    bench.cases.opens = lambda _profile, name, _option: "crash: invalid structure" if name == "crash" else None
    assert bench.ask()[0] == "drgn"
    assert bench.cases.tried == [("latest", "crash", ""), ("latest", "drgn", "")]
    assert "crash cannot open the dump: crash: invalid structure; trying drgn" in bench.heard.notices
    assert "drgn answers: crash cannot open the dump: crash: invalid structure" in bench.heard.notices


def test_drgn_answers_where_crash_is_killed_while_it_starts(bench: Bench) -> None:
    bench.cases.opens = lambda _profile, name, _option: KILLED if name == "crash" else None
    assert bench.ask()[0] == "drgn"
    assert bench.cases.tried == [("latest", "crash", ""), ("latest", "drgn", "")]
    why = "crash was killed while it started, most likely for want of memory"
    assert f"crash cannot open the dump: {why}; trying drgn" in bench.heard.notices
    assert f"drgn answers: {why}" in bench.heard.notices
    # What was chosen is kept: crash is not killed again.
    assert bench.ask()[0] == "drgn"
    assert len(bench.cases.tried) == 2


def test_where_drgn_is_killed_too_the_error_is_that_of_crash(bench: Bench) -> None:
    bench.cases.opens = lambda _profile, _name, _option: KILLED
    with pytest.raises(SessionDied, match="crash was killed while it started"):
        bench.ask()
    assert bench.cases.tried == [("latest", "crash", ""), ("latest", "drgn", "")]
    # One that the user asks for is not replaced.
    with pytest.raises(SessionDied, match="crash was killed"):
        bench.ask(debugger="crash")
    assert bench.cases.tried[2:] == [("latest", "crash", "")]


def test_the_newest_crash_is_tried_before_crash_with_less(bench: Bench) -> None:
    bench.have("debian-13")
    bench.engine.remove_image(images.reference(profiles.by_name("latest")))
    opened = bench.open()
    assert opened.profile == "debian-13"
    bench.have("latest")
    bench.cases.opens = lambda *tried: None if tried == ("latest", "crash", "--no_modules") else f"{tried[1]}: cannot"
    assert bench.ask()[0] == "crash"
    crash = [(profile, option) for profile, name, option in bench.cases.tried if name == "crash"]
    assert crash == [("debian-13", ""), ("latest", ""), ("latest", "--zero_excluded"), ("latest", "--no_modules")]
    assert [one for one in bench.cases.tried if one[1] == "drgn"] == [("debian-13", "drgn", "")]
    # The case of the older image was closed when the newer one was opened.
    assert (bench.started(), bench.running()) == (["debian-13", "latest"], 1)
    assert "crash of debian-13 cannot open the dump: crash: cannot; trying crash 9.0.2 of latest" in bench.heard.notices
    assert any(line.startswith("opened with --no_modules: ") for line in bench.heard.notices)


def test_a_case_without_the_debugger_that_is_to_answer_is_opened_again_in_the_newest_image(bench: Bench) -> None:
    bench.have("el7")
    # As one is that an earlier command opened when there was nothing newer.
    opened = dataclasses.replace(bench.open(image="el7"), requested="")
    store.write(opened)
    assert bench.ask()[0] == "drgn"
    assert bench.cases.tried == [("latest", "drgn", "")]
    assert (bench.started(), bench.running()) == (["el7", "latest"], 1)
    lacks = "image el7 has no drgn (the C library is 2.17, and the wheel needs 2.27)"
    assert f"{lacks}: the dump is opened in that of latest" in bench.heard.notices
    why = f"crash 7.2.3 of el7 knows kernels up to 3.10, and this is {bench.vmcore.release}"
    assert f"drgn answers: {why}" in bench.heard.notices


def test_a_dump_that_no_debugger_opens_is_an_error_and_its_case_is_closed(bench: Bench) -> None:
    bench.cases.opens = lambda _profile, name, _option: f"{name}: not a dump of mine"
    with pytest.raises(SessionFailed, match="crash does not open this dump") as caught:
        bench.ask()
    assert "not a dump of mine" in (caught.value.detail or "")
    # Each way once, the last resort at the end.
    assert bench.cases.tried[0] == ("latest", "crash", "")
    assert bench.cases.tried[-1] == ("latest", "crash", "--minimal")
    assert len(set(bench.cases.tried)) == len(bench.cases.tried)
    assert bench.running() == 0
    assert "the case of vmcore is closed: no debugger opens the dump" in bench.heard.notices


def test_a_split_set_that_cannot_be_served_keeps_its_parts(bench: Bench) -> None:
    parts = (bench.dump, bench.dump.with_name("part2"))
    split = dataclasses.replace(bench.vmcore, files=parts, complete=False, incomplete_reason="part2: cut off")
    assert opening._copied(split, OpenOptions(), bench.heard).files == parts


def test_a_debugger_that_the_image_lacks_runs_in_the_newest_beside_the_open_case(bench: Bench) -> None:
    bench.have("el7")
    opened = bench.open(image="el7")
    drgn = DEBUGGERS["drgn"]
    case, own = with_debugger.case_with(drgn, bench.dump, OpenOptions(), bench.heard)
    assert (case.profile, own, bench.running()) == ("latest", True, 2)
    said = "image el7 has no drgn (the C library is 2.17, and the wheel needs 2.27)"
    assert f"{said}: it runs in that of latest, beside the open case" in bench.heard.notices
    # It is its opener's alone: the dump still leads to the other.
    assert store.find(bench.dump) == opened
    container.close(case)
    with with_debugger.case_for_tool("drgn", bench.dump, OpenOptions(), bench.heard) as once:
        assert once.id != case.id
    assert bench.running() == 1
    # Where the user chose the image there is no other.
    with pytest.raises(UsageError, match="image el7 has no drgn"):
        with_debugger.case_with(drgn, bench.dump, OpenOptions(image="el7"), bench.heard)
    assert store.find(bench.dump) == opened
    with pytest.raises(UsageError):
        with_debugger.case_with(drgn, bench.dump, OpenOptions(image="el7", once=True), bench.heard)
    assert bench.running() == 1


@pytest.mark.parametrize(("lacks", "used"), [(("latest",), "debian-13"), (("latest", "debian-13"), "debian-12")])
def test_where_the_newest_image_cannot_be_had_the_next_best_that_has_the_debugger_is_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lacks: tuple[str, ...], used: str
) -> None:
    ensure = images.ensure

    def no_archive(profile: profiles.Profile, *rest: Any) -> str:
        if profile.name in lacks:
            raise BaseImageUnavailable(f"no base image for {profile.title} is available")
        bench.have(profile.name)
        return ensure(profile, *rest)

    monkeypatch.setattr(images, "ensure", no_archive)
    bench.engine.remove_image(images.reference(profiles.by_name("latest")))
    # Of no debuginfo wanted, of a debugger beside the open case, and of one in its place.
    without = bench.open(no_debuginfo=True)
    assert (without.profile, without.no_debuginfo) == (used, "--no-debuginfo")
    assert f"{used} with drgn is used in place of {lacks[-1]}" in "\n".join(bench.heard.notices)
    container.close(without)
    bench.have("el7")
    opened = dataclasses.replace(bench.open(image="el7"), requested="")
    store.write(opened)
    case, _ = with_debugger.case_with(DEBUGGERS["drgn"], bench.dump, OpenOptions(), bench.heard)
    assert case.profile == used
    container.close(case)
    assert bench.ask()[0] == "drgn"
    assert bench.cases.tried == [(used, "drgn", "")]
    # What the user chose is not replaced.
    container.close(store.find(bench.dump) or opened)
    with pytest.raises(BaseImageUnavailable):
        bench.open(no_debuginfo=True, image="latest")


def test_a_dump_of_another_machine_is_read_by_drgn_until_its_crash_can_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = dataclasses.replace(INFO, arch="aarch64")
    bench.engine = MemoryEngine(there, programs={places.SESSION: bench.cases.program})
    bench.have("latest", "latest-x86_64")
    monkeypatch.setattr(checks, "emulated", lambda: ([], ["x86_64"]))
    assert bench.ask()[0] == "drgn"
    why = "the dump is of x86_64, and this host (aarch64) cannot run its crash; drgn needs no emulation"
    assert any(line.startswith(f"{why}. For crash: sudo ") for line in bench.heard.notices)
    assert "drgn answers: crash of aarch64 reads no dumps of x86_64" in bench.heard.notices
    assert not any("so latest with crash" in line for line in bench.heard.notices)
    assert bench.ask(debugger="drgn")[0] == "drgn"
    opened = store.find(bench.dump)
    with pytest.raises(EmulationMissing):
        bench.ask(debugger="crash")
    assert store.find(bench.dump) == opened
    monkeypatch.setattr(checks, "emulated", lambda: (["x86_64"], []))
    assert bench.ask(debugger="crash")[0] == "crash"
    # drgn, which emulated images do not have, beside it; and each alone where nobody asked for the other.
    assert bench.ask(debugger="drgn")[0] == "drgn"
    assert (bench.started(), bench.running()) == (["latest", "latest-x86_64", "latest"], 1)
    container.close(store.find(bench.dump) or pytest.fail("no case is open"))
    assert bench.ask(debugger="drgn")[0] == "drgn"
    assert bench.ask()[0] == "drgn"
    container.close(store.find(bench.dump) or pytest.fail("no case is open"))
    assert bench.ask()[0] == "crash"
    assert bench.started()[3:] == ["latest", "latest-x86_64"]


def test_a_dump_on_a_server_that_names_no_kernel_has_to_be_downloaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beginning and end are searched for VMCOREINFO there, and all of it here."""
    nameless = dataclasses.replace(bench.vmcore, release=None, skipped="there is no VMCOREINFO")
    monkeypatch.setattr(opening, "identified", lambda *_: nameless)
    monkeypatch.setattr(described, "is_description", lambda path: path == bench.dump)
    monkeypatch.setattr(described, "name", lambda _: "https://host/vmcore")
    with pytest.raises(UnknownKernel) as caught:
        opening.open_dump(bench.dump, OpenOptions(), bench.heard)
    said = "https://host/vmcore: the dump does not say which kernel wrote it: there is no VMCOREINFO"
    assert caught.value.message == said
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("vmbox info --download https://host/vmcore")


def test_the_list_of_cases_has_no_token(bench: Bench) -> None:
    opened = bench.open()
    (listed,) = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert (listed["id"], listed["container"]) == (opened.id, opened.container)
    assert opened.token
    assert opened.token not in listed.values()


# Who closes what


def test_the_name_of_a_closed_dump_adds_no_line(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.dump = bench.dump.rename(bench.dump.with_name("vm\ncore"))
    bench.open()
    close(everything=True)
    assert capsys.readouterr().err.endswith("/vm\\ncore)\n")


def test_a_dump_is_opened_again_when_the_debuginfo_of_its_case_was_removed(bench: Bench) -> None:
    opened = bench.open()
    assert opened.vmlinux is not None
    shutil.rmtree(opened.vmlinux.parent)
    with pytest.raises(DebuginfoError):
        bench.open(debugger="crash")
    assert f"{opened.vmlinux}, which the open case has used, was removed or replaced" in bench.heard.notices
    assert store.find(bench.dump) == opened
    assert bench.open().vmlinux is None
    assert bench.running() == 1


def test_a_dump_is_opened_again_when_the_debuginfo_of_its_case_was_removed_and_fetched_again(bench: Bench) -> None:
    """The case has the directory that was removed mounted: what is started in it finds nothing there."""
    opened = bench.open()
    assert opened.vmlinux is not None
    entry = opened.vmlinux.parent
    (entry / "modules").mkdir()
    assert bench.open() == opened
    # Kept, as its mount keeps it: else its inode may be used again.
    kept = entry.rename(entry.with_name("was"))
    shutil.copytree(kept, entry)
    again = bench.open()
    assert again.opened > opened.opened
    assert f"{opened.vmlinux}, which the open case has used, was removed or replaced" in bench.heard.notices
    assert bench.open() == again
    assert bench.running() == 1


def test_a_case_is_not_of_a_vmlinux_that_was_built_again(bench: Bench, tmp_path: Path) -> None:
    """With --force nothing else tells the two apart, and the old one answered without a word."""
    given = tmp_path / "vmlinux"
    given.write_bytes(b"\x7fELF one")
    options = OpenOptions(debuginfo=given, force=True)
    case = dataclasses.replace(bench.open(), requested=options.case_key())
    assert options.accepts(case)
    (tmp_path / "new").write_bytes(b"\x7fELF two")
    (tmp_path / "new").rename(given)
    assert not options.accepts(case)
    assert opening._why_again(case, options).startswith(f"{given} was changed since")


def test_debuginfo_that_is_not_there_is_refused_before_an_engine_is_asked(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(DebuginfoError, match="no such file"):
        bench.open(debuginfo=tmp_path / "nowhere")
    assert (bench.connected, bench.heard.notices) == (0, [])


def test_the_dump_of_an_archive_with_two_is_named(bench: Bench, tmp_path: Path) -> None:
    other = DUMP.with_name("x86_64-6.1-lzo")
    archive = tmp_path / "case.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(other, "b/vmcore")
        tar.add(DUMP, "a/vmcore")
    found = what_to_open.identified(archive, bench.heard)
    assert bench.heard.notices == ["b/vmcore is the first dump in case.tar"]
    assert ("MEMBER", "b/vmcore") in list(info.facts(found))


def test_the_directory_that_opened_a_dump_closes_it(bench: Bench, tmp_path: Path) -> None:
    bench.open()
    close([str(tmp_path)])
    assert bench.running() == 0
    bench.open()
    other = tmp_path / "other"
    other.write_bytes(DUMP.read_bytes())
    opening.find_or_open_case(other, OpenOptions(), bench.heard)
    with pytest.raises(CaseNotFound, match="2 dumps below"):
        close([str(tmp_path)])
    assert bench.running() == 2


def test_a_prompt_whose_case_another_process_closes_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake in the place of the terminal: only what it returns counts."""
    case = bench.open()

    def attach(*_: object) -> int:
        container.close(case)
        return 137

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(shell, "_started", lambda *_: nullcontext())
    monkeypatch.setattr(shell.terminal, "attach", attach)
    with pytest.raises(SessionDied, match="the case of vmcore was closed"):
        shell.interactive(case)


def test_a_case_is_replaced_only_when_all_that_the_other_needs_is_at_hand(bench: Bench) -> None:
    opened = bench.open()
    with pytest.raises(BaseImageUnavailable):
        bench.open(image="debian-13")
    assert store.find(bench.dump) == opened
    bench.have("debian-13")
    assert bench.open(image="debian-13").profile == "debian-13"
    assert "closing the open case, which is not image=debian-13" in bench.heard.notices
    assert bench.running() == 1


def test_a_case_of_one_session_ends_with_it_whatever_happens(bench: Bench) -> None:
    assert bench.ask(once=True)[0] == "crash"
    assert bench.running() == 0
    bench.cases.opens = lambda _profile, name, _option: f"{name}: no"
    with pytest.raises(SessionFailed):
        bench.ask(once=True)
    assert bench.running() == 0


def test_a_case_of_one_session_touches_no_other(bench: Bench) -> None:
    opened = bench.open()
    assert bench.ask(once=True)[0] == "crash"
    assert (store.open_cases(), bench.running()) == ([opened], 1)
    assert bench.started() == ["latest", "latest"]


def test_two_users_of_an_engine_have_a_case_of_the_same_dump_each(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime directory of its own is what another user, or another host, of the same engine has."""
    opened = bench.open()
    with monkeypatch.context() as other:
        (tmp_path / "other").mkdir(mode=0o700)
        other.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "other"))
        theirs = bench.open()
        assert (theirs.id, theirs.container != opened.container, bench.running()) == (opened.id, True, 2)
        assert bench.ask(once=True)[0] == "crash"
        container.close(theirs)
    assert store.find(bench.dump) == opened
    assert bench.running() == 1


def test_a_case_that_does_not_come_up_leaves_nothing(bench: Bench) -> None:
    bench.cases.script = 0
    with pytest.raises(SessionFailed, match="ended before it was ready") as caught:
        bench.open()
    # What its script said is gone with its container: it was run again for that.
    assert "mkfifo: Permission denied" in (caught.value.detail or "")
    bench.cases.script = places.SESSION_VERSION - 1
    with pytest.raises(SessionFailed, match="is of another version of vmbox"):
        bench.open()
    assert (bench.running(), bench.directories()) == (0, [])


def test_ctrl_c_while_an_engine_starts_the_case_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryEngine.start

    def interrupted(engine: MemoryEngine, spec: object) -> None:
        real(engine, spec)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "_LOOK", 0.001)
    monkeypatch.setattr(MemoryEngine, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.open()
    assert (bench.running(), bench.directories()) == (0, [])


def test_a_case_whose_container_is_gone_is_opened_again(bench: Bench) -> None:
    opened = bench.open()
    bench.engine.remove(opened.container)
    assert bench.open() != opened
    assert bench.running() == 1
    assert bench.ask()[0] == "crash"


def test_containers_of_a_vmbox_that_was_killed_are_removed_at_the_next_opening(bench: Bench) -> None:
    bench.engine = MemoryEngine(
        programs={places.SESSION: bench.cases.program, "/query": lambda running: int(running.killed.wait() or 0)}
    )
    bench.have("latest")
    left = bench.engine.start(
        container.ContainerSpec(
            image=images.reference(profiles.by_name("latest")),
            argv=["/query"],
            # A process of this boot and namespace that was not started when the one with its number was.
            labels={labels.RUN: f"{orphans._boot()}.{orphans._namespace()}.1.0"},
        )
    )
    bench.open()
    assert bench.engine.container(left.id) is None
    bench.connected = bench.engine.closed


def test_a_split_dump_without_all_its_parts_is_refused_before_anything_is_started(bench: Bench) -> None:
    content = bytearray(DUMP.read_bytes())
    # struct kdump_sub_header: split, start_pfn and end_pfn; the latter also with 64 bits.
    struct.pack_into("<iQQ", content, 4096 + 12, 1, 0, 4096)
    struct.pack_into("<QQ", content, 4096 + 80, 0, 4096)
    bench.dump.write_bytes(content)
    with pytest.raises(
        DumpNotFound, match="it is the part of a split dump with pages 0 to 4096, and what has pages 4096"
    ):
        bench.open()
    # Its log is in another part: that it has no oops is not known.
    start = len(content) - 30_000
    bench.dump.write_bytes(content[:start] + b"\xff" * 30_000)
    with pytest.raises(DumpNotFound, match="it is the part of a split dump"):
        explain_dump(bench.dump, OpenOptions(), bench.heard)
    assert bench.started() == []
    bench.open(force=True)
    assert bench.started() == ["latest"]


@pytest.mark.parametrize("endpoint", ["tcp://there.example:2375", "ssh://user@lab7/run/podman.sock"])
def test_an_engine_of_another_host_that_was_only_found_is_refused(bench: Bench, endpoint: str) -> None:
    elsewhere: EngineInfo = dataclasses.replace(INFO, endpoint=endpoint, local=False)
    bench.engine = MemoryEngine(elsewhere)
    with pytest.raises(EngineFailed, match=r"is on another host, which does not see .*vmcore") as refused:
        bench.open()
    assert "vmbox run --engine" in refused.value.hint
    assert bench.engine.started == []
    bench.connected = bench.engine.closed
