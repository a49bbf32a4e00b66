"""The options with which a user opens a dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    idle: int | None = None
    """Seconds after which the unused case disposes of itself; 0 never. None: as the settings say, and for a case that
    is open as it was opened."""
    once: bool = False
    """A case of its own, which no other process finds. The session, or `case_for_tool`, that it is opened for
    closes it."""
    debugger: str | None = None
    """The name of the debugger that is to answer. None: crash where it knows the kernel and comes up, else drgn."""
    native: bool = False
    """Programs of the engine's machine, whichever the dump is of: crash cannot read it then, drgn can."""

    def case_key(self) -> str:
        """The options that a case either has or not, as text; empty when every case will do."""
        asked = {"image": self.image, "debuginfo": self.debuginfo and self.debuginfo.resolve(), "force": self.force}
        return " ".join(f"{name}={value}" for name, value in asked.items() if value)
