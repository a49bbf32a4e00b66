from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from sandbox.host import config, paths


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    paths._default.cache_clear()
    config._usual_directory.cache_clear()
    yield
    paths._default.cache_clear()
    config._usual_directory.cache_clear()


@pytest.mark.parametrize("given", [True, False])
def test_paths_without_platformdirs_equal_those_with_it(
    given: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("VMBOX_CONFIG_DIR", raising=False)
    if given:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    usual = platformdirs.PlatformDirs("vmbox", appauthor=False)
    assert paths._default("runtime") == usual.user_runtime_path
    assert paths._default("state") == usual.user_state_path
    assert config.directory() == usual.user_config_path
    assert paths._default("cache") == usual.user_cache_path
