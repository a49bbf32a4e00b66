"""Dumps that are read without debuginfo: where the user says so, and where none is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.case.options import OpenOptions
from sandbox.case.provision import Provisioned, newest_with, provision
from sandbox.debugger import DEBUGGERS
from sandbox.errors import DebuginfoNotFound, DownloadFailed
from sandbox.progress import Reporter

if TYPE_CHECKING:
    # Imported for typing only: a warm run must not load these.
    from sandbox.engine import Engine
    from sandbox.model import Vmcore
    from sandbox.profiles import Profile, Selection

_ASKED: Final = "--no-debuginfo"

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


def provision_or_without(
    vmcore: Vmcore, selection: Selection, options: OpenOptions, engine: Engine, reporter: Reporter
) -> Provisioned | WithoutDebuginfo:
    """As `provision`; where there is no debuginfo, or the user wants none, an image that opens the dump without."""
    if options.no_debuginfo:
        return _without(_ASKED, options, engine, reporter)
    try:
        return provision(vmcore, selection, options, engine, reporter)
    except (DebuginfoNotFound, DownloadFailed) as error:
        if not _may_do_without(vmcore, options):
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
        and vmcore.arch == "x86_64"  # of others no dump was tried
    )


def _without(reason: str, options: OpenOptions, engine: Engine, reporter: Reporter) -> WithoutDebuginfo:
    from sandbox import image as images
    from sandbox.profiles import by_name

    debugger = next(one for one in DEBUGGERS.values() if not one.needs_debuginfo)
    profile = by_name(options.image or newest_with(debugger))
    return WithoutDebuginfo(image=images.ensure(profile, engine, reporter), profile=profile, reason=reason)
