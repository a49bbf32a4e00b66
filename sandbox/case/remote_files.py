"""Files on servers, read in parts: one class for each kind of server, all with the same methods and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sandbox.errors import DumpError, DumpNotFound, DumpUnreadable, VmboxError
from sandbox.log import without_secrets
from sandbox.progress import QUIET, Reporter


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


class NotInParts(DumpUnreadable):
    """The server sends whole files only."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{without_secrets(url)} cannot be read in parts: {reason}", hint="download it: curl -LO URL")


def open_file(url: str, *, size: int | None = None, mark: str | None = None, reporter: Reporter = QUIET) -> RemoteFile:
    """The file at a URL; with `size` and `mark`, only this version of it. Nothing is asked for before it is read.

    Raises `DumpUnreadable` for a scheme that is not read.
    """
    return HttpDump(url, size, mark, reporter)


class HttpDump:
    """A file on a web server, read by ranges. Credentials are those of ~/.netrc, each for its host only."""

    def __init__(self, url: str, size: int | None, mark: str | None, reporter: Reporter) -> None:
        from sandbox.debuginfo.http_ranges import HttpFile

        self.url = url
        self._file = HttpFile(url, size, reporter, mark=mark)

    @property
    def mark(self) -> str | None:
        return self._file.mark

    @property
    def fetched(self) -> int:
        return self._file.fetched

    @property
    def size(self) -> int:
        with _in_words(self.url):
            return self._file.size

    def read_at(self, offset: int, size: int) -> bytes:
        with _in_words(self.url):
            return self._file.read_at(offset, size)

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        with _in_words(self.url):
            self._file.feed(offset, size, take)

    def close(self) -> None:
        """Connections are kept by the client, for all files of a process."""


@contextmanager
def _in_words(url: str) -> Iterator[None]:
    from sandbox.debuginfo.download import Refused
    from sandbox.debuginfo.http_ranges import RangesUnsupported

    try:
        yield
    except Refused as error:
        if error.status in {404, 410}:
            raise DumpNotFound(f"there is no file {without_secrets(url)}", hint="check the URL") from None
        hint = "is a login missing (~/.netrc), or is the URL's signature too old?"
        raise DumpUnreadable(error.message, hint=hint) from None
    except RangesUnsupported as error:
        raise NotInParts(url, str(error)) from None
    except DumpError:
        raise
    except VmboxError as error:
        raise DumpUnreadable(error.message, hint="check the URL and the network, and run the command again") from None
