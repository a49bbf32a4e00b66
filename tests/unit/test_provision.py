"""Image and debuginfo side by side: what happens to one when the other cannot be had. The engine is not real here."""

from __future__ import annotations

import platform
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from debuginfo_bench import Heard
from engines import INFO
from sandbox import debuginfo, image, profiles
from sandbox.case import provision as module
from sandbox.case.options import OpenOptions
from sandbox.debuginfo import lookup
from sandbox.debuginfo.package_names import package_names
from sandbox.debuginfo.urls import Source, questions
from sandbox.dump.release import of_release
from sandbox.errors import BaseImageUnavailable, DebuginfoNotFound, ImageBuildFailed, VmboxError
from sandbox.model import Vmcore

ENGINE: Any = SimpleNamespace(info=lambda: INFO, image=lambda _: None)
DUMP = Vmcore(path=Path("vmcore"), format="elf", size=1, release="6.1.0-50-cloud-amd64", arch="x86_64")


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_self_contained", lambda *_, **__: None)
    monkeypatch.setattr(module, "_indexer", lambda *_, **__: None)


def test_without_debuginfo_the_image_is_finished_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    absent, finished, heard = threading.Event(), threading.Event(), Heard()

    def ensure(*_: object) -> str:
        assert absent.wait(10)
        # The error must not be there before.
        time.sleep(0.2)
        finished.set()
        return "image"

    def locate(*_: object, **__: object) -> None:
        absent.set()
        raise DebuginfoNotFound("no debuginfo")

    monkeypatch.setattr(image, "ensure_base", lambda *_: "base")
    monkeypatch.setattr(image, "ensure", ensure)
    monkeypatch.setattr(debuginfo, "locate", locate)
    with pytest.raises(DebuginfoNotFound):
        module.provision(DUMP, profiles.select(DUMP), OpenOptions(), ENGINE, heard)
    assert finished.is_set()
    assert any(notice.endswith("the image is finished first, and kept") for notice in heard.notices)


def test_a_release_that_names_no_machine_is_taken_for_one_of_this_hosts() -> None:
    heard = Heard()
    version = "#111-Ubuntu SMP Tue Mar 5 20:16:58 UTC 2024"
    kernel = module.with_machine(of_release("5.15.0-101-generic", version), heard)
    assert kernel.arch == platform.machine()
    assert heard.notices == [f"5.15.0-101-generic names no machine: that of this host, {kernel.arch}, is assumed"]
    home = profiles.select(kernel).distribution
    asked = [*questions(Source.URLS, home, kernel, package_names(kernel, home))]
    assert len(asked) == 2
    # What names its own is believed, and so is a dump.
    heard.notices.clear()
    other = of_release("6.1.0-50-arm64", None)
    assert module.with_machine(other, heard) is other
    assert module.with_machine(DUMP, heard) is DUMP
    assert heard.notices == []


@pytest.mark.parametrize("waiting", ["locate", "the build", "the build, without debuginfo"])
def test_ctrl_c_ends_the_build_before_the_process(monkeypatch: pytest.MonkeyPatch, waiting: str) -> None:
    building, ended = threading.Event(), threading.Event()

    def ensure(profile: profiles.Profile, engine: Any, reporter: Any) -> str:
        with reporter.step("Building image") as step:
            try:
                while True:
                    step.detail("Unpacking libc6")
                    building.set()
                    time.sleep(0.01)
            finally:
                ended.set()

    def locate(*_: object, **__: object) -> str:
        assert building.wait(10)
        if waiting == "locate":
            raise KeyboardInterrupt
        threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        if waiting.endswith("without debuginfo"):
            raise DebuginfoNotFound("no debuginfo")
        return "debuginfo"

    monkeypatch.setattr(image, "ensure_base", lambda *_: "base")
    monkeypatch.setattr(image, "ensure", ensure)
    monkeypatch.setattr(debuginfo, "locate", locate)
    with pytest.raises(KeyboardInterrupt):
        module.provision(DUMP, profiles.select(DUMP), OpenOptions(), ENGINE, Heard())
    assert ended.is_set()


@pytest.mark.slow
def test_ctrl_c_ends_a_build_that_waits_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    building, interrupted, ended = threading.Event(), threading.Event(), threading.Event()

    def ensure(profile: profiles.Profile, engine: Any, reporter: Any) -> str:
        with reporter.step("Building image") as step:
            step.detail("Get:1 http://mirror.example/debian crash")
            building.set()
            if interrupted.wait(20):
                ended.set()
            raise ImageBuildFailed("its client is gone")

    def locate(*_: object, **__: object) -> str:
        assert building.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(image, "ensure_base", lambda *_: "base")
    monkeypatch.setattr(image, "ensure", ensure)
    monkeypatch.setattr(debuginfo, "locate", locate)
    engine: Any = SimpleNamespace(info=ENGINE.info, image=ENGINE.image, interrupt_builds=interrupted.set)
    with pytest.raises(KeyboardInterrupt):
        module.provision(DUMP, profiles.select(DUMP), OpenOptions(), engine, Heard())
    assert ended.is_set()


def test_a_testing_suite_that_is_broken_is_replaced_by_a_stable_one(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, asked = Heard(), []

    def ensure_base(profile: profiles.Profile, *_: object) -> str:
        asked.append(profile.name)
        if profile.name == "latest":
            raise BaseImageUnavailable("no base image", detail="Release file is expired")
        return "base"

    monkeypatch.setattr(image, "ensure_base", ensure_base)
    monkeypatch.setattr(image, "ensure", lambda profile, *_: f"image of {profile.name}")
    monkeypatch.setattr(debuginfo, "locate", lambda *_, **__: "debuginfo")
    ready = module.provision(DUMP, profiles.select(DUMP), OpenOptions(), ENGINE, heard)
    assert (ready.image, ready.profile.name, asked) == ("image of debian-13", "debian-13", ["latest", "debian-13"])
    assert "debian-13 with crash 8.0.6 is used in place of latest" in "\n".join(heard.notices)
    # A kernel that no stable crash knows: the suite as it was on a day that is known to be good.
    newer, asked[:] = replace(DUMP, release="7.0.0-22-generic"), []
    ready = module.provision(newer, profiles.select(newer), OpenOptions(), ENGINE, heard)
    past = profiles.by_name("latest").of_the_past()
    assert past is not None
    assert (ready.image, ready.profile.name) == (f"image of {past.name}", past.name)
    assert asked == ["latest", past.name]
    # Not where the user chose it, and not with a crash that does not know the kernel.
    with pytest.raises(VmboxError, match="no base image"):
        module.provision(DUMP, profiles.select(DUMP, override="latest"), OpenOptions(image="latest"), ENGINE, heard)


@pytest.mark.parametrize(("cached", "made", "looked"), [(True, True, False), (True, False, True), (False, True, True)])
def test_images_of_other_names_are_looked_at_only_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, cached: bool, made: bool, looked: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(module, "_self_contained", lambda *_, by_label: asked.append(by_label))
    monkeypatch.setattr(lookup, "peek", lambda *_: "debuginfo" if cached else None)
    monkeypatch.setattr(image, "ensure_base", lambda *_: "base")
    monkeypatch.setattr(image, "ensure", lambda *_: "image")
    monkeypatch.setattr(debuginfo, "locate", lambda *_, **__: "debuginfo")
    engine: Any = SimpleNamespace(info=lambda: INFO, image=lambda _: "image" if made else None)
    module.provision(DUMP, profiles.select(DUMP), OpenOptions(), engine, Heard())
    assert asked == [looked]
