"""What is known of a dump before anything is fetched: the dump's own words, and what vmbox would do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from sandbox import render
from sandbox.dump.release import classify
from sandbox.errors import UnknownKernel
from sandbox.model import Vmcore
from sandbox.profiles import select

_WORDS = {
    "format": "FORMAT",
    "release": "RELEASE",
    "utsname_version": "VERSION",
    "arch": "MACHINE",
    "vendor": "VENDOR",
    "build_id": "BUILD-ID",
    "nr_cpus": "CPUS",
    "hardware": "HARDWARE",
    "cause": "CAUSE",
    "panic": "PANIC",
}
"""crash's own words for what its `sys` prints, in that order."""


def show(path: Path, *, json: bool) -> None:
    """`vmbox info`: identifies a dump and prints what is known of it."""
    from sandbox.dump import identify

    vmcore = identify(path)
    if json:
        render.as_json(describe(vmcore))
    else:
        render.facts(facts(vmcore))


def describe(vmcore: Vmcore) -> dict[str, object]:
    """Everything `vmbox info --json` prints. Unknown is None."""
    values: dict[str, object] = {
        item.name: getattr(vmcore, item.name) for item in fields(vmcore) if item.name != "vmcoreinfo"
    }
    kernel = classify(vmcore.release, vmcore.utsname_version) if vmcore.release else None
    values["class"] = kernel.klass if kernel else None
    values["variant"] = (kernel.variant or None) if kernel else None
    values["profile"] = _profile(vmcore)
    return values


def facts(vmcore: Vmcore) -> Iterator[tuple[str, str]]:
    """The same for people, in the words of crash's `sys`; what is unknown is left out."""
    yield "DUMPFILE", str(vmcore.path)
    for name, word in _WORDS.items():
        value = getattr(vmcore, name)
        if name == "format" and vmcore.flattened:
            value = f"{value}, flattened"
        if value is not None:
            yield word, str(value)
    if vmcore.crash_time is not None:
        yield "DATE", f"{vmcore.crash_time:%a %b %e %H:%M:%S UTC %Y}"
    if vmcore.uptime_seconds is not None:
        hours, rest = divmod(int(vmcore.uptime_seconds), 3600)
        yield "UPTIME", f"{hours // 24} days, {hours % 24:02}:{rest // 60:02}:{rest % 60:02}"
    if vmcore.taint:
        yield "TAINT", "; ".join(vmcore.taint)
    yield "SIZE", render.size(vmcore.size)
    if vmcore.dump_level is not None:
        yield "DUMP LEVEL", str(vmcore.dump_level)
    yield "COMPRESSION", vmcore.compression or ""
    if vmcore.complete is not None:
        yield "COMPLETE", "yes" if vmcore.complete else f"no: {vmcore.incomplete_reason}"
    yield "PROFILE", _profile(vmcore) or "none knows this kernel"


def _profile(vmcore: Vmcore) -> str | None:
    try:
        return select(vmcore).image.name
    except UnknownKernel:
        return None
