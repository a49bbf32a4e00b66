"""The image of a case: the one that was selected, or the next best where that cannot be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sandbox.case.options import OpenOptions
from sandbox.debugger import Debugger
from sandbox.errors import ConfigurationError, ImageError
from sandbox.log import Log
from sandbox.progress import Reporter

if TYPE_CHECKING:
    # Imported for typing only: a warm run must not load these.
    from sandbox.engine import Engine
    from sandbox.profiles import Profile, Selection

_T = TypeVar("_T")
_log = Log("case")


def with_base(
    selection: Selection, release: str | None, options: OpenOptions, engine: Engine, reporter: Reporter
) -> Selection:
    """The selection, with a base for its image on the engine; another one where that cannot be had."""
    from sandbox import image as images

    def ensure_base(profile: Profile) -> str | None:
        if engine.image(images.reference(profile)) is not None:
            return None
        return images.ensure_base(profile, engine, reporter)

    others = _fallbacks(selection, release, options)
    return _first_available(selection, others, reporter, ensure_base)[0]


def ensure_image(
    selection: Selection, release: str | None, options: OpenOptions, engine: Engine, reporter: Reporter
) -> tuple[Profile, str]:
    """(profile, image) of the selection's crash; of the next best where that image cannot be made."""
    from sandbox import image as images

    others = _fallbacks(selection, release, options)
    used, image = _first_available(
        selection, others, reporter, lambda profile: images.ensure(profile, engine, reporter)
    )
    return used.crash_from, image


def _fallbacks(selection: Selection, release: str | None, options: OpenOptions) -> Iterator[Selection]:
    from sandbox.profiles import fallbacks

    return iter(()) if options.image is not None else fallbacks(selection, release)


def _first_available(
    selection: Selection, others: Iterator[Selection], reporter: Reporter, make: Callable[[Profile], _T]
) -> tuple[Selection, _T]:
    """(selection, what `make` makes of its profile): the first that can be made."""
    from sandbox.profiles import platforms

    while True:
        try:
            return selection, make(selection.crash_from)
        except ImageError as error:
            instead = next(others, None)
            if instead is None:
                raise
            for line in (error.detail or "").splitlines():
                _log.info("%s: %s", selection.crash_from.name, line)
            reporter.notice(f"{error.message}; {instead.reason}")
        platform = selection.crash_from.platform
        machine = None if platform is None else platforms.arch_of(platform)
        selection = replace(instead, crash_from=platforms.for_arch(instead.crash_from, machine))


def ensure_with(
    debugger: Debugger, engine: Engine, reporter: Reporter, *, first: Profile | None = None
) -> tuple[Profile, str]:
    """(profile, image): `first`, by default the newest one, which has the debugger; where its image cannot be made, the
    next best that has it. The debugger reads any kernel.
    """
    from sandbox import image as images
    from sandbox.profiles import Selection, fallbacks

    first = newest_with(debugger) if first is None else first
    selection = Selection(distribution=first, crash_from=first, reason="")
    used, image = _first_available(
        selection,
        fallbacks(selection, None, debugger=debugger.name),
        reporter,
        lambda profile: images.ensure(profile, engine, reporter),
    )
    return used.crash_from, image


def profile_with(debugger: Debugger, options: OpenOptions, reporter: Reporter) -> str:
    """The name of the profile of `ensure_with`, on the engine of `options`."""
    from sandbox.engine import connect

    engine = connect(options.engine)
    try:
        return ensure_with(debugger, engine, reporter)[0].name
    finally:
        engine.close()


def newest_with(debugger: Debugger) -> Profile:
    """The newest profile, which has the debugger. Raises `ConfigurationError` where it has not."""
    from sandbox.profiles import load

    for profile in load().values():
        if profile.latest and debugger.name in profile.image.debuggers:
            return profile
    raise ConfigurationError(f"the newest profile has no {debugger.name}", hint="name one that has: --image PROFILE")
