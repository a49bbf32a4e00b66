"""`vmbox info`: what a dump contains about itself, and what vmbox would do with it. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from sandbox import render
from sandbox.dump import header_only, is_partly_searched
from sandbox.dump.reader import reads_memory
from sandbox.dump.release import UNKNOWN, classify, of_release
from sandbox.errors import ConfigurationError, UnknownKernel, VmboxError, pasteable
from sandbox.host import config, paths, standard_input
from sandbox.model import DumpFormat, Vmcore, key_of
from sandbox.profiles import Profile, select
from sandbox.remote.places import DESCRIBED

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

_USUAL = ("x86_64", "aarch64", "ppc64le", "s390x")
"""Machines with which releases of RPM distributions end, the most frequent first."""


def show(path: Path, *, json: bool, unpack: bool = False, download: bool = False, engine: str | None = None) -> None:
    """`vmbox info`: identifies a dump, of this host or of that of an `engine` elsewhere, and prints what is known."""
    if download:
        from sandbox.remote import described

        path = described.download(path, render.reporter(quiet=False))
    if str(path) == "-" and engine is None:
        with standard_input.as_file() as file:
            vmcore = _identified_here(file, unpack=unpack)
            # A copy is gone when this has ended.
            shown = replace(vmcore, path=path) if file.name == standard_input.NAME else vmcore
            _print(shown, log_remark(vmcore), json=json)
    elif engine is None:
        vmcore = _identified_here(path, unpack=unpack)
        _print(vmcore, log_remark(vmcore), json=json)
    else:
        _print(_identified_there(path, engine), None, json=json)


def _print(vmcore: Vmcore, remark: str | None, *, json: bool) -> None:
    if json:
        render.as_json(describe(vmcore, remark))
    else:
        render.facts(facts(vmcore, remark))


def log_remark(vmcore: Vmcore) -> str | None:
    """What to know of the panic of a log without its dump, e.g. that a program could have written it.

    A dump's own log says who wrote a line.
    """
    if vmcore.format is not DumpFormat.LOG or vmcore.panic is None:
        return None
    from sandbox.case.dumps import witness
    from sandbox.judge import log

    try:
        return log.log_remark(vmcore, witness(vmcore.path, vmcore, unpacked=paths.unpacked_dir()).kernel)
    except VmboxError:
        return None


def _identified_here(path: Path, *, unpack: bool) -> Vmcore:
    from sandbox.case.dumps import identify_inside_of

    # With what only the whole dump tells: where that needs no unpacking, or was done, or is asked for.
    return identify_inside_of(path, render.reporter(quiet=False), unpacking=unpack)


def _identified_there(path: Path, engine: str) -> Vmcore:
    from contextlib import closing

    from sandbox.case.on_engine_host import identify
    from sandbox.engine import connect
    from sandbox.model import REMOTE_SCHEMES

    if not engine.startswith(REMOTE_SCHEMES):
        raise ConfigurationError(
            f"{engine} is of this host, whose dumps are read without an engine", hint="leave it out"
        )
    with closing(connect(engine)) as connected:
        return identify(path, connected, render.reporter(quiet=False))


def show_schema() -> None:
    """`vmbox info --schema`: the JSON schema of what `vmbox info --json` prints."""
    from importlib.resources import files
    from json import loads

    render.as_json(loads(files("sandbox.dump").joinpath("vmcore.schema.json").read_text(encoding="utf-8")))


def show_release(release: str, utsname_version: str | None, *, json: bool) -> None:
    """`vmbox info --release`: the same for a bare string, before any dump has arrived."""
    kernel = of_release(release, utsname_version)
    values: dict[str, object] = {"release": release, "utsname_version": utsname_version, **_class_of(kernel)}
    try:
        selection = select(kernel)
    except UnknownKernel:
        values |= {"profile": None, "crash": None, "debuginfo": [], "sources": [], "signed": None, "unpublished": None}
    else:
        packages, sources = _debuginfo_of(kernel, selection.distribution)
        rules = selection.distribution.debuginfo
        values |= {
            "profile": selection.crash_from.name,
            "crash": selection.crash_from.crash.version,
            "debuginfo": packages,
            "sources": sources,
            "signed": rules.signed if rules is not None else None,
            "unpublished": rules.why_unpublished(kernel) if rules is not None else None,
        }
    if json:
        render.as_json(values)
        return
    words = {"release": "RELEASE", "class": "CLASS", "variant": "VARIANT", "profile": "PROFILE", "crash": "CRASH"}
    known = {**values, "class": _both(values["class"], values["also"])}
    shown = [(word, str(known[name])) for name, word in words.items() if known[name] is not None]
    for name, word in (("debuginfo", "DEBUGINFO"), ("sources", "FROM")):
        found = values[name]
        if isinstance(found, list):
            shown += [(word, str(item)) for item in found]
    if values["unpublished"] is not None:
        shown.append(("UNPUBLISHED", str(values["unpublished"])))
    if values["signed"] is False and values["sources"]:
        # VMCOREINFO has no build-id of kernels before 5.9.
        by = "build-id, or banner where the dump has none, and TLS"
        shown.append(("CHECKED", f'{by}: the packages are not signed, and verify = "strict" refuses them'))
    render.facts(shown)
    if values["class"] == UNKNOWN and (machine := _machine_that_is_missing(release, utsname_version)):
        render.note(f"hint: uname -r of it ends with the machine: vmbox info --release {release}.{machine}")


def _both(klass: object, also: object) -> object:
    return klass if also is None else f"{klass}, or {also}: uname -v tells (--utsname-version)"


def _machine_that_is_missing(release: str, utsname_version: str | None) -> str | None:
    """The first machine with which a release is known; None if there is none."""
    named = ((machine, classify(f"{release}.{machine}", utsname_version)) for machine in _USUAL)
    return next((machine for machine, kernel in named if kernel.klass != UNKNOWN), None)


def _debuginfo_of(kernel: Vmcore, home: Profile) -> tuple[list[str], list[str]]:
    """Packages with the kernel's debuginfo, and what `run` would ask for them, in that order. No server is asked.

    What only a dump, or uname -v, tells stays in its braces; a package's version is left out then.
    """
    from sandbox.debuginfo.lookup import banner_decides
    from sandbox.debuginfo.package_names import package_names
    from sandbox.debuginfo.urls import (
        Candidate,
        PackageSources,
        Repository,
        Source,
        VersionedRepositories,
        questions,
    )

    known = replace(kernel, build_id=kernel.build_id or "{build-id}")
    found = package_names(known, home, placeholders=True)
    sources: list[str] = []
    for source in Source:
        for question in questions(source, home, known, found, banner_decides=banner_decides(known, home)):
            match question:
                case PackageSources():
                    sources += question.lines
                case Repository():
                    sources.append(question.url)
                case VersionedRepositories():
                    sources += (question.index, *question.urls)
                case Candidate():
                    owner = f"{question.vendor}: " if question.vendor is not None else ""
                    sources.append(f"{owner}{question.remote.url}")
    packages = found.packages if found is not None else ()
    return [name.partition("=")[0] if "{" in name else name for name in packages], list(dict.fromkeys(sources))


def _class_of(vmcore: Vmcore) -> dict[str, object]:
    kernel = classify(vmcore.release, vmcore.utsname_version) if vmcore.release else None
    if kernel is None:
        return {"class": None, "also": None, "variant": None}
    return {"class": kernel.klass, "also": kernel.also, "variant": kernel.variant or None}


def describe(vmcore: Vmcore, remark: str | None = None) -> dict[str, object]:
    """Everything `vmbox info --json` prints. Unknown is None. `remark` is that of its log."""
    values: dict[str, object] = {
        key_of(item): getattr(vmcore, item.name) for item in fields(vmcore) if item.name != "vmcoreinfo"
    }
    values["path"] = _name(vmcore.path)
    values["log_remark"] = remark
    origins = dict(vmcore.origins)
    values |= _class_of(vmcore)
    origins |= {name: "release" for name in ("class", "also", "variant") if values[name] is not None}
    values["profile"] = _profile(vmcore)
    values["debuginfo"] = _debuginfo_here(vmcore)
    values["origins"] = origins
    return values


def facts(vmcore: Vmcore, remark: str | None = None) -> Iterator[tuple[str, str]]:
    """The same for people, in the words of crash's `sys`; what is unknown is left out."""
    yield "DUMPFILE", _name(vmcore.path)
    if vmcore.member is not None:
        yield "MEMBER", vmcore.member
    for name, word in _WORDS.items():
        value = getattr(vmcore, name)
        if name == "format" and vmcore.flattened:
            value = f"{value}, flattened"
        if value is not None:
            yield word, str(value)
    if not reads_memory(vmcore.format) and (opened_by := header_only.OPENED_BY.get(vmcore.format)) is not None:
        yield "OPENED BY", opened_by.replace("THIS", pasteable(_name(vmcore.path)))
    if remark is not None:
        yield "REMARK", remark
    if vmcore.crash_time is not None:
        yield "DATE", f"{vmcore.crash_time:%a %b %e %H:%M:%S UTC %Y}"
    if vmcore.uptime_seconds is not None:
        hours, rest = divmod(int(vmcore.uptime_seconds), 3600)
        yield "UPTIME", f"{hours // 24} days, {hours % 24:02}:{rest // 60:02}:{rest % 60:02}"
    if vmcore.taint:
        yield "TAINT", "; ".join(vmcore.taint)
    yield "SIZE", render.size(vmcore.size)
    if vmcore.excerpt is not None:
        yield "EXCERPT", vmcore.excerpt
    if vmcore.dump_level is not None:
        yield "DUMP LEVEL", str(vmcore.dump_level)
    yield "COMPRESSION", vmcore.compression or ""
    if vmcore.complete is not None:
        yield "COMPLETE", "yes" if vmcore.complete else f"no: {vmcore.incomplete_reason}"
    if vmcore.skipped is not None:
        yield "NOT READ", f"{vmcore.skipped}{_way_to_read(vmcore)}"
    try:
        selection = select(vmcore)
    except UnknownKernel as error:
        yield "PROFILE", f"none knows this kernel; {error.hint}"
    else:
        home, image = selection.distribution.name, selection.crash_from.name
        yield "PROFILE", home if home == image else f"{image}, with the debuginfo of {home}"

    if (here := _debuginfo_here(vmcore)) is not None:
        yield "DEBUGINFO", here["vmlinux"]
        yield "AGREES", here["proof"]
        yield "FROM", here["origin"]
        yield "CHECKED", here["verified"]


