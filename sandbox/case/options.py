"""The options with which a user opens a dump."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.case import arrival, store
from sandbox.debugger import DEBUGGERS
from sandbox.errors import UsageError
from sandbox.model import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """The options with which a dump is opened."""

    engine: str | None = None
    """docker, podman or a URL."""
    image: str | None = None
    """A profile's name."""
    debuginfo: Path | None = None
    force: bool = False
    """Use debuginfo that does not match."""
    no_debuginfo: bool = False
    """Read the dump by what the kernel has of itself, and fetch nothing."""
    no_debuginfo_reason: str = "--no-debuginfo"
    """Why, in words."""
    early: bool = False
    """Read the dump without debuginfo while that is on its way."""
    idle: int | None = None
    """Seconds after which the unused case disposes of itself; 0 never. None: as the settings say, and for a case that
    is open as it was opened."""
    once: bool = False
    """A case of its own, which no other process finds. The session, or `case_for_tool`, that it is opened for
    closes it."""
    record: Path | None = None
    """The file that gets the pages which are read: see `sandbox.case.page_record`. With `once`."""
    debugger: str | None = None
    """The name of the debugger that is to answer. None: crash where it knows the kernel and comes up, else drgn."""
    native: bool = False
    """Programs of the engine's machine, whichever the dump is of: crash cannot read it then, drgn can."""

    def check(self) -> None:
        """Raises `UsageError` for options that exclude each other."""
        if self.no_debuginfo and (self.debuginfo is not None or self.force):
            raise UsageError(f"{self.no_debuginfo_reason}, or --debuginfo and --force")
        if self.no_debuginfo and self.needs_debuginfo():
            raise UsageError(
                f"{self.debugger} opens no dump without debuginfo", hint="leave out --with, or --no-debuginfo"
            )

    def wishes(self) -> str:
        """The options that a case either has or not, as text for people; empty when every case will do."""
        asked = {
            "image": self.image,
            "debuginfo": self.debuginfo and self.debuginfo.resolve(),
            "force": self.force,
            "no-debuginfo": self.no_debuginfo,
        }
        return " ".join(f"{name}={value}" for name, value in asked.items() if value)

    def case_key(self) -> str:
        """`wishes`, and which version of the user's own debuginfo: a vmlinux may be built again under its name."""
        if self.debuginfo is None:
            return self.wishes()
        # A warm run of another case does not need it.
        from sandbox.debuginfo.trust import key_of_file

        # What else is in a directory is no concern of the case's.
        file = self.debuginfo / "vmlinux" if self.debuginfo.is_dir() else self.debuginfo
        with suppress(OSError):
            return f"{self.wishes()} version={key_of_file(file)}"
        return self.wishes()

    def accepts(self, case: Case) -> bool:
        """Whether the open case is as these options ask. One without debuginfo is not when that has arrived since, and
        one with it is not when that was removed.
        """
        if self.no_debuginfo and case.vmlinux is None:
            return replace(self, no_debuginfo=False).case_key() == ""
        if self.case_key() not in {"", case.requested}:
            return False
        if case.native and self.debugger is not None and not DEBUGGERS[self.debugger].reads_any_arch:
            return False
        if case.vmlinux is not None:
            return not debuginfo_is_gone(case)
        if self.needs_debuginfo():
            return False
        now = arrival.stage(case.id) if case.awaited else None
        if now is arrival.Stage.FETCHING:
            return self.early
        return now is not arrival.Stage.ARRIVED and not _has_arrived(case)

    def needs_debuginfo(self) -> bool:
        """Whether the user asked for a debugger that opens no dump without it."""
        return self.debugger is not None and DEBUGGERS[self.debugger].needs_debuginfo


def debuginfo_is_gone(case: Case) -> bool:
    """Whether the debuginfo that a case has mounted was removed: what is started there does not find it.

    Also when it was fetched again since: that is another directory than the one that is mounted.
    """
    if case.vmlinux is None or case.remote:
        return False
    if case.vmlinux.exists() and case.mounted in {"", store.mounted(case.vmlinux.parent)}:
        return False
    # A warm run of another case does not need it.
    from sandbox.case.self_contained import DIRECTORY

    return case.vmlinux.parent != DIRECTORY


def _has_arrived(case: Case) -> bool:
    """Whether debuginfo of the case's kernel is in the cache, which was not when the case was opened."""
    # A warm run of another case needs none of these.
    from sandbox.debuginfo.store import Store
    from sandbox.host import paths

    entry = None if case.build_id is None else Store(paths.cache_dir()).find(case.build_id)
    if entry is None:
        return False
    # What was there, and was not used, must not be.
    return case.requested != "" or entry.directory.stat().st_ctime > case.opened.timestamp()
