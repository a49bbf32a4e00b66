"""Checks what the profiles say against the world, and asks the registries for the digests of base images.

    tools/probe-profiles [--output FILE] [--page FILE] [--pin] [--again] [--loopback] [PROFILE …]

Needs the Internet, and asks each host once a second. For each profile: that its base images have a manifest, that its
package sources are there and signed, that they have crash in the version that the profile names, and that one of its
places has the debuginfo of its oldest, a middle and its newest kernel that the tests know, signed by its keys. A line
for each place goes to standard output or FILE: profile, kind, kernel, answer, URL. A page for people is written to
docs/probed.md, if all profiles are asked.

Answers of the last day are not asked again, so that a probe that was ended goes on: they are in .cache/probe.jsonl.
That a host could not be reached is no answer. Ctrl-C ends it with 130. With --pin, digests of base images are written
to images/digests.toml, so that a tag that moves does not change what is built, and into images/latest.toml the day on
which its suite was seen to be good. Mirrors of the user's settings are used. With --loopback the tests' mirrors are
asked, on this host, and nothing else. Exit status 1: something is in none of its places.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from sandbox.host import mirrors
from sandbox.profiles import Profile, load
from upkeep import probed_page
from upkeep.asking import Asker, Pace, Seen, is_suite
from upkeep.probe_memory import Memory
from upkeep.probes import Kind, Probe, probes

ROOT: Final = Path(__file__).resolve().parent.parent
DIGESTS: Final = ROOT / "images" / "digests.toml"
LATEST: Final = ROOT / "images" / "latest.toml"
PAGE: Final = ROOT / "docs" / "probed.md"
MEMORY: Final = ROOT / ".cache" / "probe.jsonl"


def pin(seen: Iterable[Seen], file: Path = DIGESTS) -> None:
    """Writes the digests of base images, under the references of the profiles; other pinned digests are kept."""
    digests = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    digests |= {one.probe.url: one.said for one in seen if one.good and one.probe.kind is Kind.BASE}
    _pin_snapshot(seen)
    known = _HEAD + "".join(f'"{ref}" = "{digest}"\n' for ref, digest in sorted(digests.items()))
    file.write_text(known, encoding="utf-8")


def _pin_snapshot(seen: Iterable[Seen]) -> None:
    """Writes today into the day of the newest crash's suite, if that has the crash that its profile names."""
    latest = next(profile for profile in load().values() if profile.latest)
    good = {one.probe.kind for one in seen if one.good and one.probe.profile == latest.name}
    if {Kind.PACKAGES, Kind.CRASH} <= good:
        text = LATEST.read_text(encoding="utf-8")
        today = datetime.now(UTC)
        LATEST.write_text(re.sub(r"(?m)(^snapshot = .*/)\d{8}T", rf"\g<1>{today:%Y%m%d}T", text), encoding="utf-8")


_HEAD: Final = """\
# Digests of base images, by reference, as of the last look-up. Written by tools/probe-profiles --pin. A reference that
# is not here is pulled by its tag.
"""


def gone(seen: Iterable[Seen]) -> list[str]:
    """What is in none of its places, one line each."""
    found: dict[tuple[str, str, str], list[Seen]] = {}
    for one in seen:
        found.setdefault((one.probe.profile, str(one.probe.kind), one.probe.release), []).append(one)
    return [
        f"{profile}: {'nothing has' if any(one.reached for one in asked) else 'no place could be reached that has'} "
        f"its {kind}{f' of {release}' if release else ''}"
        for (profile, kind, release), asked in sorted(found.items(), key=lambda item: item[0])
        if not any(one.good for one in asked)
    ]


