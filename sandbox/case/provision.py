"""All that a case needs beside the dump: image and debuginfo, got ready side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandbox.case import store
from sandbox.case.options import OpenOptions
from sandbox.errors import EngineError, EngineNotFound, ImageError
from sandbox.host import paths
from sandbox.progress import QUIET, Reporter

if TYPE_CHECKING:
    # Whoever asks only for the wishes, as a warm run does, needs none of these.
    from concurrent.futures import Future

    from sandbox.debuginfo import GdbIndexBuilder, RemotePackage
    from sandbox.engine import Engine
    from sandbox.model import Debuginfo, Vmcore
    from sandbox.profiles import Profile, Selection

    _Query = Callable[[Profile, Sequence[str]], Iterable[RemotePackage]]

T = TypeVar("T")


def prefetch(vmcore: Vmcore, wishes: OpenOptions, reporter: Reporter = QUIET) -> tuple[str, Debuginfo]:
    """Image and debuginfo for a dump that may not be here yet."""
    from sandbox.engine import connect
    from sandbox.profiles import select

    engine = connect(wishes.engine)
    try:
        ready = provision(vmcore, select(vmcore, override=wishes.image), wishes, engine, reporter)
        return ready.image, ready.debuginfo
    finally:
        engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """All that a case needs beside the dump."""

    image: str
    profile: Profile
    """Whose crash is in the image."""
    debuginfo: Debuginfo


def provision(
    vmcore: Vmcore, selection: Selection, wishes: OpenOptions, engine: Engine, reporter: Reporter, *, anew: bool = False
) -> Provisioned:
    """Image and debuginfo: a self-contained image that has both (unless `anew`), or each from its own sources.

    Those are fetched at the same time: one is bound by the processor, the other by the network.
    """
    from sandbox import image as images
    from sandbox.case.package_query import ContainerPackageQuery
    from sandbox.debuginfo import locate
    from sandbox.debuginfo.lookup import peek
    from sandbox.profiles import platforms

    machine = platforms.foreign_arch(vmcore.arch, engine.info())
    if not wishes.native:
        selection = replace(
            selection, image=platforms.for_arch(selection.image, platforms.require_emulation(machine, engine.info()))
        )
    # A self-contained image of another machine has programs of that machine, and no others.
    self_contained = not anew and not (wishes.native and machine is not None)
    if self_contained and (found := _self_contained(vmcore, selection, wishes, engine, reporter)) is not None:
        return found
    if selection.image.platform is not None:
        reporter.notice(f"the dump is of {machine}: its crash runs under emulation, which is slow")
    if wishes.image is None and (selection.image.latest or selection.home.image.not_run is not None):
        reporter.notice(selection.reason)
    # Both may need the same base first; made once, before they part.
    if engine.image(images.reference(selection.image)) is None:
        reporter.notice(f"the image {selection.image.name} is made first, which takes minutes, once on this host")
        selection = _with_base(selection, wishes, engine, reporter)
    building = _in_background(lambda: _ensure_image(selection, wishes, engine, reporter))
    fetching = peek(vmcore, selection.home, paths.cache_dir()) is None
    debuginfo = locate(
        vmcore,
        selection.home,
        oracle=ContainerPackageQuery(selection.home, engine, reporter, machine=machine),
        given=wishes.debuginfo,
        force=wishes.force,
        reporter=reporter,
        preparer=_indexer(engine, reporter, soon=fetching),
        in_use=store.debuginfo_in_use,
    )
    profile, image = building.result()
    return Provisioned(image=image, profile=profile, debuginfo=debuginfo)


def _indexer(engine: Engine, reporter: Reporter, *, soon: bool) -> GdbIndexBuilder:
    """What indexes vmlinux, which is on this host: an engine of this host, if there is one.

    With `soon` its image is made from now on, while vmlinux is being fetched.
    """
    from sandbox.case.gdb_index import gdb_image, gdb_index_builder
    from sandbox.engine import connect

    if not engine.info().elsewhere:
        making = _in_background(lambda: gdb_image(engine, reporter)) if soon else None
        return gdb_index_builder(engine, reporter, made=None if making is None else making.result)

    def make_index(vmlinux: Path, directory: Path) -> None:
        for name in ("podman", "docker"):
            with suppress(EngineError), closing(connect(name)) as here:
                if here.info().local:
                    gdb_index_builder(here, reporter)(vmlinux, directory)
                    return
        raise EngineNotFound("no engine of this host indexes vmlinux", hint="crash starts without an index, slower")

    return make_index


def _self_contained(
    vmcore: Vmcore, selection: Selection, wishes: OpenOptions, engine: Engine, reporter: Reporter
) -> Provisioned | None:
    if wishes.debuginfo is not None or wishes.force:
        return None
    from sandbox.case import self_contained
    from sandbox.profiles import load

    found = self_contained.find(vmcore, engine, reporter, platform=selection.image.platform)
    if found is None:
        return None
    image, debuginfo = found
    inside = image.labels.get(self_contained.PROFILE, "")
    if wishes.image is not None and inside != selection.image.name:
        return None
    # A profile of the user's that made the image may not be on this host.
    profile = load().get(inside, selection.image)
    # One that came from a registry goes by the registry's name as well.
    ref = next((tag for tag in image.tags if tag.startswith("localhost/")), image.id)
    return Provisioned(image=ref, profile=profile, debuginfo=debuginfo)


def _with_base(selection: Selection, wishes: OpenOptions, engine: Engine, reporter: Reporter) -> Selection:
    """The selection, with a base for its image on the engine; another one where that cannot be had."""
    from sandbox import image as images

    try:
        images.ensure_base(selection.image, engine, reporter)
    except ImageError as error:
        instead = _fallback(selection, wishes, error, reporter)
        if engine.image(images.reference(instead.image)) is None:
            images.ensure_base(instead.image, engine, reporter)
        return instead
    return selection


def _ensure_image(selection: Selection, wishes: OpenOptions, engine: Engine, reporter: Reporter) -> tuple[Profile, str]:
    from sandbox import image as images

    try:
        return selection.image, images.ensure(selection.image, engine, reporter)
    except ImageError as error:
        instead = _fallback(selection, wishes, error, reporter)
        return instead.image, images.ensure(instead.image, engine, reporter)


def _fallback(selection: Selection, wishes: OpenOptions, error: ImageError, reporter: Reporter) -> Selection:
    """The newest crash, when a major's image cannot be had; not when it is that one, or the user's own choice."""
    from sandbox.profiles import fallback, platforms

    instead = None if wishes.image is not None else fallback(selection)
    if instead is None:
        raise error
    said = "\n".join(line for line in (error.message, error.detail or "") if line)
    reporter.notice(f"{said}\n{instead.reason}")
    machine = None if selection.image.platform is None else platforms.arch_of(selection.image.platform)
    return replace(instead, image=platforms.for_arch(instead.image, machine))


def find_debuginfo(vmcore: Vmcore, wishes: OpenOptions, reporter: Reporter = QUIET) -> Debuginfo:
    """Debuginfo alone, without an image; and without an engine where none answers and none is needed."""
    from sandbox.debuginfo import locate
    from sandbox.profiles import select

    with debuginfo_helpers(wishes, reporter, machine=vmcore.arch) as (oracle, preparer):
        home = select(vmcore, override=wishes.image).home
        return locate(
            vmcore,
            home,
            oracle=lambda packages: oracle(home, packages),
            given=wishes.debuginfo,
            force=wishes.force,
            reporter=reporter,
            preparer=preparer,
            in_use=store.debuginfo_in_use,
        )


@contextmanager
def debuginfo_helpers(
    wishes: OpenOptions, reporter: Reporter = QUIET, *, machine: str | None = None
) -> Iterator[tuple[_Query, GdbIndexBuilder | None]]:
    """What an engine does for debuginfo: asking package managers, indexing vmlinux. Without one, neither is done.

    `machine` is the dump's.
    """
    from sandbox.case.gdb_index import gdb_index_builder
    from sandbox.case.package_query import ContainerPackageQuery
    from sandbox.engine import connect

    try:
        engine = connect(wishes.engine)
    except EngineError as error:
        if wishes.engine is not None:
            raise
        reporter.notice(f"{error.message}; so no package manager is asked, and vmlinux is not indexed")
        yield (lambda _profile, _packages: ()), None
        return
    other = None if machine == engine.info().arch else machine
    try:
        yield (
            lambda profile, packages: ContainerPackageQuery(profile, engine, reporter, machine=other)(packages),
            gdb_index_builder(engine, reporter),
        )
    finally:
        engine.close()


def _in_background(work: Callable[[], T]) -> Future[T]:
    """Starts `work` in a thread that does not keep the process: Ctrl-C, or an error here, ends it at once."""
    from concurrent.futures import Future
    from threading import Thread

    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to whoever asks for the result
            future.set_exception(error)

    Thread(target=call, name="image", daemon=True).start()
    return future
