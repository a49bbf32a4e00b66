"""The user's settings: one table of keys, each from the environment, from one file, or the default.

A key `idle` is `idle = "2h"` in `config.toml`, and `$VMBOX_IDLE` in the environment, which goes before the file; the
command line goes before both: `vmbox --set idle=2h run …`. A setting is one field of `Settings`, and nothing else:
name, reader, default and meaning stand there, and documentation and `vmbox config` are made from them.

What cannot be in the file, because it says where the file is or must work without it: `$VMBOX_CONFIG_DIR`,
`$VMBOX_DEBUG` and `$VMBOX_LOG`.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sandbox.errors import ConfigurationError, UsageError
from sandbox.log import without_secrets

PREFIX: Final = "VMBOX_"
ONLY_ENVIRONMENT: Final = {
    "VMBOX_CONFIG_DIR": "where config.toml and your own profiles are",
    "VMBOX_DEBUG": "if it is set, an internal error shows its traceback",
    "VMBOX_LOG": "debug or info: what is done, and why, on standard error; debug is the same as --verbose",
}
"""Variables that are no settings, and what each is for."""

_Reader = Callable[[object], object]
"""Makes a value from the file or, as text, from the environment. Raises ValueError with what it must be."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


def _number(value: object) -> float:
    try:
        if (
            isinstance(value, str | int | float)
            and not isinstance(value, bool)
            and 0 <= (number := float(value)) < math.inf
        ):
            return number
    except ValueError:
        pass
    raise ValueError("a number, 0 or more")


_LONGEST_TIMEOUT: Final = 1e8
"""Seconds: more than three years."""
_LONGEST_TIME: Final = 100 * 365 * 86400
_MOST_BYTES: Final = 1 << 60
_MOST_PROCESSES: Final = 1 << 22
"""The kernel's own limit of a 64-bit host (PID_MAX_LIMIT)."""
_DIGITS: Final = 30

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES_IEC: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_BYTES_READ: Final = _BYTES | {
    unit: size for name, size in _BYTES_IEC.items() for unit in (name.upper(), name.removesuffix("iB"))
}


def time_limit(seconds: float) -> float:
    """The same number. Raises `UsageError` for one that is no time limit: nan, 0, what no clock can count."""
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise UsageError(f"timeout {seconds!r} is no number of seconds above 0", hint="without one there is no limit")
    return seconds


def seconds(value: object) -> int:
    """1800, "1800", "30m", "2h", "1d" -> seconds."""
    return _with_unit(value, _SECONDS, "seconds, or 90s, 30m, 2h, 1d", str.lower, _LONGEST_TIME)


def amount(value: object) -> int:
    """20000000000, "20GB" (powers of 1000), "20GiB", "20G" (of 1024, as container engines read it) -> bytes."""
    return _with_unit(value, _BYTES_READ, "bytes, or 500MB, 20GB, 20GiB", str.upper, _MOST_BYTES)


def _with_unit(value: object, units: Mapping[str, int], wanted: str, spelled: Callable[[str], str], most: int) -> int:
    number = value
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", value.strip())
        if found is None or spelled(found[2]) not in units or len(found[1]) > _DIGITS:
            raise ValueError(wanted)
        # Up: a part of one is not 0, which means that there is no limit.
        number = math.ceil(float(found[1]) * units[spelled(found[2])])
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
        raise ValueError(wanted)
    return number


def _count(value: object) -> int:
    with suppress(ValueError, TypeError):
        number = int(value) if isinstance(value, str) else value
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= _MOST_PROCESSES:
            return number
    raise ValueError("a whole number, 0 or more")


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in {"true", "false"}:
        return value == "true"
    raise ValueError("true or false")


def _directory(value: object) -> Path:
    path = Path(_text(value)).expanduser()
    # A relative path in the file would depend on the working directory.
    return path.absolute()


def _one_of(*choices: str) -> _Reader:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return str(value)

    return read


def _prefixes(value: object) -> Mapping[str, str]:
    """A table, or FROM=TO words in one text."""
    wanted = 'FROM=TO, e.g. "http://deb.debian.org=http://mirror.example:8080 docker.io=registry.example:5000"'
    if isinstance(value, str):
        pairs = [entry.partition("=")[::2] for entry in value.split()]
    elif isinstance(value, dict):
        pairs = [(str(before), after if isinstance(after, str) else "") for before, after in value.items()]
    else:
        raise ValueError(wanted)  # noqa: TRY004 - see _text
    if not all(before and after for before, after in pairs):
        raise ValueError(wanted)
    return {before.rstrip("/"): after.rstrip("/") for before, after in pairs}


