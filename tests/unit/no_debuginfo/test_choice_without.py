"""When a dump is read without debuginfo, when the open case will do, and when debuginfo that arrived is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox import image
from sandbox.case import self_contained, without_debuginfo
from sandbox.case.options import OpenOptions
from sandbox.case.places import VMLINUX, vmlinux
from sandbox.case.without_debuginfo import WithoutDebuginfo
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import DebuginfoNotFound, UsageError
from sandbox.model import Case, DumpFormat, Vmcore
from sandbox.profiles import by_name
from sandbox.progress import QUIET
from sandbox.session import choice

BUILD_ID = "12ab" * 10


@pytest.fixture
def without(make_case: Callable[..., Case]) -> Case:
    return make_case(vmlinux=None, build_id=BUILD_ID, no_debuginfo="none was found")


def _arrive(cache: Path) -> None:
    entry = cache / "debuginfo" / BUILD_ID
    entry.mkdir(parents=True)
    (entry / "vmlinux").write_bytes(b"\x7fELF")
    (entry / "about.json").write_text(
        f'{{"build_id": "{BUILD_ID}", "banners": [], "origin": "x", "verified": "x", "check": "added"}}'
    )


def test_options_that_exclude_it_are_refused() -> None:
    with pytest.raises(UsageError, match="crash opens no dump without debuginfo"):
        OpenOptions(no_debuginfo=True, debugger="crash").check()
    with pytest.raises(UsageError, match="--no-debuginfo, or"):
        OpenOptions(no_debuginfo=True, debuginfo=Path("vmlinux")).check()
    OpenOptions(no_debuginfo=True, debugger="drgn").check()


def test_the_open_case_will_do_until_debuginfo_arrives(
    without: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    plain, asked = OpenOptions(), OpenOptions(no_debuginfo=True)
    assert plain.accepts(without)
    assert asked.accepts(without)
    assert not OpenOptions(debugger="crash").accepts(without)
    _arrive(tmp_path / "cache")
    assert not plain.accepts(without)
    assert asked.accepts(without)


def test_debuginfo_that_was_there_and_not_used_is_not_tried_again(
    without: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    _arrive(tmp_path / "cache")
    later = replace(without, opened=datetime.now(UTC) + timedelta(seconds=1))
    assert OpenOptions().accepts(later)
    # The user's own wish was not to look.
    assert not OpenOptions().accepts(replace(later, requested=OpenOptions(no_debuginfo=True).case_key()))


def test_a_case_whose_debuginfo_was_removed_will_not_do(make_case: Callable[..., Case], tmp_path: Path) -> None:
    removed = tmp_path / "removed" / "vmlinux"
    assert not OpenOptions().accepts(make_case(vmlinux=removed))
    # These are in the image, and on another host.
    assert OpenOptions().accepts(make_case(vmlinux=self_contained.DIRECTORY / "vmlinux"))
    assert OpenOptions().accepts(make_case(vmlinux=removed, remote=True))


def test_a_case_with_debuginfo_is_not_one_without(make_case: Callable[..., Case]) -> None:
    assert OpenOptions().accepts(make_case())
    assert not OpenOptions(no_debuginfo=True).accepts(make_case())


def test_the_debugger_that_needs_none_is_chosen(without: Case) -> None:
    chosen = choice.by_kernel(without)
    assert not DEBUGGERS[chosen.debugger].needs_debuginfo
    assert "none was found" in chosen.reason
    assert vmlinux(without) is None


def test_command_lines_without_debuginfo(make_case: Callable[..., Case]) -> None:
    drgn = DEBUGGERS["drgn"]
    mode = drgn.start_modes[0]
    assert vmlinux(make_case()) == VMLINUX
    assert "-s" in drgn.session_argv(VMLINUX, ["/case/vmcore"], mode)
    argv = drgn.session_argv(None, ["/case/vmcore"], mode)
    assert "-s" not in argv
    assert argv[-1] == "--no-debuginfo"
    for prompt in (drgn.prompt_argv(None, ["/case/vmcore"]), drgn.python_argv(None, ["/case/vmcore"])):
        assert prompt is not None
        assert "-s" not in prompt
        assert "no_debuginfo.open_dump(prog)" in prompt[-1]
    with pytest.raises(UsageError, match="no dump without debuginfo"):
        DEFAULT.session_argv(None, ["/case/vmcore"], DEFAULT.start_modes[0])


VMCORE = Vmcore(path=Path("vmcore"), format=DumpFormat.KDUMP, size=1, arch="x86_64", release="6.1.0-1-mine")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place has debuginfo, and images are there."""

    def provision(*_: object) -> None:
        raise DebuginfoNotFound("no debuginfo of kernel 6.1.0-1-mine was found")

    monkeypatch.setattr(without_debuginfo, "provision", provision)
    monkeypatch.setattr(image, "ensure", lambda profile, *_: f"vmbox/{profile.name}")


@pytest.mark.usefixtures("nowhere")
def test_a_dump_is_read_without_by_itself_where_none_is_found() -> None:
    ready = _provision(VMCORE, OpenOptions())
    assert isinstance(ready, WithoutDebuginfo)
    assert ready.image == "vmbox/latest"
    assert ready.reason == "no debuginfo of kernel 6.1.0-1-mine was found"
    asked = _provision(replace(VMCORE, arch="s390x"), OpenOptions(no_debuginfo=True))
    assert isinstance(asked, WithoutDebuginfo)
    assert asked.reason == "--no-debuginfo"


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("vmcore", "options"),
    [
        (VMCORE, OpenOptions(debugger="crash")),
        (VMCORE, OpenOptions(debuginfo=Path("vmlinux"))),
        (replace(VMCORE, arch="ppc64le"), OpenOptions()),
        (replace(VMCORE, files=(Path("part-1"), Path("part-2"))), OpenOptions()),
    ],
    ids=["crash", "given", "not tried", "split"],
)
def test_elsewhere_the_error_is_the_users(vmcore: Vmcore, options: OpenOptions) -> None:
    with pytest.raises(DebuginfoNotFound):
        _provision(vmcore, options)


def _provision(vmcore: Vmcore, options: OpenOptions) -> object:
    return without_debuginfo.provision_or_without(vmcore, cast(Any, None), options, cast(Any, _Engine(())), QUIET)


class _Engine:
    """A fake: all that is asked of it is which images it has."""

    def __init__(self, profiles: Sequence[str]) -> None:
        self._references = {image.reference(by_name(name)) for name in profiles}

    def image(self, reference: str) -> object:
        return reference if reference in self._references else None


@pytest.mark.parametrize(
    ("at_hand", "chosen"),
    [
        ((), "latest"),
        (("debian-12",), "debian-12"),
        (("debian-12", "latest"), "latest"),
        (("el7",), "latest"),  # it has no drgn
        (("latest-20261115",), "latest-20261115"),  # made where the newest could not be had
    ],
)
def test_another_image_that_can_is_used_where_the_newest_is_not_at_hand(
    at_hand: Sequence[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "ensure", lambda profile, *_: f"vmbox/{profile.name}")
    options = OpenOptions(no_debuginfo=True)
    ready = without_debuginfo.provision_or_without(VMCORE, cast(Any, None), options, cast(Any, _Engine(at_hand)), QUIET)
    assert isinstance(ready, WithoutDebuginfo)
    assert ready.image == f"vmbox/{chosen}"
