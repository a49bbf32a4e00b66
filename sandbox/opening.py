"""From a path to an open case: identify, select, ensure and locate side by side, open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox import config, ledger, paths
from sandbox.errors import (
    ConfigurationError,
    DumpDamaged,
    DumpNotFound,
    DumpUnreadable,
    EngineFailed,
    ImageError,
    SessionDied,
    SessionFailed,
)
from sandbox.gathering import Ready, Wishes, gather
from sandbox.model import ELSEWHERE, Case
from sandbox.progress import QUIET, Reporter
from sandbox.salvage import LADDER, reason
from sandbox.session import Session

if TYPE_CHECKING:
    # A warm run finds its case and needs none of these.
    from sandbox.engine import Engine
    from sandbox.model import Vmcore
    from sandbox.profiles import ImageProfile, Selection

__all__ = ["Wishes", "case_for", "case_of", "open_dump", "warm"]


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
        reporter.notice(f"closing the open case, which is not {wishes.of_case()}")
        _close(found)
    return open_dump(dump, wishes, reporter)


@contextmanager
def case_for(tool: str, dump: Path, wishes: Wishes, reporter: Reporter = QUIET) -> Iterator[Case]:
    """The case that a tool beside crash runs in: the dump's own. One with the newest image, for as long as it is used,
    where that of the dump is to have drgn and has not: drgn needs no distribution's version, and reads older kernels.
    Nor does it need the dump's machine, so that nothing is emulated for it.
    """
    case = None if tool == "drgn" and _only_emulated(dump, wishes) else case_of(dump, wishes, reporter)
    with ExitStack() as at_the_end:
        if case is not None and wishes.once:
            at_the_end.callback(_close, case)
        if case is None or (tool == "drgn" and not _has_drgn(case, wishes)):
            image = wishes.image or _newest_with_drgn()
            if case is None:
                reporter.notice(f"drgn needs no emulation: it runs in the image of {image}")
            else:
                beside = "" if wishes.once else ", beside the open case"
                reporter.notice(f"image {case.profile} has no drgn: it runs in that of {image}{beside}")
            at_the_end.close()
            case = open_dump(dump, replace(wishes, image=image, once=True, native=True), reporter)
            at_the_end.callback(_close, case)
        yield case


def _only_emulated(dump: Path, wishes: Wishes) -> bool:
    """Whether the dump, which is not open yet, is of another machine than the engine that is to open it."""
    from sandbox.dump import identify
    from sandbox.engine import connect
    from sandbox.platforms import foreign

    if (wishes.engine or config.current().engine or "").startswith(ELSEWHERE):
        return False  # what is there is asked by a container; so it is opened first
    try:
        if ledger.find(dump, engine=wishes.engine) is not None:
            return False
    except OSError:
        return False  # opening it says what is wrong
    machine = identify(dump).arch
    engine = connect(wishes.engine)
    try:
        return foreign(machine, engine.info()) is not None
    finally:
        engine.close()


def _has_drgn(case: Case, wishes: Wishes) -> bool:
    """Whether drgn is to run in the case, as far as its profile tells."""
    from sandbox.profiles import load

    own = load().get(case.profile)
    # One that is not here is of another machine. What the user chose is used, with or without.
    return own is not None and (own.image.drgn or wishes.image is not None)


def _newest_with_drgn() -> str:
    from sandbox.profiles import load

    for profile in load().values():
        if profile.latest and profile.image.drgn:
            return profile.name
    raise ConfigurationError("the newest profile has no drgn", hint="name one that has: --image PROFILE")


def _close(case: Case) -> None:
    from sandbox.case import close

    close(case)


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
    newer = _newer_may_open(case, wishes)
    try:
        try:
            said = session.start(LADDER[:-1] if newer else LADDER)
        except SessionFailed as error:
            if not newer:
                raise
            # The rung above the last one: less than all of crash is worth less than all of a newer one.
            newest = _newer_crash(case)
            other = None if newest is None else _reopened(session, newest, wishes, error, reporter)
            if other is None:
                reporter.notice(f"crash cannot open the dump: {reason(error)}; trying {LADDER[-1].option}")
                said = session.start(LADDER[-1:])
            else:
                session = other
                said = session.start()
        if wishes.idle is not None:
            session.set_idle(wishes.idle)
    except SessionFailed as error:
        _leave(session, wishes)
        if case.incomplete is not None:
            raise DumpDamaged(
                f"{dump} is incomplete, and crash cannot open it: {case.incomplete}", detail=error.detail
            ) from error
        raise
    except BaseException:
        _leave(session, wishes)
        raise
    return session, said if said.strip() else b""


def _leave(session: Session, wishes: Wishes) -> None:
    session.close()
    if wishes.once:
        from sandbox.case import close

        # Nobody else knows of it.
        close(session.case)


def _newer_may_open(case: Case, wishes: Wishes) -> bool:
    """Whether it makes sense to try a newer crash, if there is one."""
    # Not when the user chose this one, when what is lacking no crash can know, and when it opened the dump before. Nor
    # in a self-contained image: its debuginfo is there and nowhere else.
    return (
        wishes.image is None
        and case.incomplete is None
        and not (case.directory / "mode").exists()
        and case.vmlinux.exists()
    )


def _newer_crash(case: Case) -> ImageProfile | None:
    """The profile whose crash may open what the case's does not, if there is one."""
    from sandbox.profiles import load

    newest = next((profile for profile in load().values() if profile.latest), None)
    # One that is not here is of another machine, under emulation.
    return newest if newest is not None and case.profile in load() and newest.name != case.profile else None


def _reopened(
    session: Session, newest: ImageProfile, wishes: Wishes, error: SessionFailed, reporter: Reporter
) -> Session | None:
    """A session of the same dump with another profile's crash; None when that cannot be had."""
    from sandbox import image as images
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
    _close(case)
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
        vmcore = replace(vmcore, files=(unpack(vmcore, paths.unpacked_dir(), reporter),))
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
    from sandbox.engine.owner import ownerless

    engine = connect(wishes.engine)
    try:
        for left in ownerless(engine):  # of a vmbox of this host that was killed
            engine.remove(left.id)
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
    import urllib.parse

    endpoint = engine.info().endpoint
    host = urllib.parse.urlsplit(endpoint).hostname
    if host is not None and not engine.info().local:
        raise EngineFailed(
            f"the engine {endpoint} is on another host, which does not see {dump}",
            hint=f"for a dump of that host: vmbox run --engine {endpoint} /PATH/THERE -- bt; else --engine podman",
        )
