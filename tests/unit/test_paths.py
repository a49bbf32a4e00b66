from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import platformdirs
import pytest

from sandbox import render
from sandbox.errors import ConfigurationError
from sandbox.host import config, paths
from sandbox.session import transcript


@pytest.mark.parametrize("given", [True, False])
def test_paths_without_platformdirs_equal_those_with_it(
    given: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of another mode platformdirs takes none.
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    usual = platformdirs.PlatformDirs("vmbox", appauthor=False)
    assert paths.runtime_dir() == usual.user_runtime_path
    assert paths.state_dir() == usual.user_state_path
    assert config.directory() == usual.user_config_path
    assert paths.cache_dir() == usual.user_cache_path


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


def _given_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a directory of another user's, for a process that is root."""
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


@pytest.fixture
def home_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `sudo -E` leaves it."""
    for name in ("VMBOX_CACHE_DIR", "VMBOX_STATE_DIR", "VMBOX_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = _given_to_another(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    return home


@pytest.mark.parametrize(("kind", "variable"), [("cache", "HOME"), ("state", "HOME"), ("runtime", "XDG_RUNTIME_DIR")])
def test_root_leaves_nothing_in_another_user_s_home(kind: str, variable: str, home_of_another: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"\(\${variable}\) belongs to \w+, and this is root") as refused:
        getattr(paths, f"{kind}_dir")()
    assert "sudo -H" in refused.value.hint
    assert f"$VMBOX_{kind.upper()}_DIR" in refused.value.hint
    with pytest.raises(ConfigurationError):
        paths.make_private(paths.unpacked_dir())
    assert list(home_of_another.iterdir()) == []


def test_root_does_not_follow_a_setting_into_another_user_s_place(
    home_of_another: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(home_of_another / "cache"))
    with pytest.raises(ConfigurationError, match=r"\(\$VMBOX_CACHE_DIR\) belongs to"):
        paths.cache_dir()
    shared = _given_to_another(tmp_path / "shared", monkeypatch)
    shared.chmod(0o2770)
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(shared))
    assert paths.cache_dir() == shared


def test_root_identifies_a_dump_with_another_user_s_home(
    home_of_another: Path, vmbox: Callable[..., CompletedProcess[str]]
) -> None:
    done = vmbox("info", Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib")
    assert (done.returncode, done.stderr) == (0, "")
    assert vmbox("log").returncode == 70
    assert list(home_of_another.iterdir()) == []


def test_a_configuration_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmbox: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    genuine = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == tmp_path / "config.toml":
            raise refused
        return genuine(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    _says_permission_denied(vmbox)


def _says_permission_denied(vmbox: Callable[..., CompletedProcess[str]]) -> None:
    for command in ("list", "log"):
        done = vmbox(command)
        assert done.returncode == 70, done
        assert "Permission denied\nhint: is $HOME yours" in done.stderr


def test_a_substitute_of_the_runtime_directory_that_another_user_made_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(self: object) -> Path:
        raise PermissionError("runtime directory /tmp/runtime-1000 is owned by uid 7, not 1000")

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("VMBOX_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(platformdirs.PlatformDirs, "user_runtime_path", property(refused))
    with pytest.raises(ConfigurationError, match="owned by uid 7") as error:
        paths.runtime_dir()
    assert "VMBOX_RUNTIME_DIR" in error.value.hint


def test_another_login_is_named_only_where_it_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    for code, helps in ((errno.EACCES, True), (errno.EROFS, False), (errno.ENOSPC, False)):

        def refused(*_: object, code: int = code, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refused)
            with pytest.raises(ConfigurationError, match=os.strerror(code)) as error:
                paths.runtime_dir()
        assert ("log in" in error.value.hint) == helps
        assert "$VMBOX_RUNTIME_DIR" in error.value.hint


def test_a_transcript_of_another_user_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path))
    assert transcript.kept_transcripts() == []
    (tmp_path / "transcripts").mkdir()
    for name in ("mine", "root-s"):
        (tmp_path / "transcripts" / f"{name}.jsonl").touch()
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "root-s.jsonl")
    assert [path.stem for path in transcript.kept_transcripts(render.reporter(quiet=False))] == ["mine"]
    assert "root-s.jsonl cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cache", "runtime", "state"])
@pytest.mark.parametrize("below", ["", "further/down"])
def test_a_file_is_no_place(kind: str, below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(f"VMBOX_{kind.upper()}_DIR", str(tmp_path / "file" / below))
    with pytest.raises(ConfigurationError, match="is not a directory"):
        getattr(paths, f"{kind}_dir")()