def _way_to_read(vmcore: Vmcore) -> str:
    """What reads the part of a dump that was not read."""
    if vmcore.wrappers:
        return "; vmbox info --unpack does that, once"
    if not is_partly_searched(vmcore):
        return ""
    there = vmcore.path.parent.suffix == DESCRIBED
    return "; vmbox info --download downloads it" if there else "; vmbox info --unpack searches all of it"


def _name(path: Path) -> str:
    if path.parent.suffix != DESCRIBED:
        return str(path)
    from sandbox.remote import described

    return described.name(path)


def _debuginfo_here(vmcore: Vmcore) -> dict[str, str] | None:
    """The vmlinux that the dump's open case uses, or that is in the cache; None while there is none."""
    from sandbox.case.store import find

    config.current()  # what is wrong with the settings is said
    try:
        cache = paths.cache_dir()
        try:
            case = find(vmcore.path)
        except OSError:
            case = None
    except ConfigurationError:
        return None  # of another user: the dump itself is read without these places
    if case is not None and case.vmlinux is not None:
        from sandbox.case.store import about_debuginfo

        return about_debuginfo(case)
    from sandbox.debuginfo.lookup import peek

    try:
        home = select(vmcore).distribution
    except UnknownKernel:
        home = None
    try:
        found = peek(vmcore, home, cache)
    except ConfigurationError:
        return None  # of another user, as above
    if found is None:
        return None
    return {
        "vmlinux": str(found.vmlinux),
        "proof": found.proof,
        "origin": found.origin,
        "verified": found.verification_detail,
        "check": found.verification,
    }


def _profile(vmcore: Vmcore) -> str | None:
    try:
        return select(vmcore).crash_from.name
    except UnknownKernel:
        return None
