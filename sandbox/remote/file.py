"""A file on a server that is read in parts: what each kind of server has to offer, and errors that all may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from sandbox.errors import DumpUnreadable, pasteable
from sandbox.log import without_secrets


class RemoteFile(Protocol):
    """One version of a file. Every method may raise `DumpUnreadable`."""

    @property
    def mark(self) -> str | None:
        """What the server calls this version. None before the first answer, and where it says nothing."""

    @property
    def fetched(self) -> int:
        """Bytes received so far."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes that lie within the file, of the same version as all before."""

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        """Gives these bytes to `take` as they arrive."""

    def close(self) -> None: ...


_LONGEST: Final = 300
"""Characters of what a server says that are shown."""


def in_words(error: BaseException | None) -> str:
    """What an error says, which may be the server's own words: one line without secrets. "" if it says nothing."""
    return " ".join(without_secrets(str(error or "")).split())[:_LONGEST]


def download_hint(shown: str) -> str:
    """The hint for a dump that has to be downloaded. `shown`: its URL without what may be secret."""
    url = "URL" if "***" in shown else pasteable(shown)
    return f"download it, once, for all commands: vmbox info --download {url}"


class NotInParts(DumpUnreadable):
    """The server sends whole files only."""

    def __init__(self, url: str, reason: str) -> None:
        shown = without_secrets(url)
        super().__init__(f"{shown} cannot be read in parts: {reason}", hint=download_hint(shown))


def replaced(url: str) -> DumpUnreadable:
    """The error for a file that is not the version that was read before."""
    return DumpUnreadable(f"{without_secrets(url)} was replaced while it was read", hint="run the command again")
