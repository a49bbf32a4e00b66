from __future__ import annotations

from collections.abc import Iterator

import pytest

import archives
import rpms
from archives import Archive
from sandbox.debuginfo import download


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> rpms.Packages:
    return rpms.build(tmp_path_factory.mktemp("rpm"))


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    with archives.serve(Archive(files={})) as archive:
        yield archive
