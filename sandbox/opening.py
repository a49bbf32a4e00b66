"""From a path to an open case: identify, select, ensure and locate side by side, open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandbox import config, ledger, paths
from sandbox.errors import DumpDamaged, DumpNotFound, EngineError, SessionDied, SessionFailed
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter
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
    try:
        case = case_of(dump, wishes, reporter)
        session = Session(case, reporter)
    except SessionDied:
        # It ended between being found and being used, e.g. by its idle timer.
        case = case_of(dump, wishes, reporter)
        session = Session(case, reporter)
    try:
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


def open_dump(dump: Path, wishes: Wishes | None = None, reporter: Reporter = QUIET) -> Case:
    """Opens a case of a dump, with what has to be fetched and built for it."""
    from sandbox import case as cases
    from sandbox.dump import identify, is_plain, unpack
    from sandbox.engine import connect
    from sandbox.profiles import select

    wishes = wishes or Wishes()
    vmcore = identify(dump)
    if vmcore.wanted is not None or vmcore.format == "log":
        where = f": ask for {vmcore.wanted}" if vmcore.wanted else ""
        raise DumpNotFound(
            f"{dump} tells of a crash, but the vmcore itself is not in it{where}", hint=f"vmbox info {dump}"
        )
    if vmcore.complete is False:
        reporter.notice(f"the dump is incomplete: {vmcore.incomplete_reason}; what is missing cannot be read")
    selection = select(vmcore, override=wishes.image)
    if not is_plain(vmcore):
        vmcore = replace(vmcore, files=(unpack(vmcore, paths.cache_dir() / "dumps", reporter),))
    if selection.image is not selection.home or wishes.image is not None:
        reporter.notice(selection.reason)
    engine = connect(wishes.engine)
    try:
        image, debuginfo = gather(vmcore, selection, wishes, engine, reporter)
        return cases.open_case(
            vmcore,
            profile=selection.image,
            image=image,
            debuginfo=debuginfo,
            engine=engine,
            asked=wishes.of_case(),
            idle=config.current().idle if wishes.idle is None else wishes.idle,
            once=wishes.once,
            reporter=reporter,
        )
    finally:
        engine.close()


def make_ready(vmcore: Vmcore, wishes: Wishes, reporter: Reporter = QUIET) -> tuple[str, Debuginfo]:
    """Image and debuginfo for a dump that may not be here yet."""
    from sandbox.engine import connect
    from sandbox.profiles import select

    engine = connect(wishes.engine)
    try:
        return gather(vmcore, select(vmcore, override=wishes.image), wishes, engine, reporter)
    finally:
        engine.close()


def gather(
    vmcore: Vmcore, selection: Selection, wishes: Wishes, engine: Engine, reporter: Reporter
) -> tuple[str, Debuginfo]:
    """Image and debuginfo, fetched at the same time: one is bound by the processor, the other by the network."""
    from sandbox import image as images
    from sandbox.debuginfo import locate

    # Both may need the same base first; made once, before they part.
    if engine.image(images.reference(selection.image)) is None:
        images.ensure_base(selection.image, engine, reporter)
    building = _beside(lambda: images.ensure(selection.image, engine, reporter))
    debuginfo = locate(
        vmcore,
        selection.home,
        oracle=images.PackageOracle(selection.home, engine, reporter),
        given=wishes.debuginfo,
        force=wishes.force,
        reporter=reporter,
        preparer=images.indexer(engine, reporter),
        in_use=ledger.debuginfo_in_use,
    )
    return building.result(), debuginfo


def find_debuginfo(vmcore: Vmcore, wishes: Wishes, reporter: Reporter = QUIET) -> Debuginfo:
    """Debuginfo alone, without an image; and without an engine where none answers and none is needed."""
    from sandbox.debuginfo import locate
    from sandbox.profiles import select

    with preparing(wishes, reporter) as (oracle, preparer):
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
def preparing(wishes: Wishes, reporter: Reporter = QUIET) -> Iterator[tuple[_Asking, Preparer | None]]:
    """What an engine does for debuginfo: asking package managers, indexing vmlinux. Without one, neither is done."""
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
    try:
        yield (
            lambda profile, packages: images.PackageOracle(profile, engine, reporter)(packages),
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