def _about(reader: _Reader, meaning: str, *, example: str) -> Mapping[str, Any]:
    """The metadata of a setting. `example` is its value as in config.toml."""
    return {"reader": reader, "meaning": meaning, "example": example}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, as they hold now. Each field is one key of config.toml."""

    engine: str | None = field(
        default=None,
        metadata=_about(
            _text,
            "docker, podman, or the URL of an engine's API (unix://, tcp://, ssh://); without it whichever answers",
            example='"podman"',
        ),
    )
    idle: int = field(
        default=30 * 60,
        metadata=_about(
            seconds,
            "how long an open case waits for the next command before it disposes of itself; 0 is for ever",
            example='"2h"',
        ),
    )
    start: int = field(
        default=15 * 60,
        metadata=_about(
            seconds,
            "how long crash may take to come up on a dump, on each way it is tried; 0 is for ever",
            example='"1h"',
        ),
    )
    memory: int | None = field(
        default=None,
        metadata=_about(
            amount,
            "most memory of a case; 0 is no limit; without it three quarters of what the engine's host has",
            example='"64GB"',
        ),
    )
    cpus: float | None = field(
        default=None,
        metadata=_about(
            _number,
            "how many CPUs a case may keep busy; 0 is no limit; without it three quarters of the engine's host",
            example="2",
        ),
    )
    pids: int = field(
        default=512,
        metadata=_about(_count, "most processes and threads of a case; 0 is no limit", example="512"),
    )
    mirrors: Mapping[str, str] | None = field(
        default=None,
        metadata=_about(
            _prefixes,
            "a site's own mirrors of package archives and registries, by prefix; in the environment FROM=TO FROM=TO",
            example='{ "http://deb.debian.org" = "http://mirror.example:8080", "docker.io" = "registry.example:5000" }',
        ),
    )
    registry: str | None = field(
        default=None,
        metadata=_about(
            _text,
            "where images are shared: vmbox image push sends them there, run looks there before it fetches",
            example='"registry.example:5000/vmbox"',
        ),
    )
    verify: str = field(
        default="auto",
        metadata=_about(
            _one_of("auto", "strict"),
            "auto reads a tenth of a .deb over TLS and proves it by build-id, all of it without TLS; strict compares a "
            "signature or a signed hash of everything, and refuses what has neither",
            example='"strict"',
        ),
    )
    client_certificates: Mapping[str, str] | None = field(
        default=None,
        metadata=_about(
            _prefixes,
            "archives that want a client certificate, by prefix: a file with certificate and key, or a directory of "
            "NAME.pem and NAME-key.pem; Red Hat's CDN is known",
            example='{ "https://satellite.example.com" = "/etc/pki/entitlement" }',
        ),
    )
    wait_for_debuginfo: bool = field(
        default=False,
        metadata=_about(
            _switch,
            "whether vmbox run waits for debuginfo that has to be fetched, as with --wait, also where it could answer "
            "without",
            example="true",
        ),
    )
    debuginfo_limit: int = field(
        default=20 * 10**9,
        metadata=_about(
            amount,
            "how much debuginfo is kept; what was not used for longest goes first, what is open stays",
            example='"50GB"',
        ),
    )
    page_limit: int = field(
        default=1 << 30,
        metadata=_about(
            amount,
            "how much of each dump on a server is kept here; what was fetched first goes first",
            example='"4GiB"',
        ),
    )
    cache_dir: Path | None = field(
        default=None,
        metadata=_about(
            _directory,
            "where debuginfo, downloads and, if no other user can write there, unpacked dumps are kept",
            example='"/srv/vmbox"',
        ),
    )
    runtime_dir: Path | None = field(
        default=None,
        metadata=_about(
            _directory,
            "where the FIFOs of open cases are; the user's own, on a local file system",
            example='"/run/user/1000/vmbox"',
        ),
    )
    state_dir: Path | None = field(
        default=None,
        metadata=_about(_directory, "where histories and transcripts are kept", example='"~/.local/state/vmbox"'),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingValue:
    """One setting and where its value comes from."""

    key: str
    value: object
    origin: str
    """"default", "--set", "$VMBOX_…", or the file's path."""
    meaning: str


def directory() -> Path:
    """The user's own profiles (`images/*.toml`) and `config.toml`. `$VMBOX_CONFIG_DIR` overrides."""
    if override := os.environ.get("VMBOX_CONFIG_DIR"):
        return Path(override).absolute()
    return _usual_directory()


def _usual_directory() -> Path:
    if sys.platform == "linux":
        # The same as from platformdirs, whose import takes a tenth of the time of `vmbox info`.
        return Path(os.environ.get("XDG_CONFIG_HOME", "").strip() or Path.home() / ".config") / "vmbox"
    import platformdirs

    return platformdirs.PlatformDirs("vmbox", appauthor=False).user_config_path


def file() -> Path:
    return directory() / "config.toml"


def variable(key: str) -> str:
    """The environment variable of a key: "cache_dir" -> "VMBOX_CACHE_DIR"."""
    return PREFIX + key.upper()


def current() -> Settings:
    """The settings that hold now. Raises `ConfigurationError` with the key, where it is set, and what it must be."""
    values: dict[str, Any] = {name: value for name, (value, _) in _given().items()}
    return Settings(**values)


def override(assignments: Iterable[str]) -> None:
    """KEY=VALUE words of the command line, which go before environment and file; the value as the environment has it.

    Raises `ConfigurationError` for an unknown key and for an invalid value.
    """
    readers = _readers()
    for assignment in assignments:
        key, given, value = assignment.partition("=")
        if not given:
            raise ConfigurationError(f"--set {assignment} has no value", hint="--set KEY=VALUE, e.g. --set idle=2h")
        if key not in readers:
            raise _unknown(key, "--set")
        _overridden[key] = _read(readers[key], value, f"--set {key}")
        _words[key] = assignment


