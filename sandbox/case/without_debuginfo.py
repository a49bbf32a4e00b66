"""Dumps that are read without debuginfo: where the user says so, none is found, or it is still on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.case import arrival, store
from sandbox.case.available_image import ensure_with, newest_with
from sandbox.case.options import OpenOptions
from sandbox.case.provision import Provisioned, provision
from sandbox.debugger import DEBUGGERS
from sandbox.errors import DebuginfoNotFound, DownloadFailed
from sandbox.host import paths
from sandbox.progress import Reporter

if TYPE_CHECKING:
    # Imported for typing only: a warm run must not load these.
    from sandbox.engine import Engine
    from sandbox.model import Vmcore
    from sandbox.profiles import Profile, Selection

_PATIENCE: Final = 2.0
"""Seconds in which debuginfo may arrive, or turn out not to be had, before a dump is read without. Packages of tens of
megabytes take longer from nearly everywhere; that there is none is often known sooner."""

_WITHOUT: Final = (
    "the dump is read by the BTF, kallsyms and ORC that its kernel has of itself, "
    "with no source lines, inline frames and local variables"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutDebuginfo:
    """All that a case without debuginfo needs beside the dump."""

    image: str
    profile: Profile
    reason: str
    """Why there is none, in words."""
    awaited: bool = False
    """Whether it is on its way; see `sandbox.case.arrival`."""


def provision_or_without(
    vmcore: Vmcore, selection: Selection, options: OpenOptions, engine: Engine, reporter: Reporter
) -> Provisioned | WithoutDebuginfo:
    """As `provision`; where there is no debuginfo, or the user wants none, an image that opens the dump without."""
    if options.no_debuginfo:
        return _without(options.no_debuginfo_reason, options, engine, reporter)
    may = _may_do_without(vmcore, options)
    try:
        if may and options.early and _is_far(vmcore, selection, engine) and _is_awaited(vmcore, engine):
            return _without("it is still on its way", options, engine, reporter, awaited=True)
        return provision(vmcore, selection, options, engine, reporter)
    except (DebuginfoNotFound, DownloadFailed) as error:
        if not may:
            raise
        hint = f"\nhint: {error.hint}" if error.hint else ""
        reporter.notice(f"{error.message}: {_WITHOUT}{hint}")
        return _without(error.message, options, engine, reporter)


def _may_do_without(vmcore: Vmcore, options: OpenOptions) -> bool:
    """Whether a dump that there is no debuginfo of may be read without, unasked."""
    return (
        not options.needs_debuginfo()
        and options.debuginfo is None
        and len(vmcore.files) < 2
        and vmcore.arch in {"x86_64", "aarch64"}  # of others no dump was tried
    )


def _is_far(vmcore: Vmcore, selection: Selection, engine: Engine) -> bool:
    """Whether debuginfo has to be fetched, while the image that reads the dump without is at hand."""
    from sandbox import image as images
    from sandbox.case import self_contained
    from sandbox.debuginfo import local
    from sandbox.debuginfo.lookup import peek

    return (
        not engine.info().remote
        and engine.image(images.reference(_at_hand_or_newest(engine))) is not None
        and peek(vmcore, selection.distribution, paths.cache_dir()) is None
        and not self_contained.is_there(vmcore, engine)
        and next(iter(local.beside(vmcore.path, vmcore.release)), None) is None
    )


def _is_awaited(vmcore: Vmcore, engine: Engine) -> bool:
    """Whether debuginfo is on its way, from now on or already; not when it arrives at once. Raises why it does not."""
    ident = store.ident(vmcore.path, engine.info())
    arrival.start(ident, vmcore.path, engine.info().endpoint)
    stage = arrival.wait(ident, _PATIENCE)
    if stage is not arrival.Stage.FETCHING:
        # Also when the process was killed: then this one fetches, and says what is wrong.
        failed = arrival.error(ident)
        arrival.end(ident)
        if failed is not None:
            raise failed
    return stage is arrival.Stage.FETCHING


_DEBUGGER: Final = next(one for one in DEBUGGERS.values() if not one.needs_debuginfo)


def _at_hand_or_newest(engine: Engine) -> Profile:
    """The profile whose image reads dumps without debuginfo: the newest, or another one that is at hand where the
    newest is not, e.g. the one that was made in its place.
    """
    from sandbox import image as images
    from sandbox.profiles import load

    newest = newest_with(_DEBUGGER)
    able = [one for one in load().values() if _DEBUGGER.name in one.image.debuggers]
    past = newest.of_the_past()
    known = [newest, *able, *([] if past is None else [past])]
    return next((one for one in known if engine.image(images.reference(one)) is not None), newest)


def _without(
    reason: str, options: OpenOptions, engine: Engine, reporter: Reporter, *, awaited: bool = False
) -> WithoutDebuginfo:
    from sandbox import image as images
    from sandbox.profiles import by_name

    if options.image is not None:
        profile = by_name(options.image)
        image = images.ensure(profile, engine, reporter)
    else:
        profile, image = ensure_with(_DEBUGGER, engine, reporter, first=_at_hand_or_newest(engine))
    return WithoutDebuginfo(image=image, profile=profile, reason=reason, awaited=awaited)
