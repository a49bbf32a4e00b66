"""Generates docs/support-matrix.md from the profiles: `python -m upkeep.support_matrix` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sandbox.debuginfo.urls import Source, places
from sandbox.profiles import Profile, load, wheels

FILE: Final = Path(__file__).resolve().parent.parent / "docs" / "support-matrix.md"

_HEAD: Final = """\
# Support matrix

Generated from `images/*.toml` by `python -m upkeep.support_matrix`; do not edit. *Tried*, below, says what was really
run. The other profiles are experimental: they were written from documents about the distribution, its mirrors and its
packages. Tests render and check their Containerfiles; they were never built.

`vmbox info --release $(uname -r)` says which profile a kernel belongs to. `latest` is used instead for kernels above a
profile's newest one, if the profile's image cannot be built or pulled, and if its crash does not open a dump; vmbox
then says so.
"""

_WORDS: Final = {
    Source.PACKAGE_MANAGER: "package manager",
    Source.SNAPSHOTS: "snapshots",
    Source.URLS: "archive",
    Source.REPOSITORIES: "repositories",
    Source.UNSIGNED: "build system",
    Source.DEBUGINFOD: "debuginfod",
}


def page() -> str:
    """The whole page."""
    profiles = sorted(load().values(), key=_order)
    return "\n".join(
        [_HEAD, *_table(profiles), "", "## drgn", "", *_drgn(profiles), "", "## Tried", "", *_tried(profiles), ""]
    )


def _order(profile: Profile) -> tuple[bool, str, list[int]]:
    family = profile.name.rstrip("0123456789.-")
    return (
        profile.latest,
        family,
        [int(number) for number in profile.name[len(family) :].strip("-").split(".") if number],
    )


def _table(profiles: list[Profile]) -> Iterator[str]:
    yield "| profile | kernels of | crash | newest kernel | base image | without a registry | debuginfo |"
    yield "|---|---|---|---|---|---|---|"
    for profile in profiles:
        kernels = ", ".join(f"`{one}`" for one in profile.classes) or "all others"
        base = f"`{profile.base.images[0]}`" if profile.base.images else ""
        if profile.image.unusable is not None:
            base = "not run: `latest` is used"
        bootstrap = profile.base.bootstrap.tool if profile.base.bootstrap is not None else "no"
        vendors: dict[Source, list[str]] = {}
        for place in places(profile):
            vendors.setdefault(place.source, []).extend(filter(None, [place.vendor]))
        sources = [
            f"archives of {', '.join(sorted(whose))}" if whose else _WORDS[source] for source, whose in vendors.items()
        ]
        where = "; ".join(sources) or "bring your own (`--debuginfo`)"
        newest = profile.crash.max_kernel or "any"
        yield (
            f"| `{profile.name}` {profile.title} | {kernels} | {profile.crash.version} | {newest} "
            f"| {base} | {bootstrap} | {where} |"
        )


def _drgn(profiles: list[Profile]) -> Iterator[str]:
    images = [profile for profile in profiles if profile.image.unusable is None]
    wheel = {profile.name for profile in images if "drgn-wheel" in profile.image.fragments}
    with_drgn = [profile.name for profile in images if "drgn" in profile.image.debuggers]
    yield f"* The distribution's own: {_listed(name for name in with_drgn if name not in wheel)}."
    yield (
        f"* The wheel of {wheels.load().version} (`images/drgn.toml`), by its hash, on x86_64: "
        f"{_listed(name for name in with_drgn if name in wheel)}."
    )
    for profile in images:
        if (why := profile.image.lacks.get("drgn")) is not None:
            yield f"* None in `{profile.name}`, where it runs in the image of `latest`: {why}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _tried(profiles: list[Profile]) -> Iterator[str]:
    for profile in profiles:
        if profile.tested is not None:
            yield f"* **{profile.title}**: {profile.tested}"
    rest = _listed(profile.name for profile in profiles if profile.tested is None)
    if rest:
        yield f"* Only written from documents: {rest}."


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
