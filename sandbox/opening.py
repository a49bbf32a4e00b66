"""From a path to an open case: identify, select, ensure and locate side by side, open."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandbox import config, ledger, paths
from sandbox.errors import (
    DumpDamaged,
    DumpNotFound,
    DumpUnreadable,
    EngineError,
    EngineFailed,
    EngineNotFound,
    ImageError,
    SessionDied,
    SessionFailed,
)
from sandbox.model import ELSEWHERE, Case
from sandbox.progress import QUIET, Reporter
from sandbox.salvage import LADDER, reason
from sandbox.session import Session

if TYPE_CHECKING:
    # A warm run finds its case and needs none of these.
    from concurrent.futures import Future

    from sandbox.debuginfo import Preparer, RemotePackage
    from sandbox.engine import Engine
    from sandbox.model import Debuginfo, Vmcore
    from sandbox.profiles import ImageProfile, Selection

    _Asking = Callable[[ImageProfile, Sequence[str]], Iterable[RemotePackage]]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for beyond the dump itself."""

    engine: str | None = None
    """docker, podman or a URL."""
    image: str | None = None
    """A profile's name."""
    debuginfo: Path | None = None
    force: bool = False
    """Use debuginfo that does not match."""
    idle: int | None = None
    """Seconds after which the unused case disposes of itself; 0 never. None: as the settings say, and for a case that
    is open as whoever opened it said."""
    once: bool = False
    """A case of its own, which nobody else finds and which the caller closes."""

    def of_case(self) -> str:
        """What of it an open case has or has not; empty when any will do."""
        asked = {"image": self.image, "debuginfo": self.debuginfo and self.debuginfo.resolve(), "force": self.force}
        return " ".join(f"{name}={value}" for name, value in asked.items() if value)


def case_of(dump: Path, wishes: Wishes, reporter: Reporter = QUIET) -> Case:
    """The case of a dump as the user wants it: the open one if it is like that, else a new one."""
    if wishes.once:
        return open_dump(dump, wishes, reporter)
    try:
        found = ledger.find(dump, engine=wishes.engine)
    except OSError:
        # No such file, no permission: identifying it says so properly.
        found = None
    if found is not None and wishes.of_case() in {"", found.asked}:
        return found
    if found is not None:
        from sandbox.case import close

        reporter.notice(f"closing the open case, which is not {wishes.of_case()}")
        close(found)
    return open_dump(dump, wishes, reporter)


def warm(dump: Path, wishes: Wishes, reporter: Reporter = QUIET) -> tuple[Session, bytes]:
    """A session of the dump's case with crash at its prompt, and what crash said when it started: b"" if it was up.

    Raises `SessionFailed` when crash does not open the dump in any way, `DumpDamaged` when that is for want of a part.
    """
    began = datetime.now(UTC)
    case = case_of(dump, wishes, reporter)
    try:
        return _warmed(case, dump, wishes, reporter)
    except SessionDied:
        if case.opened >= began:
            raise
        # It ended between being found and being used, e.g. by its idle timer.
        return _warmed(case_of(dump, wishes, reporter), dump, wishes, reporter)


def _warmed(case: Case, dump: Path, wishes: Wishes, reporter: Reporter) -> tuple[Session, bytes]:
    session = Session(case, reporter)
    newest = _newer_crash(case, wishes)
    try:
        try:
            said = session.start(LADDER if newest is None else LADDER[:-1])
        except SessionFailed as error:
            if newest is None:
                raise
            # The rung above the last one: less than all of crash is worth less than all of a newer one.
            if (other := _reopened(session, newest, wishes, error, reporter)) is None:
                said = session.start(LADDER[-1:])
            else:
                session = other
                said = session.start()
        if wishes.idle is not None:
            session.set_idle(wishes.idle)
    except SessionFailed as error:
        session.close()
        if case.incomplete is not None:
            raise DumpDamaged(
                f"{dump} is incomplete, and crash cannot open it: {case.incomplete}", detail=error.detail
            ) from error
        raise
    except BaseException:
        session.close()
        raise
    return session, said if said.strip() else b""


