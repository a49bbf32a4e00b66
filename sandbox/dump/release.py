"""Classifies a release string by the vendor that built the kernel, with the rules of `images/releases.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandbox.errors import ConfigurationError
from sandbox.host import paths
from sandbox.model import DumpFormat, KernelRelease, Vmcore

UNKNOWN: Final = "unknown"

_LONGEST: Final = 128
"""The kernel allows 64 characters; longer strings are not worth an expression's time."""

_PLACE: Final = re.compile(r"\{(\w+)(?:\|(\w+))?\}")
_OPTIONAL: Final = re.compile(r"\[([^]]*)\]")

_Tables = Mapping[str, Mapping[str, str]]


class _NoEntryError(LookupError):
    """A template names a table entry that is not there: its rule does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """One table [[rule]]."""

    release: str
    klass: str
    mark: str = ""
    version: str | None = None
    variant: str = ""
    flavour: str = ""
    arch: str = ""
    also: str = ""
    require: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """The file."""

    rules: tuple[_Rule, ...]
    vendors: tuple[tuple[str, str], ...]
    tables: _Tables


def classify(release: str, utsname_version: str | None = None) -> KernelRelease:
    """Class, variant, architecture and flavour of a kernel release; class "unknown" where no rule fits.

    `utsname_version` (uname -v) decides where the release alone cannot: Ubuntu's kernels for an older LTS, Debian's
    derivatives. Without it the class is the likelier one of two, and `also` the other. Raises `ConfigurationError` when
    the rules themselves are broken.
    """
    release = release.strip()
    version = (utsname_version or "")[:512]
    known = _load()
    if len(release) <= _LONGEST:
        for rule in known.rules:
            if rule.mark in release and (found := _apply(rule, known.tables, release, version)):
                return found
    return KernelRelease(release=release, klass=UNKNOWN)


def vendor(banner: str) -> str | None:
    """Who built an Enterprise Linux kernel, from its "Linux version" line: rhel, centos, rocky, alma, oracle …"""
    text = banner[:512]
    return next((name for pattern, name in _load().vendors if re.search(pattern, text)), None)


def _apply(rule: _Rule, tables: _Tables, release: str, version: str) -> KernelRelease | None:
    found = re.fullmatch(rule.release, release)
    if found is None:
        return None
    groups = {name: value or "" for name, value in found.groupdict().items()}
    if rule.version is not None:
        more = re.search(rule.version, version)
        if more is None:
            return None
        groups |= {name: value or "" for name, value in more.groupdict().items()}
    try:
        if any(groups[name] != _fill(template, groups, tables) for name, template in rule.require.items()):
            return None
        klass = _fill(rule.klass, groups, tables)
        return KernelRelease(
            release=release,
            klass=klass,
            minor=klass.partition(":")[2].partition(".")[2] or None,
            variant=" ".join(_fill(rule.variant, groups, tables).split()) or None,
            flavour=_fill(rule.flavour, groups, tables) or None,
            arch=_fill(rule.arch, groups, tables) or None,
            also=_fill(rule.also, groups, tables) or None,
        )
    except _NoEntryError:
        return None


def _fill(template: str, groups: Mapping[str, str], tables: _Tables) -> str:
    def optional(part: re.Match[str]) -> str:
        empty = any(not groups[place[1]] for place in _PLACE.finditer(part[1]))
        return "" if empty else part[1]

    return _PLACE.sub(lambda place: _value(groups[place[1]], place[2], tables), _OPTIONAL.sub(optional, template))


def _value(text: str, table: str | None, tables: _Tables) -> str:
    if table is None:
        return text
    if table == "int":
        return str(int(text))
    entries = tables[table]
    if text in entries:
        return entries[text]
    if not text:
        return ""
    for pattern, value in entries.items():
        if fnmatchcase(text, pattern):
            return value
    raise _NoEntryError(text)


@cache
def _load() -> _Rules:
    path = paths.data_dir() / "images" / "releases.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        machines = str(content["machines"])
        rules = tuple(_rule(table, machines) for table in content["rule"])
        vendors = tuple((str(table["banner"]), str(table["vendor"])) for table in content["vendor"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: {error}", hint="install vmbox again, or fix the file") from error
    return _Rules(rules=rules, vendors=vendors, tables=content.get("tables", {}))


def _rule(table: dict[str, Any], machines: str) -> _Rule:
    table["release"] = table["release"].replace("ARCH", machines)
    # `class` is a word of Python's; everything else is named alike, and an unknown key is a TypeError.
    return _Rule(klass=table.pop("class"), **table)


def built_on(utsname_version: str | None) -> date | None:
    """The day at the end of uname -v, as most kernels have it: "#1 SMP Wed Jun 11 17:26:01 UTC 2026"."""
    found = re.search(r"\b([A-Z][a-z]{2}) +(\d{1,2}) [\d:]{8} \w+ (\d{4})$", utsname_version or "")
    if found is None:
        return None
    try:
        return date(int(found[3]), _MONTHS.index(found[1]) + 1, int(found[2]))
    except ValueError:
        return None


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def of_release(release: str, utsname_version: str | None) -> Vmcore:
    """A dump of which nothing is known yet but its kernel."""
    return Vmcore(
        path=Path(release),
        format=DumpFormat.RELEASE,
        size=0,
        release=release,
        utsname_version=utsname_version,
        arch=machine(release, utsname_version),
    )


def machine(release: str, utsname_version: str | None) -> str | None:
    """The architecture that a release names, as uname -m prints it; None for one that names none."""
    arch = classify(release, utsname_version).arch
    return None if arch is None else _MACHINES.get(arch, arch)


_MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "x86_64_v2": "x86_64",
    # Debian's flavours of 32-bit kernels.
    **dict.fromkeys(("686", "686-pae", "rt-686-pae", "586", "486"), "i686"),
}
"""uname -m of what releases call it otherwise."""
