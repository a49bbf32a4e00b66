"""From a path to a session whose debugger is at its prompt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.case.opening import find_or_open_case, open_dump
from sandbox.case.options import OpenOptions
from sandbox.debugger import DEFAULT
from sandbox.errors import DumpDamaged, ImageError, SessionDied, SessionFailed
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter
from sandbox.session.fallback import error_line, mode_file
from sandbox.session.session import Session

if TYPE_CHECKING:
    # A warm run needs none of this.
    from sandbox.profiles import Profile


def open_session(
    dump: Path, options: OpenOptions, reporter: Reporter = QUIET, *, case: Case | None = None
) -> tuple[Session, bytes]:
    """A session of the dump's case with crash at its prompt, and what crash said when it started: b"" if it was up.

    `case` is the open one, where the caller has found that it suits the options. One that is opened `once` is closed
    with the session, or when it does not start. Raises `SessionFailed` when crash does not open the dump in any way,
    `DumpDamaged` when that is for want of a part.
    """
    began = datetime.now(UTC)
    case = case or find_or_open_case(dump, options, reporter)
    try:
        return _start_session(case, dump, options, reporter)
    except SessionDied:
        if case.opened >= began:
            raise
        # It ended between being found and being used, e.g. by its idle timer.
        return _start_session(find_or_open_case(dump, options, reporter), dump, options, reporter)


def _start_session(case: Case, dump: Path, options: OpenOptions, reporter: Reporter) -> tuple[Session, bytes]:
    session = Session(case, reporter, ends_case=options.once)
    modes = session.debugger.start_modes
    newer = _may_retry(case, options)
    try:
        try:
            said = session.start(modes[:-1] if newer else modes)
        except SessionFailed as error:
            if not newer:
                raise
            # The mode above the last one: less than all of crash is worth less than all of a newer one.
            newest = _newest_crash(case)
            other = None if newest is None else _retry_with_newest_crash(session, newest, options, error, reporter)
            if other is None:
                reporter.notice(
                    f"{DEFAULT.name} cannot open the dump: {error_line(DEFAULT, error)}; trying {modes[-1].option}"
                )
                said = session.start(modes[-1:])
            else:
                session = other
                said = session.start()
        if options.idle is not None:
            session.set_idle(options.idle)
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


def _may_retry(case: Case, options: OpenOptions) -> bool:
    """Whether it makes sense to try a newer crash, if there is one."""
    # Not when the user chose this one, when what is lacking no crash can know, and when it opened the dump before. Nor
    # in a self-contained image: its debuginfo is there and nowhere else.
    return (
        options.image is None
        and case.incomplete is None
        and not mode_file(case, DEFAULT).exists()
        and case.vmlinux.exists()
    )


def _newest_crash(case: Case) -> Profile | None:
    """The profile whose crash may open what the case's does not, if there is one."""
    from sandbox.profiles import load

    newest = next((profile for profile in load().values() if profile.latest), None)
    # One that is not here is of another machine, under emulation.
    return newest if newest is not None and case.profile in load() and newest.name != case.profile else None


def _retry_with_newest_crash(
    session: Session, newest: Profile, options: OpenOptions, error: SessionFailed, reporter: Reporter
) -> Session | None:
    """A session of the same dump with another profile's crash; None when that cannot be had."""
    from sandbox import image as images
    from sandbox.engine import connect

    case = session.case
    reporter.notice(
        f"crash of {case.profile} cannot open the dump: {error_line(DEFAULT, error)}; "
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
    session.close_case()
    other = open_dump(case.dump, replace(options, image=newest.name), reporter)
    return Session(other, reporter, ends_case=options.once)
