"""The directories of vmbox: from the settings, else from platformdirs."""

from __future__ import annotations

import contextlib
import os
import warnings
from functools import cache
from pathlib import Path

from sandbox.errors import ConfigurationError
from sandbox.host import config


def data_dir() -> Path:
    """Directory that holds `images/` and `Containerfile.d/`: the checkout, or the copy inside the wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent


def config_dir() -> Path:
    """The user's own profiles (`images/*.toml`) and configuration. `$VMBOX_CONFIG_DIR` overrides."""
    return config.directory()


def cache_dir() -> Path:
    """Debuginfo, downloads under way, unpacked dumps. `$VMBOX_CACHE_DIR` overrides."""
    return config.current().cache_dir or _default("cache")


def unpacked_dir() -> Path:
    """The directory of unpacked dumps, each in a directory of its own.

    In the cache, if only the user can write there. If others can, the cache may be shared, but a dump may not: then in
    the cache that the user has without settings.
    """
    cache = cache_dir()
    try:
        status = cache.stat()
    except OSError:
        return cache / "dumps"
    own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return (cache if own else _default("cache")) / "dumps"


def make_private(directory: Path, setting: str = "VMBOX_CACHE_DIR") -> None:
    """Make a directory of mode 0700, or take one that is there and is the user's own.

    The owner and mode are those of the opened directory, and a link is refused: a directory that another user made in
    advance would give them what is put there, or let them change it. Raises `ConfigurationError`.
    """
    hint = f"choose a directory of your own with ${setting}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}", hint=hint) from error
    try:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid():
            raise ConfigurationError(f"{directory} belongs to user {status.st_uid}", hint=hint)
        if status.st_mode & 0o077:
            os.fchmod(opened, 0o700)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}", hint=hint) from error
    finally:
        os.close(opened)


def make_directory(directory: Path, cache: Path | None = None) -> None:
    """mkdir -p, private; but directories below the cache get the mode of the cache itself.

    So users who trust each other can share a cache: 2770 for their group, on its top, is enough.
    """
    top = cache or cache_dir()
    if top not in directory.parents:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    top.mkdir(parents=True, exist_ok=True)
    mode = top.stat().st_mode & 0o7777
    for place in (*(parent for parent in reversed(directory.parents) if top in parent.parents), directory):
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            # mkdir obeys the umask, which knows nothing of the cache.
            place.chmod(mode)


def runtime_dir() -> Path:
    """FIFOs and descriptions of open cases; mode 0700, gone after a reboot. `$VMBOX_RUNTIME_DIR` overrides.

    Raises `ConfigurationError` when it cannot be made, or is not the caller's own: its owner could read a case.
    """
    path = config.current().runtime_dir or _default("runtime")
    make_private(path, "VMBOX_RUNTIME_DIR")
    return path


def state_dir() -> Path:
    """Histories and transcripts. `$VMBOX_STATE_DIR` overrides."""
    return config.current().state_dir or _default("state")


@cache
def _default(kind: str) -> Path:
    """Where platformdirs puts it. What a warm run needs is asked of the environment here: the import takes longer than
    a warm crash does, and says the same.
    """
    match kind:
        case "runtime":
            if directory := os.environ.get("XDG_RUNTIME_DIR", "").strip():
                return Path(directory) / "vmbox"
            # Without a login session there is none, and platformdirs warns about its substitute.
            if os.getuid() == 0:
                return Path("/run/vmbox")
        case "state":
            return Path(os.environ.get("XDG_STATE_HOME", "").strip() or Path.home() / ".local" / "state") / "vmbox"
        case _:
            pass
    import platformdirs

    dirs = platformdirs.PlatformDirs("vmbox", appauthor=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dirs.user_cache_path if kind == "cache" else dirs.user_runtime_path
