"""All that a case needs beside the dump: image and debuginfo, got ready side by side."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandbox.case import store
from sandbox.case.available_image import ensure_image, newest_with, with_base
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS
from sandbox.errors import (
    DebuginfoError,
    EmulationMissing,
    EngineError,
    EngineNotFound,
    VmboxError,
)
from sandbox.host import paths
from sandbox.host.background import in_background
from sandbox.log import Log
from sandbox.model import DumpFormat
from sandbox.progress import QUIET, Reporter, Stoppable

if TYPE_CHECKING:
    # Imported for typing only: a warm run must not load these.
    from concurrent.futures import Future

    from sandbox.debuginfo import GdbIndexBuilder, RemotePackage
    from sandbox.engine import Engine
    from sandbox.model import Debuginfo, Vmcore
    from sandbox.profiles import Profile, Selection

    _Query = Callable[[Profile, Sequence[str], Sequence[str]], Iterable[RemotePackage]]

_T = TypeVar("_T")
_log = Log("case")


def prefetch(
    vmcore: Vmcore, options: OpenOptions, reporter: Reporter = QUIET, *, always_index: bool = True
) -> tuple[str, Debuginfo]:
    """Image and debuginfo for a dump that may not be here yet; `always_index` as of `provision`."""
    from sandbox.engine import connect
    from sandbox.profiles import select

    vmcore = with_machine(vmcore, reporter)
    engine = connect(options.engine)
    try:
        selection = select(vmcore, override=options.image)
        ready = provision(vmcore, selection, options, engine, reporter, always_index=always_index)
        return ready.image, ready.debuginfo
    finally:
        engine.close()


def with_machine(kernel: Vmcore, reporter: Reporter) -> Vmcore:
    """A kernel that was given by a release such as Ubuntu's, which names no machine: of this host's, and that is said.

    The packages of these distributions are named after it, so that none could be asked for.
    """
    if kernel.format is not DumpFormat.RELEASE or kernel.arch is not None:
        return kernel
    reporter.notice(f"{kernel.release} names no machine: that of this host, {platform.machine()}, is assumed")
    return replace(kernel, arch=platform.machine())


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """All that a case needs beside the dump."""

    image: str
    profile: Profile
    """The profile of the crash in the image."""
    debuginfo: Debuginfo


def provision(
    vmcore: Vmcore,
    selection: Selection,
    options: OpenOptions,
    engine: Engine,
    reporter: Reporter,
    *,
    rebuild: bool = False,
    always_index: bool = False,
) -> Provisioned:
    """Gets image and debuginfo: a self-contained image that has both (unless `rebuild`), or each from its sources.

    Those are fetched at the same time: one is bound by the processor, the other by the network. A vmlinux that is
    fetched gets an index where its crash gains from it, or with `always_index`.
    """
    from sandbox import image as images
    from sandbox.case.package_query import ContainerPackageQuery
    from sandbox.debuginfo import locate
    from sandbox.debuginfo.lookup import peek
    from sandbox.profiles import platforms

    machine = platforms.foreign_arch(vmcore.arch, engine.info())
    if machine is not None:
        options, selection = _native(machine, options, selection, engine, reporter)
    if not options.native:
        selection = replace(
            selection,
            crash_from=platforms.for_arch(selection.crash_from, platforms.require_emulation(machine, engine.info())),
        )
    # A self-contained image of another machine has programs of that machine, and no others.
    self_contained = not rebuild and not (options.native and machine is not None)
    fetching = peek(vmcore, selection.distribution, paths.cache_dir()) is None
    made = engine.image(images.reference(selection.crash_from)) is not None
    if self_contained:
        # What is to be fetched or built may be in an image of another name.
        by_label = fetching or not made
        found = _self_contained(vmcore, selection, options, engine, reporter, by_label=by_label)
        if found is not None:
            return found
    if selection.crash_from.platform is not None:
        reporter.notice(f"the dump is of {machine}: its crash runs under emulation, which is slow")
    # Which crash it is does not matter where none can read the dump.
    by_crash = options.image is None and not (options.native and machine is not None)
    if by_crash and (selection.crash_from.latest or selection.distribution.image.unusable is not None):
        reporter.notice(selection.reason)
    # Both may need the same base first; made once, before they part.
    if not made:
        reporter.notice(f"the image {selection.crash_from.name} is made first, which takes minutes, once on this host")
        selection = with_base(selection, vmcore.release, options, engine, reporter)
    stoppable = Stoppable(reporter)
    building = in_background(lambda: ensure_image(selection, vmcore.release, options, engine, stoppable), name="image")
    index = always_index or selection.crash_from.crash.gains_from_index
    try:
        try:
            debuginfo = locate(
                vmcore,
                selection.distribution,
                package_query=ContainerPackageQuery(selection.distribution, engine, reporter, machine=machine),
                given=options.debuginfo,
                force=options.force,
                reporter=reporter,
                gdb_index_builder=_indexer(engine, reporter, soon=fetching) if index else None,
                in_use=store.debuginfo_in_use,
            )
        except DebuginfoError as error:
            if not building.done():
                # A second try needs the image.
                reporter.notice(f"{error.message}; the image is finished first, and kept")
            with suppress(VmboxError):
                building.result()
            raise
        profile, image = building.result()
    except KeyboardInterrupt:
        _end(building, stoppable, engine)
        raise
    _log.info("image %s with the crash of %s", image, profile.name)
    return Provisioned(image=image, profile=profile, debuginfo=debuginfo)


def _native(
    machine: str, options: OpenOptions, selection: Selection, engine: Engine, reporter: Reporter
) -> tuple[OpenOptions, Selection]:
    """Both with programs of the engine's own machine, for a dump of another one, where a debugger that reads any is to
    answer: the user asked for it, or asked for none and this host does not run the crash of `machine`.
    """
    from sandbox.profiles import platforms

    if options.native:
        return options, selection
    if options.debugger is None:
        try:
            platforms.require_emulation(machine, engine.info())
        except EmulationMissing as error:
            debugger = next(one for one in DEBUGGERS.values() if one.reads_any_arch)
            reporter.notice(f"{error.message}; {debugger.name} needs no emulation. For crash: {error.hint}")
        else:
            return options, selection
    else:
        debugger = DEBUGGERS[options.debugger]
        if not debugger.reads_any_arch:
            return options, selection
    if debugger.name not in selection.crash_from.image.debuggers and options.image is None:
        selection = replace(selection, crash_from=newest_with(debugger))
    return replace(options, native=True), selection


_NEXT_LINE = 1.0
"""Seconds in which a build that is not stuck prints a line."""
_ENDING = 10.0
"""Seconds; a second Ctrl-C does not wait so long."""


def _end(building: Future[_T], stoppable: Stoppable, engine: Engine) -> None:
    """End a build after Ctrl-C, so that it removes what it made. A process that just ends leaves it on the engine."""
    stoppable.stop()
    with suppress(Exception):
        building.result(timeout=_NEXT_LINE)
    # It waits, e.g. for a package: its next line may never come. So may that of the image which indexes a vmlinux.
    with suppress(Exception):
        engine.interrupt_builds()
    with suppress(Exception):
        building.result(timeout=_ENDING)


def _indexer(engine: Engine, reporter: Reporter, *, soon: bool) -> GdbIndexBuilder:
    """Returns what indexes a vmlinux on this host: an engine of this host, if there is one.

    With `soon` its image is made from now on, while vmlinux is being fetched.
    """
    from sandbox.case.gdb_index import gdb_image, gdb_index_builder
    from sandbox.engine import EngineName, connect

    if not engine.info().remote:
        making = in_background(lambda: gdb_image(engine, reporter), name="gdb image") if soon else None
        return gdb_index_builder(engine, reporter, made=None if making is None else making.result)

    def make_index(vmlinux: Path, directory: Path) -> None:
        for name in EngineName:
            with suppress(EngineError), closing(connect(name)) as here:
                if here.info().local:
                    gdb_index_builder(here, reporter)(vmlinux, directory)
                    return
        raise EngineNotFound("no engine of this host indexes vmlinux", hint="crash starts without an index, slower")

    return make_index


def _self_contained(
    vmcore: Vmcore,
    selection: Selection,
    options: OpenOptions,
    engine: Engine,
    reporter: Reporter,
    *,
    by_label: bool,
) -> Provisioned | None:
    if options.debuginfo is not None or options.force:
        return None
    from sandbox.case import self_contained
    from sandbox.engine import labels
    from sandbox.profiles import load

    platform = selection.crash_from.platform
    found = self_contained.find(vmcore, engine, reporter, platform=platform, by_label=by_label)
    if found is None:
        _log.debug("no self-contained image of this kernel")
        return None
    image, debuginfo = found
    _log.info("self-contained image %s: %s", image.id, debuginfo.proof)
    inside = image.labels.get(labels.PROFILE, "")
    if options.image is not None and inside != selection.crash_from.name:
        return None
    # A profile of the user's that made the image may not be on this host.
    profile = load().get(inside, selection.crash_from)
    # One that came from a registry goes by the registry's name as well.
    ref = next((tag for tag in image.tags if tag.startswith("localhost/")), image.id)
    return Provisioned(image=ref, profile=profile, debuginfo=debuginfo)


def find_debuginfo(
    vmcore: Vmcore, options: OpenOptions, reporter: Reporter = QUIET, *, index: bool = True
) -> Debuginfo:
    """Debuginfo alone, without an image; and without an engine where none answers and none is needed.

    A vmlinux gets an index, unless `index` is false: only crash gains from it.
    """
    from sandbox.debuginfo import locate
    from sandbox.debuginfo.lookup import peek
    from sandbox.profiles import select

    if not index and options.debuginfo is None:
        home = select(vmcore, override=options.image).distribution
        if (found := peek(vmcore, home, paths.cache_dir())) is not None:
            return found

    with debuginfo_helpers(options, reporter, machine=vmcore.arch) as (package_query, gdb_index_builder):
        home = select(vmcore, override=options.image).distribution
        return locate(
            vmcore,
            home,
            package_query=lambda packages, sources: package_query(home, packages, sources),
            given=options.debuginfo,
            force=options.force,
            reporter=reporter,
            gdb_index_builder=gdb_index_builder if index else None,
            in_use=store.debuginfo_in_use,
        )


@contextmanager
def debuginfo_helpers(
    options: OpenOptions, reporter: Reporter = QUIET, *, machine: str | None = None
) -> Iterator[tuple[_Query, GdbIndexBuilder | None]]:
    """Yields what an engine does for debuginfo: package queries and the index of vmlinux. Without one, neither is done.

    `machine` is the dump's.
    """
    from sandbox.case.gdb_index import gdb_index_builder
    from sandbox.case.package_query import ContainerPackageQuery
    from sandbox.engine import connect

    try:
        engine = connect(options.engine)
    except EngineError as error:
        if options.engine is not None:
            raise
        reporter.notice(f"{error.message}; so no package manager is asked, and vmlinux is not indexed")
        yield (lambda _profile, _packages, _sources: ()), None
        return
    other = None if machine == engine.info().arch else machine
    try:
        yield (
            lambda profile, packages, sources: ContainerPackageQuery(profile, engine, reporter, machine=other)(
                packages, sources
            ),
            gdb_index_builder(engine, reporter),
        )
    finally:
        engine.close()
