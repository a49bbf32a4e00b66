"""Selection of the images to remove. The engine is a fake, because no image of a real one is a month old."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from subprocess import CompletedProcess

import pytest

from engines import INFO
from sandbox import image, profiles
from sandbox.commands import images
from sandbox.engine import EngineInfo, Image, labels

DAY = 86400
CURRENT = image.reference(profiles.by_name("debian-12"))


class Engine:
    def __init__(self) -> None:
        now = time.time()
        self.has = [
            Image(id="1", tags=("localhost/vmbox/kernel:old",), labels=_label("kernel"), size=1, built=now - 40 * DAY),
            Image(id="2", tags=("localhost/vmbox/kernel:new",), labels=_label("kernel"), size=1, built=now - DAY),
            Image(id="3", tags=(CURRENT,), labels=_label("debian-12"), size=1, built=now - 35 * DAY),
            Image(id="4", tags=("localhost/vmbox/debian-12:0",), labels=_label("debian-12"), size=1, built=now),
            Image(id="5", tags=("localhost/vmbox/base-x:1",), labels=_label("base-x"), size=1, built=now - 50 * DAY),
        ]
        self.removed: list[str] = []

    def info(self) -> EngineInfo:
        return INFO

    def images(self, _labels: Mapping[str, str]) -> list[Image]:
        return self.has

    def remove_image(self, ref: str) -> None:
        self.removed.append(ref)

    def close(self) -> None: ...


def _label(what: str) -> dict[str, str]:
    return {labels.IMAGE: what}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()
    monkeypatch.setattr(images, "connect", lambda _name: fake)
    return fake


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ([], ["localhost/vmbox/debian-12:0"]),
        # A kernel's image is based on the profile's, and that one on the base.
        (
            ["--older-than", "30d"],
            ["localhost/vmbox/kernel:old", "localhost/vmbox/debian-12:0", CURRENT, "localhost/vmbox/base-x:1"],
        ),
        (
            ["--older-than", "37d"],
            ["localhost/vmbox/kernel:old", "localhost/vmbox/debian-12:0", "localhost/vmbox/base-x:1"],
        ),
    ],
)
def test_which_images_are_removed(
    engine: Engine, vmbox: Callable[..., CompletedProcess[str]], options: list[str], gone: list[str]
) -> None:
    done = vmbox("image", "prune", *options)
    assert done.returncode == 0, done.stderr
    assert sorted(engine.removed) == sorted(gone)
    kinds = ["kernel" in ref for ref in engine.removed]
    assert kinds == sorted(kinds, reverse=True)


def test_an_invalid_age(vmbox: Callable[..., CompletedProcess[str]]) -> None:
    done = vmbox("image", "prune", "--older-than", "long")
    assert done.returncode == 2
    assert "90s, 30m, 2h, 1d" in done.stderr