def _newer_crash(case: Case, wishes: Wishes) -> ImageProfile | None:
    """The profile whose crash may open what the case's does not; None when there is none, or no need."""
    if wishes.image is not None or case.incomplete is not None or (case.directory / "mode").exists():
        # Chosen by the user; lacking what no crash can know; or opened before.
        return None
    if not case.vmlinux.exists():
        return None  # a self-contained image: its debuginfo is there and nowhere else
    from sandbox.profiles import load

    newest = next((profile for profile in load().values() if profile.latest), None)
    # One that is not here is of another machine, under emulation.
    return newest if newest is not None and case.profile in load() and newest.name != case.profile else None


def _reopened(
    session: Session, newest: ImageProfile, wishes: Wishes, error: SessionFailed, reporter: Reporter
) -> Session | None:
    """A session of the same dump with another profile's crash; None when that cannot be had."""
    from sandbox import image as images
    from sandbox.case import close
    from sandbox.engine import connect

    case = session.case
    reporter.notice(
        f"crash of {case.profile} cannot open the dump: {reason(error)}; "
        f"trying crash {newest.crash.version} of {newest.name}"
    )
    engine = connect(case.endpoint)
    try:
        images.ensure(newest, engine, reporter)
    except ImageError as lacking:
        reporter.notice(lacking.message)
        return None
    finally:
        engine.close()
    session.close()
    close(case)
    return Session(open_dump(case.dump, replace(wishes, image=newest.name), reporter), reporter)


def open_dump(dump: Path, wishes: Wishes | None = None, reporter: Reporter = QUIET) -> Case:
    """Opens a case of a dump, with what has to be fetched and built for it."""
    from sandbox.dump import identify, is_plain, unpack
    from sandbox.engine import connect
    from sandbox.engine.owner import ownerless

    wishes = wishes or Wishes()
    if (wishes.engine or config.current().engine or "").startswith(ELSEWHERE):
        return _open_elsewhere(dump, wishes, reporter)
    vmcore = identify(dump)
    selection = _selected(vmcore, dump, wishes, reporter)
    if not is_plain(vmcore):
        vmcore = replace(vmcore, files=(unpack(vmcore, paths.cache_dir() / "dumps", reporter),))
    engine = connect(wishes.engine)
    try:
        _refuse_remote(engine, dump)
        for left in ownerless(engine):  # of a vmbox that was killed
            engine.remove(left.id)
        ready = gather(vmcore, selection, wishes, engine, reporter)
        return _case(vmcore, ready, wishes, engine, reporter)
    finally:
        engine.close()


def _open_elsewhere(dump: Path, wishes: Wishes, reporter: Reporter) -> Case:
    """The dump is a path of the engine's host. What is sent there is an image, once, and nothing comes from there but
    what the dump says about itself.
    """
    from sandbox import elsewhere, selfcontained
    from sandbox.dump import is_plain
    from sandbox.engine import connect

    engine = connect(wishes.engine)
    try:
        vmcore = elsewhere.identify(dump, engine, reporter)
        selection = _selected(vmcore, dump, wishes, reporter)
        if not is_plain(vmcore):
            raise DumpUnreadable(
                f"{dump} has to be unpacked first: {', '.join(vmcore.wrappers) or 'flattened'}",
                hint="unpack it there; or run vmbox there, which does that by itself",
            )
        ready = gather(vmcore, selection, wishes, engine, reporter)
        if not ready.debuginfo.in_image:
            base, debuginfo = ready.image, ready.debuginfo
            ref = selfcontained.make(vmcore, debuginfo, engine, reporter, profile=ready.profile, base=base)
            inside = replace(
                debuginfo,
                directory=selfcontained.DIRECTORY,
                vmlinux=selfcontained.DIRECTORY / "vmlinux",
                in_image=True,
            )
            ready = replace(ready, image=ref, debuginfo=inside)
        return _case(vmcore, ready, wishes, engine, reporter)
    finally:
        engine.close()


