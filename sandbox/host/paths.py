"""The directories of vmbox: from the settings, else from platformdirs."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import Final

from sandbox.errors import ConfigurationError
from sandbox.host import config

CACHE_TAG: Final = "CACHEDIR.TAG"
"""The file by which a cache is known (https://bford.info/cachedir/), and how it begins."""
_TAGGED: Final = "Signature: 8a477f597d28d172789f06886806bc55"


def data_dir() -> Path:
    """Directory that holds `images/` and `Containerfile.d/`: the checkout, or the copy inside the wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent


def config_dir() -> Path:
    """The user's own profiles (`images/*.toml`) and configuration. `$VMBOX_CONFIG_DIR` overrides."""
    return config.directory()


def own_files(directory: Path, pattern: str) -> list[Path]:
    """The files of one of the user's directories, sorted. Raises `ConfigurationError` where it cannot be read."""
    try:
        return sorted(path for path in directory.iterdir() if path.match(pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise config.unreadable(directory, error) from error


def cache_dir() -> Path:
    """Debuginfo, downloads under way, unpacked dumps. `$VMBOX_CACHE_DIR` overrides.

    Raises `ConfigurationError` for root where it is another user's.
    """
    return _usable(_cache_dir(), "cache")


def _cache_dir() -> Path:
    return config.current().cache_dir or _default("cache")


def unpacked_dir() -> Path:
    """The directory of unpacked dumps, each in a directory of its own.

    In the cache, if only the user can write there. If others can, the cache may be shared, but a dump may not: then in
    the cache that the user has without settings.
    """
    cache = _cache_dir()
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
    kind = setting.removeprefix(config.PREFIX).removesuffix("_DIR").lower()
    _usable(directory, kind)
    own = f"choose a directory of your own with ${setting}"
    hint = f"it is from {_origin(kind)}: log in with su - or sudo -i, or {own}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM}:
            # Another login would not help.
            hint = f"it is from {_origin(kind)}: {own}"
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
    _tag(top)
    mode = top.stat().st_mode & 0o7777
    for place in (*(parent for parent in reversed(directory.parents) if top in parent.parents), directory):
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            # mkdir obeys the umask, which knows nothing of the cache.
            place.chmod(mode)


def _tag(cache: Path) -> None:
    """Mark a cache for programs that back up, or look for files."""
    tag = cache / CACHE_TAG
    # Where it cannot be written, the cache is another user's, who has marked it, or there is no use of it.
    with contextlib.suppress(OSError), tag.open("x", encoding="ascii") as file:
        file.write(f"{_TAGGED}\n# This is a cache of vmbox.\n")


def runtime_dir() -> Path:
    """FIFOs and descriptions of open cases; mode 0700, gone after a reboot. `$VMBOX_RUNTIME_DIR` overrides.

    Raises `ConfigurationError` when it cannot be made, or is not the caller's own: its owner could read a case.
    """
    path = config.current().runtime_dir or _default("runtime")
    make_private(path, "VMBOX_RUNTIME_DIR")
    return path


def _usable(directory: Path, kind: str) -> Path:
    """The directory itself. Raises `ConfigurationError` for a name that no engine takes, for a file, and for root where
    it is, or would be made in, another user's.

    What root leaves there, the user's own vmbox can neither read nor remove. `sudo -E` and `su -p` keep $HOME. A cache
    of a group is meant to be shared.
    """
    if not is_utf8(directory):
        raise ConfigurationError(
            f"{directory} ({_origin(kind)}) is not UTF-8, and engines take no other names",
            hint=f"choose another place: ${config.variable(f'{kind}_dir')}",
        )
    if _is_below_a_file(directory):
        raise ConfigurationError(
            f"{directory} ({_origin(kind)}) is not a directory",
            hint=f"choose another place: ${config.variable(f'{kind}_dir')}",
        )
    if os.geteuid() != 0:
        return directory
    status = _nearest(directory)
    if status is not None:
        of_a_group = stat.S_ISGID | stat.S_IWGRP
        if status.st_uid == 0 or (kind == "cache" and status.st_mode & of_a_group == of_a_group):
            return directory
    owner = "another user" if status is None else user_name(status.st_uid)
    raise ConfigurationError(
        f"{directory} ({_origin(kind)}) belongs to {owner}, and this is root",
        hint=f"sudo -H vmbox …, or without sudo; else choose another place: ${config.variable(f'{kind}_dir')}",
    )


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8: JSON, in which engines are told of it, has no other names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_below_a_file(directory: Path) -> bool:
    try:
        return not stat.S_ISDIR(directory.stat().st_mode)
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _nearest(directory: Path) -> os.stat_result | None:
    """The state of the directory, or of the one in which it would be made. None if root may not know it: on NFS."""
    for path in (directory, *directory.absolute().parents):
        try:
            return path.stat()
        except PermissionError:
            return None
        except OSError:
            continue
    return None


def _origin(kind: str) -> str:
    """The setting or variable that says where the directory is."""
    setting = f"{kind}_dir"
    if getattr(config.current(), setting) is not None:
        return config.origin(setting)
    variable = f"XDG_{kind.upper()}_{'DIR' if kind == 'runtime' else 'HOME'}"
    return f"${variable}" if os.environ.get(variable, "").strip() else "$HOME"


def user_name(number: int) -> str:
    """The name of a user; the number, as text, where it has none."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def state_dir() -> Path:
    """Histories and transcripts. `$VMBOX_STATE_DIR` overrides.

    Raises `ConfigurationError` for root where it is another user's.
    """
    return _usable(config.current().state_dir or _default("state"), "state")


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

    if kind == "cache":
        return platformdirs.PlatformDirs("vmbox", appauthor=False).user_cache_path
    return _without_login()


@cache
def _without_login() -> Path:
    """The runtime directory of a user without a login session.

    Once: it changes the warnings of all threads for as long as it takes.
    """
    import platformdirs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return platformdirs.PlatformDirs("vmbox", appauthor=False).user_runtime_path
    except OSError as error:
        # The substitute in /tmp is there, and is another user's: anyone can make it.
        hint = "choose a directory of your own: export VMBOX_RUNTIME_DIR=DIRECTORY"
        raise ConfigurationError(
            f"there is no XDG_RUNTIME_DIR, and its substitute is refused: {error}", hint=hint
        ) from error
