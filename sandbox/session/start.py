"""From a path to a session whose debugger is at its prompt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.case import store
from sandbox.case.available_image import newest_with, profile_with
from sandbox.case.opening import find_or_open_case, open_dump
from sandbox.case.options import OpenOptions
from sandbox.case.with_debugger import case_with, has_debugger, lacking, lacks
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.dump.completeness import is_cut
from sandbox.errors import (
    CommandTimeout,
    ConfigurationError,
    DebuginfoNotFound,
    DumpDamaged,
    ImageError,
    SessionDied,
    SessionError,
    SessionFailed,
    VmboxError,
    pasteable,
)
from sandbox.model import Case
from sandbox.progress import QUIET, Reporter
from sandbox.session import choice
from sandbox.session.choice import Choice
from sandbox.session.fallback import error_line, last_mode, mode_file
from sandbox.session.session import DAMAGED, Session

if TYPE_CHECKING:
    # A warm run needs none of this.
    from sandbox.profiles import Profile


def open_session(
    dump: Path,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    case: Case | None = None,
    quick: bool = False,
) -> tuple[Session, bytes]:
    """A session of the dump's case with a debugger at its prompt, and what it said when it started: b"" if it was up.

    The debugger is the one of `options`, else crash where it knows the kernel and comes up as it is, else drgn; see
    `Session.choice`. `case` is the open one, where the caller has found that it suits the options. One that is opened
    `once` is closed with the session, or when it does not start. With `quick` the debugger that is up first answers
    where both know the kernel; the choice of the case stays. Raises `SessionFailed` when no debugger opens the dump
    in any way, `DumpDamaged` when that is for want of a part.
    """
    began = datetime.now(UTC)
    if options.debugger is not None:
        found, own = case_with(DEBUGGERS[options.debugger], dump, options, reporter, case=case)
    else:
        found, own = case or find_or_open_case(dump, options, reporter), options.once
    try:
        return _Start(found, own, options, reporter, quick=quick).run()
    except SessionDied:
        # One that goes on has lost its debugger only, and would again.
        if found.opened >= began or store.is_running(found):
            raise
        # It ended between being found and being used, e.g. by its idle timer.
        return _Start(find_or_open_case(dump, options, reporter), own, options, reporter, quick=quick).run()


class _Start:
    """Starts a debugger on a dump: the one that is chosen, and where it does not come up, others.

    In this order: crash as it is; drgn as it is; the newest crash, and crash with less than all of its abilities; drgn
    with less; crash --minimal. A crash above its ceiling is only started when the user asks for it. One that misreads
    some stacks of the kernel, as each crash does, comes after drgn as it is.
    """

    def __init__(self, case: Case, own: bool, options: OpenOptions, reporter: Reporter, *, quick: bool) -> None:
        self._case = case
        self._quick = quick
        self._own = own
        self._options = options
        self._reporter = reporter
        self._session: Session | None = None
        self._open = own
        """Whether the case is to be closed by this and not by a session."""
        self._damaged = False
        """Whether a debugger that was tried could not unpack a page."""

    def run(self) -> tuple[Session, bytes]:
        try:
            said = self._started()
            session = self._session
            assert session is not None  # noqa: S101 - for mypy: it was started
            if (self._damaged or session.damaged) and self._case.incomplete is None:
                self._reporter.notice(DAMAGED)
            if self._options.idle is not None:
                session.set_idle(self._options.idle)
        except SessionFailed as error:
            damaged = self._damaged or (self._session is not None and self._session.damaged)
            self._close_unopened()
            if damaged and self._case.incomplete is None:
                raise DumpDamaged(
                    f"no debugger can open {self._case.dump}: pages of it cannot be unpacked",
                    hint="it was changed when it was written or copied: copy it again, and compare sha256sum",
                    detail=error.detail,
                ) from error
            if self._case.incomplete is not None:
                raise DumpDamaged(
                    f"{self._case.dump} is incomplete, and no debugger can open it: {self._case.incomplete}",
                    hint=self._what_is_left(),
                    detail=error.detail,
                ) from error
            raise
        except BaseException:
            self._close()
            raise
        return session, said if said.strip() else b""

    def _started(self) -> bytes:
        if self._options.debugger is not None:
            return self._as_asked(choice.asked_for(self._options.debugger))
        if self._quick and (quick := self._quickly()) is not None:
            return quick
        before = choice.kept(self._case)
        if before is not None:
            choice.remind(self._case, self._options, self._reporter)
            return self._take(before).start()
        chosen = choice.by_kernel(self._case)
        if chosen.debugger != DEFAULT.name:
            return self._instead(chosen)
        other = choice.instead_of(DEFAULT)
        able = self._reads(other) and has_debugger(self._case, other) and other.name not in self._case.doubts
        if able and is_cut(self._case.incomplete):
            return self._of_what_is_left(other)
        try:
            said = self._take(chosen).start(DEFAULT.start_modes[:1])
        except SessionFailed as error:
            return self._after(error)
        except SessionDied as error:
            return self._after_death(error)
        return self._chosen(chosen, said)

    def _of_what_is_left(self, other: Debugger) -> bytes:
        """Starts what reads a dump that is cut off, with all that it has for one that lacks pages.

        `other` says in a second whether the panicking task is there. Where it is not, crash would end at it in each of
        its modes, some seconds later, but the one in which it reads no tasks.
        """
        reason = f"the dump is cut off, and it needs less of it; --with {DEFAULT.name} tries {DEFAULT.name}"
        instead = Choice(debugger=other.name, reason=reason)
        return self._chosen(instead, self._take(instead).start(other.start_modes[-1:]))

    def _after_death(self, died: SessionDied) -> bytes:
        """Starts drgn, which needs less memory, where crash was killed; raises `died` if that does not come up.

        Nothing else is tried: another crash, or one with less, needs as much.
        """
        other = choice.instead_of(DEFAULT)
        able = self._case.vmlinux is not None and self._reads(other) and has_debugger(self._case, other)
        # The case may have ended as a whole, which opening it again helps.
        if not able or not store.is_running(self._case):
            raise died
        instead = Choice(debugger=other.name, reason=died.message)
        self._notice(DEFAULT, died, other.name)
        try:
            said = self._take(instead).start(other.start_modes[:1])
        except SessionError as error:
            self._reporter.notice(f"{other.name} cannot open the dump: {_line(other, error)}")
            raise died from error
        return self._chosen(instead, said)

    def _quickly(self) -> bytes | None:
        """Starts the debugger that is up first; None where it is not to be asked, or does not come up as it is."""
        chosen = choice.quick(self._case)
        # A dump that the default one opened with less, the other did not open.
        if chosen is None or last_mode(mode_file(self._case, DEFAULT)) or is_cut(self._case.incomplete):
            return None
        session = self._take(chosen)
        try:
            said = session.start(session.debugger.start_modes[:1])
        except (SessionFailed, SessionDied, CommandTimeout) as error:
            # Killed or silent, too: the user did not ask for this one, and the other may come up.
            self._notice(session.debugger, error, DEFAULT.name)
            return None
        self._reporter.notice(f"{chosen.debugger} answers: {chosen.reason}")
        return said

    def _as_asked(self, chosen: Choice) -> bytes:
        session = self._take(chosen)
        modes = session.debugger.start_modes
        if session.debugger is DEFAULT and is_cut(self._case.incomplete):
            # A page that is lost is lost in each mode but the last.
            return session.start((modes[0], modes[-1]))
        if session.debugger is not DEFAULT or not self._may_move():
            return session.start()
        try:
            return session.start(modes[:-1])
        except SessionFailed as error:
            if (newer := self._newest_crash(error, chosen)) is not None:
                return newer
            self._notice(DEFAULT, error, modes[-1].option)
            return self._take(chosen).start(modes[-1:])

    def _instead(self, chosen: Choice) -> bytes:
        """Starts the debugger that answers in crash's place, where crash does not know the kernel, or not all of it."""
        debugger = DEBUGGERS[chosen.debugger]
        try:
            self._move_to(debugger)
            # Where crash reads all else, it is worth more than a drgn with less.
            said = self._take(chosen).start(debugger.start_modes[:1] if self._case.only_misread else None)
        except (SessionFailed, ImageError, ConfigurationError) as error:
            if self._case.awaited and isinstance(error, SessionFailed):
                self._reporter.notice(f"{_not_without(debugger, error)}; waiting for debuginfo")
                self._options = replace(self._options, early=False)
                self._reopen(self._options)
                return self._started()
            if self._case.only_misread and self._case.vmlinux is not None:
                why = f"{debugger.name} cannot open the dump: {_line(debugger, error)}"
                crash = Choice(debugger=DEFAULT.name, reason=why)
                return self._chosen(crash, self._take(crash).start())
            if not isinstance(error, SessionFailed):
                raise
            if self._case.vmlinux is None:
                raise self._without_debuginfo(debugger, error) from error
            shown = f"vmbox run {pasteable(self._case.dump)} --with {DEFAULT.name} -- …"
            raise SessionFailed(
                f"{debugger.name} does not open this dump, and {chosen.reason}",
                hint=f"to see it anyhow: {shown}",
                detail=error.detail or error.message,
            ) from error
        return self._chosen(chosen, said)

    def _without_debuginfo(self, debugger: Debugger, error: SessionFailed) -> VmboxError:
        """The error for a dump that is not read without debuginfo either.

        Closes its case, so that the next command looks for debuginfo again.
        """
        if self._session is not None:
            self._session.close_case()
            self._session = None
        log = f"vmbox dmesg {pasteable(self._case.dump)} prints the log"
        if self._options.no_debuginfo:
            return SessionFailed(_not_without(debugger, error), hint=f"{log}; leave out --no-debuginfo, to look for it")
        line = error_line(debugger, error)
        return DebuginfoNotFound(f"{self._case.no_debuginfo}; nor is the dump read without it: {line}", hint=log)

    def _after(self, failed: SessionFailed) -> bytes:
        """Starts what is left when crash does not come up as it is."""
        why = f"{DEFAULT.name} cannot open the dump: {error_line(DEFAULT, failed)}"
        other = choice.instead_of(DEFAULT)
        instead = Choice(debugger=other.name, reason=why)
        moved = has_other = False
        if self._reads(other) and (has_debugger(self._case, other) or self._may_move()):
            self._reporter.notice(f"{why}; trying {other.name}")
            try:
                moved = self._move_to(other)
                has_other = True
                said = self._take(instead).start(other.start_modes[:1])
            except (SessionFailed, ImageError, ConfigurationError) as error:
                self._reporter.notice(f"{other.name} cannot open the dump: {_line(other, error)}")
            else:
                return self._chosen(instead, said)
        crash = Choice(debugger=DEFAULT.name, reason=f"no debugger opens the dump as it is: {why}")
        less, last = DEFAULT.start_modes[0 if moved else 1 : -1], DEFAULT.start_modes[-1:]
        try:
            newer = None if moved else self._newest_crash(failed, crash)
            if newer is not None:
                return self._chosen(crash, newer)
            self._notice(DEFAULT, failed, less[0].option or "the newest crash")
            return self._chosen(crash, self._take(crash).start(less))
        except SessionFailed as error:
            failed = error
        if has_other:
            partial = other.start_modes[1:]
            self._notice(DEFAULT, failed, f"{other.name} {partial[0].option}")
            try:
                return self._chosen(instead, self._take(instead).start(partial))
            except SessionFailed as error:
                self._reporter.notice(f"{other.name} cannot open the dump: {error_line(other, error)}")
        self._notice(DEFAULT, failed, last[0].option)
        return self._chosen(crash, self._take(crash).start(last))

    def _take(self, chosen: Choice) -> Session:
        """The session with the debugger that was chosen; the one before it is closed."""
        debugger = DEBUGGERS[chosen.debugger]
        if self._session is not None:
            self._damaged = self._damaged or self._session.damaged
            self._session.release()
            self._session = None
        # From now on the session closes it, also when it cannot be had.
        self._open = False
        self._session = Session(self._case, self._reporter, debugger, ends_case=self._own, choice=chosen)
        return self._session

    def _chosen(self, chosen: Choice, said: bytes) -> bytes:
        """Keeps and tells the choice whose debugger came up, and returns what it said."""
        choice.keep(self._case, chosen)
        self._say(chosen)
        return said

    def _say(self, chosen: Choice) -> None:
        self._reporter.notice(f"{chosen.debugger} answers: {chosen.reason}")

    def _notice(self, debugger: Debugger, error: SessionError, then: str) -> None:
        why = error_line(debugger, error) if isinstance(error, SessionFailed) else error.message
        self._reporter.notice(f"{debugger.name} cannot open the dump: {why}; trying {then}")

    def _reads(self, debugger: Debugger) -> bool:
        return self._case.files == 1 or debugger.reads_split_dumps

    def _may_move(self) -> bool:
        """Whether another image may be taken."""
        # Not when the user chose this one, when what is lacking no debugger can know, and when it opened the dump
        # before. Nor in a self-contained image: its debuginfo is there and nowhere else.
        return (
            self._options.image is None
            and self._case.incomplete is None
            and not mode_file(self._case, DEFAULT).exists()
            and self._case.vmlinux is not None
            and self._case.vmlinux.exists()
        )

    def _move_to(self, debugger: Debugger) -> bool:
        """Opens the dump in the newest image where this case's has no `debugger`. Returns whether it did."""
        if has_debugger(self._case, debugger):
            return False
        if self._options.image is not None:
            raise lacking(self._case, debugger)
        newest = newest_with(debugger).name
        self._reporter.notice(f"{lacks(self._case, debugger)}: the dump is opened in that of {newest}")
        self._reopen(replace(self._options, image=profile_with(debugger, self._options, self._reporter)))
        return True

    def _reopen(self, options: OpenOptions) -> None:
        if self._session is not None:
            self._damaged = self._damaged or self._session.damaged
            self._session.close_case()
            self._session = None
        else:
            from sandbox.case.container import close

            close(self._case)
        self._open = False
        self._case = open_dump(self._case.dump, options, self._reporter)
        self._open = self._own

    def _newest_crash(self, error: SessionFailed, chosen: Choice) -> bytes | None:
        """Starts the newest crash on the dump; None when that is the one which failed, or cannot be had."""
        from sandbox import image as images
        from sandbox.engine import connect

        newest = _newest_profile(self._case) if self._may_move() else None
        if newest is None:
            return None
        self._reporter.notice(
            f"crash of {self._case.profile} cannot open the dump: {error_line(DEFAULT, error)}; "
            f"trying crash {newest.crash.version} of {newest.name}"
        )
        engine = connect(self._case.endpoint)
        try:
            images.ensure(newest, engine, self._reporter)
        except ImageError as lacking:
            self._reporter.notice(lacking.message)
            return None
        finally:
            engine.close()
        self._reopen(replace(self._options, image=newest.name))
        return self._take(chosen).start(DEFAULT.start_modes[:-1])

    def _what_is_left(self) -> str | None:
        """The hint about an incomplete dump that no debugger opens."""
        from sandbox.case.dumps import identify
        from sandbox.case.what_to_open import what_is_left

        if self._case.remote:
            return None
        try:
            return what_is_left(identify(self._case.dump), self._case.dump)
        except VmboxError:
            return None

    def _close_unopened(self) -> None:
        """Closes a case that no debugger has opened: the next command would find nothing in it."""
        if self._session is None or any(mode_file(self._case, one).exists() for one in DEBUGGERS.values()):
            self._close()
            return
        if not self._own:
            self._reporter.notice(f"the case of {self._case.dump.name} is closed: no debugger opens the dump")
        self._session.close_case()

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
        elif self._open:
            from sandbox.case.container import close

            close(self._case)


def _line(debugger: Debugger, error: VmboxError) -> str:
    return error_line(debugger, error) if isinstance(error, SessionFailed) else error.message


def _not_without(debugger: Debugger, error: SessionFailed) -> str:
    return f"the dump is not read without debuginfo: {error_line(debugger, error)}"


def _newest_profile(case: Case) -> Profile | None:
    """The profile whose crash may open what the case's does not, if there is one."""
    from sandbox.profiles import load

    newest = next((profile for profile in load().values() if profile.latest), None)
    # One that is not here is of another machine, under emulation.
    return newest if newest is not None and case.profile in load() and newest.name != case.profile else None