def _selected(vmcore: Vmcore, dump: Path, wishes: Wishes, reporter: Reporter) -> Selection:
    """What opens a dump. Raises `DumpNotFound` when there is none to open."""
    from sandbox.profiles import select

    if vmcore.wanted is not None or vmcore.format == "log":
        where = f": ask for {vmcore.wanted}" if vmcore.wanted else ""
        raise DumpNotFound(
            f"{dump} tells of a crash, but the vmcore itself is not in it{where}", hint=f"vmbox info {dump}"
        )
    if vmcore.complete is False:
        reporter.notice(f"the dump is incomplete: {vmcore.incomplete_reason}; what is missing cannot be read")
    return select(vmcore, override=wishes.image)


def _case(vmcore: Vmcore, ready: Ready, wishes: Wishes, engine: Engine, reporter: Reporter) -> Case:
    from sandbox import case as cases

    return cases.open_case(
        vmcore,
        profile=ready.profile,
        image=ready.image,
        debuginfo=ready.debuginfo,
        engine=engine,
        asked=wishes.of_case(),
        idle=config.current().idle if wishes.idle is None else wishes.idle,
        once=wishes.once,
        reporter=reporter,
    )


def _refuse_remote(engine: Engine, dump: Path) -> None:
    """One that was found and not named: the dump is this host's, and an engine elsewhere would look for it in vain."""
    endpoint = engine.info().endpoint
    host = urllib.parse.urlsplit(endpoint).hostname
    if host is not None and not engine.info().local:
        raise EngineFailed(
            f"the engine {endpoint} is on another host, which does not see {dump}",
            hint=f"for a dump of that host: vmbox run --engine {endpoint} /PATH/THERE -- bt; else --engine podman",
        )


def make_ready(vmcore: Vmcore, wishes: Wishes, reporter: Reporter = QUIET) -> tuple[str, Debuginfo]:
    """Image and debuginfo for a dump that may not be here yet."""
    from sandbox.engine import connect
    from sandbox.profiles import select

    engine = connect(wishes.engine)
    try:
        ready = gather(vmcore, select(vmcore, override=wishes.image), wishes, engine, reporter)
        return ready.image, ready.debuginfo
    finally:
        engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """All that a case needs beside the dump."""

    image: str
    profile: ImageProfile
    """Whose crash is in the image."""
    debuginfo: Debuginfo


def gather(
    vmcore: Vmcore, selection: Selection, wishes: Wishes, engine: Engine, reporter: Reporter, *, anew: bool = False
) -> Ready:
    """Image and debuginfo: a self-contained image that has both (unless `anew`), or each from its own sources.

    Those are fetched at the same time: one is bound by the processor, the other by the network.
    """
    from sandbox import image as images, platforms
    from sandbox.debuginfo import locate

    machine = platforms.foreign(vmcore.arch, engine.info())
    selection = replace(selection, image=platforms.on(selection.image, machine))
    if not anew and (found := _self_contained(vmcore, selection, wishes, engine, reporter)) is not None:
        return found
    if machine is not None:
        reporter.notice(f"the dump is of {machine}: its crash runs under emulation, which is slow")
    if wishes.image is None and (selection.image.latest or selection.home.image.not_run is not None):
        reporter.notice(selection.reason)
    # Both may need the same base first; made once, before they part.
    if engine.image(images.reference(selection.image)) is None:
        reporter.notice(f"the image {selection.image.name} is made first, which takes minutes, once on this host")
        selection = _with_base(selection, wishes, engine, reporter)
    building = _beside(lambda: _built(selection, wishes, engine, reporter))
    debuginfo = locate(
        vmcore,
        selection.home,
        oracle=images.PackageOracle(selection.home, engine, reporter, machine=machine),
        given=wishes.debuginfo,
        force=wishes.force,
        reporter=reporter,
        preparer=_indexer(engine, reporter),
        in_use=ledger.debuginfo_in_use,
    )
    profile, image = building.result()
    return Ready(image=image, profile=profile, debuginfo=debuginfo)