def probe_all(asked: list[Probe], memory: Memory, *, seconds: float) -> list[Seen]:
    """Ask everything that is not remembered, each host at its pace; every answer is remembered as it arrives.

    Suites of a Debian archive are asked for a kernel until one has it: their lists of packages have many megabytes.
    """
    with httpx.Client(timeout=30, follow_redirects=True) as client, ThreadPoolExecutor(8) as pool:
        pace = Pace(seconds)
        asker = Asker(client, pace)

        def one_by_one(probes: list[Probe]) -> list[Seen]:
            seen: list[Seen] = []
            for probe in probes:
                seen.append(memory.find(probe) or memory.add(asker.ask(probe)))
                if seen[-1].good:
                    break
            return seen

        try:
            return [one for seen in pool.map(one_by_one, _tasks(asked)) for one in seen]
        finally:
            # The pool waits for what its threads do: a suite's lists have megabytes, and a task may be of many suites.
            pace.end()


def _tasks(asked: Iterable[Probe]) -> list[list[Probe]]:
    """Probes of which one after the other is asked until one is good; most stand alone."""
    tasks: dict[object, list[Probe]] = {}
    for probe in asked:
        together = probe.kind is Kind.DEBUGINFO and is_suite(probe.url)
        tasks.setdefault((probe.profile, probe.release) if together else (probe,), []).append(probe)
    return list(tasks.values())


@contextmanager
def _loopback(options: argparse.Namespace) -> Iterator[None]:
    """The tests' mirrors in place of all hosts. Without them, this program needs nothing of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from probe_mirrors import PROFILES, probe_mirrors  # type: ignore[import-not-found,unused-ignore]

    with probe_mirrors() as directory:
        options.profiles = options.profiles or list(PROFILES)
        options.memory, options.seconds = directory / "probe.jsonl", 0.0
        yield


@contextmanager
def _world(options: argparse.Namespace) -> Iterator[None]:
    if not options.loopback:
        yield
        return
    with _loopback(options):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Check what the profiles say against the world.")
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")
    parser.add_argument("--output", type=Path, help="where the lines go; standard output otherwise")
    parser.add_argument("--page", type=Path, help="where the page goes; docs/probed.md if all profiles are asked")
    parser.add_argument("--pin", action="store_true", help="write images/digests.toml")
    parser.add_argument("--pin-to", type=Path, default=DIGESTS, help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help="ask also what was answered in the last day")
    parser.add_argument("--memory", type=Path, default=MEMORY, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--loopback", action="store_true", help="ask the tests' mirrors, on this host")
    options = parser.parse_args()
    try:
        return _main(parser, options)
    except KeyboardInterrupt:
        on = "" if options.loopback else ": the same command goes on from here"
        sys.stderr.write(f"stopped{on}\n")
        return 130


def _main(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    with _world(options):
        chosen = [profile for name, profile in load().items() if not options.profiles or name in options.profiles]
        if unknown := sorted(set(options.profiles) - {profile.name for profile in chosen}):
            parser.error(f"there is no profile {', '.join(unknown)}")
        return _probe(chosen, options)


def _probe(chosen: list[Profile], options: argparse.Namespace) -> int:
    asked = [probe for profile in chosen for probe in probes(profile)]
    with Memory(options.memory, forget=options.again) as memory:
        seen = probe_all(asked, memory, seconds=options.seconds)
    lines = "".join(f"{_line(one)}\n" for one in seen)
    if options.output is not None:
        options.output.write_text(lines, encoding="utf-8")
    else:
        sys.stdout.write(lines)
    if options.pin:
        pin(seen, options.pin_to)
    lacking = gone(seen)
    page = options.page or (None if options.profiles else PAGE)
    if page is not None:
        page.write_text(probed_page.page(seen, lacking), encoding="utf-8")
    sys.stderr.write("".join(f"{line}\n" for line in lacking))
    return 1 if lacking else 0


def _line(one: Seen) -> str:
    probe = one.probe
    good = "" if one.good else "no: "
    return "\t".join((probe.profile, probe.kind, probe.release, f"{good}{one.said}", mirrors.rewrite(probe.url)))


if __name__ == "__main__":
    sys.exit(main())
