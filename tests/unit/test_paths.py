from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from sandbox.errors import ConfigurationError
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


def _set_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int) -> Path:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(shared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return shared


@pytest.mark.parametrize("mode", [0o1777, 0o2770, 0o777])
def test_dumps_are_not_unpacked_where_others_can_write(
    mode: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _set_cache(monkeypatch, tmp_path, mode)
    assert paths.unpacked_dir() == tmp_path / "home" / "vmbox" / "dumps"


def test_dumps_are_unpacked_in_a_cache_of_one_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = _set_cache(monkeypatch, tmp_path, 0o755)
    assert paths.unpacked_dir() == own / "dumps"


def test_a_private_directory_of_another_user_or_behind_a_link_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    paths.make_private(place)
    assert place.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(ConfigurationError):
        paths.make_private(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="belongs to user"):
        paths.make_private(place)


def test_an_open_runtime_directory_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    place.chmod(0o777)
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(place))
    assert paths.runtime_dir() == place
    assert place.stat().st_mode & 0o777 == 0o700