def _indexer(engine: Engine, reporter: Reporter) -> Preparer | None:
    """What indexes vmlinux, which is on this host: an engine of this host, if there is one."""
    from sandbox import image as images
    from sandbox.engine import connect

    if not engine.info().elsewhere:
        return images.indexer(engine, reporter)

    def make_index(vmlinux: Path, directory: Path) -> None:
        for name in ("podman", "docker"):
            with suppress(EngineError), closing(connect(name)) as here:
                if here.info().local:
                    images.indexer(here, reporter)(vmlinux, directory)
                    return
        raise EngineNotFound("no engine of this host indexes vmlinux", hint="crash starts without an index, slower")

    return make_index


def _self_contained(
    vmcore: Vmcore, selection: Selection, wishes: Wishes, engine: Engine, reporter: Reporter
) -> Ready | None:
    if wishes.debuginfo is not None or wishes.force:
        return None
    from sandbox import selfcontained
    from sandbox.profiles import load

    found = selfcontained.find(vmcore, engine, reporter, platform=selection.image.platform)
    if found is None:
        return None
    image, debuginfo = found
    inside = image.labels.get(selfcontained.PROFILE, "")
    if wishes.image not in {None, inside}:
        return None
    # A profile of the user's that made the image may not be on this host.
    profile = load().get(inside, selection.image)
    # One that came from a registry goes by the registry's name as well.
    ref = next((tag for tag in image.tags if tag.startswith("localhost/")), image.id)
    return Ready(image=ref, profile=profile, debuginfo=debuginfo)


def _with_base(selection: Selection, wishes: Wishes, engine: Engine, reporter: Reporter) -> Selection:
    """The selection, with a base for its image on the engine; another one where that cannot be had."""
    from sandbox import image as images

    try:
        images.ensure_base(selection.image, engine, reporter)
    except ImageError as error:
        instead = _instead(selection, wishes, error, reporter)
        if engine.image(images.reference(instead.image)) is None:
            images.ensure_base(instead.image, engine, reporter)
        return instead
    return selection


def _built(selection: Selection, wishes: Wishes, engine: Engine, reporter: Reporter) -> tuple[ImageProfile, str]:
    from sandbox import image as images

    try:
        return selection.image, images.ensure(selection.image, engine, reporter)
    except ImageError as error:
        instead = _instead(selection, wishes, error, reporter)
        return instead.image, images.ensure(instead.image, engine, reporter)


def _instead(selection: Selection, wishes: Wishes, error: ImageError, reporter: Reporter) -> Selection:
    """The newest crash, when a major's image cannot be had; not when it is that one, or the user's own choice."""
    from sandbox import platforms
    from sandbox.profiles import in_its_place

    instead = None if wishes.image is not None else in_its_place(selection)
    if instead is None:
        raise error
    said = "\n".join(line for line in (error.message, error.detail or "") if line)
    reporter.notice(f"{said}\n{instead.reason}")
    machine = None if selection.image.platform is None else platforms.machine(selection.image.platform)
    return replace(instead, image=platforms.on(instead.image, machine))


def find_debuginfo(vmcore: Vmcore, wishes: Wishes, reporter: Reporter = QUIET) -> Debuginfo:
    """Debuginfo alone, without an image; and without an engine where none answers and none is needed."""
    from sandbox.debuginfo import locate
    from sandbox.profiles import select

    with preparing(wishes, reporter, machine=vmcore.arch) as (oracle, preparer):
        home = select(vmcore, override=wishes.image).home
        return locate(
            vmcore,
            home,
            oracle=lambda packages: oracle(home, packages),
            given=wishes.debuginfo,
            force=wishes.force,
            reporter=reporter,
            preparer=preparer,
            in_use=ledger.debuginfo_in_use,
        )


@contextmanager
def preparing(
    wishes: Wishes, reporter: Reporter = QUIET, *, machine: str | None = None
) -> Iterator[tuple[_Asking, Preparer | None]]:
    """What an engine does for debuginfo: asking package managers, indexing vmlinux. Without one, neither is done.

    `machine` is the dump's.
    """
    from sandbox import image as images
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
            lambda profile, packages: images.PackageOracle(profile, engine, reporter, machine=other)(packages),
            images.indexer(engine, reporter),
        )
    finally:
        engine.close()


def _beside(work: Callable[[], T]) -> Future[T]:
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