def overrides() -> tuple[str, ...]:
    """The assignments given to `override`, for another process that must have the same settings."""
    return tuple(_words.values())


def replace_overrides(assignments: Iterable[str]) -> None:
    """Replaces all earlier overrides: for a process that serves many callers in turn."""
    _overridden.clear()
    _words.clear()
    override(assignments)


_overridden: Final[dict[str, object]] = {}
_words: Final[dict[str, str]] = {}
"""Set with --set in this process."""


def show() -> list[SettingValue]:
    """Every setting with its value and where that comes from."""
    given = _given()
    shown = []
    for item in fields(Settings):
        value, origin = given.get(item.name, (item.default, "default"))
        shown.append(SettingValue(key=item.name, value=value, origin=origin, meaning=item.metadata["meaning"]))
    return shown


def format_value(key: str, value: object) -> str:
    """A value as the environment would have it, for people: 1800 of `idle` is "30m"; no value is ""."""
    reader = _readers()[key]
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Mapping():
            return " ".join(f"{before}={after}" for before, after in value.items())
        case int() if reader in {seconds, amount}:
            units = _SECONDS if reader is seconds else _BYTES | _BYTES_IEC
            exact = [(size, unit) for unit, size in units.items() if value and value % size == 0]
            size, unit = max(exact, key=lambda one: (one[0], bool(one[1]), -len(one[1])), default=(1, ""))
            return f"{value // size}{unit}"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def meanings() -> Mapping[str, str]:
    """The meaning of each key, in words."""
    return {item.name: item.metadata["meaning"] for item in fields(Settings)}


def origin(key: str) -> str:
    """The origin of a setting's value, for messages: "$VMBOX_ENGINE", a file's path, or "default"."""
    return _given().get(key, (None, "default"))[1]


def unknown_variables() -> dict[str, str]:
    """Unknown variables VMBOX_…, each with the nearest known one; other programs may use them."""
    known = {*map(variable, _readers()), *ONLY_ENVIRONMENT}
    return {
        name: _nearest(name, known)
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and _nearest(name, known)
    }


def template() -> str:
    """A config.toml in which every key is a comment with its meaning."""
    lines = [f"# Settings of vmbox. This file is {file()}.", "# An environment variable goes before a line here.", ""]
    for item in fields(Settings):
        lines += [f"# {item.metadata['meaning']}", f"# (${variable(item.name)})"]
        lines += [f"# {item.name} = {item.metadata['example']}", ""]
    return "\n".join(lines)


def _given() -> dict[str, tuple[object, str]]:
    """key -> (value, origin) of the settings that are not the default."""
    path = file()
    found: dict[str, tuple[object, str]] = {}
    for name, value in _table(path).items():
        found[name] = (value, str(path))
    for name, reader in _readers().items():
        if text := os.environ.get(variable(name)):
            found[name] = (_read(reader, text, f"${variable(name)}"), f"${variable(name)}")
    return found | {name: (value, "--set") for name, value in _overridden.items()}


@lru_cache(maxsize=1)
def _readers() -> Mapping[str, _Reader]:
    return {item.name: item.metadata["reader"] for item in fields(Settings)}


def _table(path: Path) -> Mapping[str, object]:
    try:
        state = path.stat()
    except PermissionError as error:
        raise unreadable(path, error) from error
    except OSError:
        return {}
    return _parse(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _parse(path: Path, _changed: int, _size: int) -> Mapping[str, object]:
    # Only who has a file pays for what reads it.
    from sandbox.host.decode import DecodeError, read_toml

    try:
        table = read_toml(path)
    except (OSError, DecodeError) as error:
        raise ConfigurationError(f"{path}: {error}", hint="fix the file or remove it") from error
    readers = _readers()
    for name in table:
        if name not in readers:
            raise _unknown(name, str(path))
    return {name: _read(readers[name], value, f"{path}: {name}") for name, value in table.items()}


def unreadable(path: Path, error: OSError) -> ConfigurationError:
    """The error for one of the user's own places that this process may not read: `su -p` keeps another user's HOME."""
    hint = "is $HOME yours, and each $XDG_…_HOME? log in with su - or sudo -i; vmbox config template names the settings"
    return ConfigurationError(f"{path}: {error.strerror}", hint=hint)


def _unknown(key: str, where: str) -> ConfigurationError:
    near = _nearest(key, _readers())
    hint = f"did you mean {near}?" if near else "keys: " + ", ".join(sorted(_readers()))
    return ConfigurationError(f"{where}: unknown key {key}", hint=hint)


def _read(reader: _Reader, value: object, where: str) -> object:
    try:
        return reader(value)
    except ValueError as error:
        raise ConfigurationError(
            f"{where} must be {error}", hint=f"it is {without_secrets(repr(value))}; vmbox config show"
        ) from None


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, known, n=1)), "")
