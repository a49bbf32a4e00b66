"""A dump on a web server, read by ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.case.remote_file import NotInParts
from sandbox.errors import DumpError, DumpNotFound, DumpUnreadable, VmboxError
from sandbox.log import without_secrets
from sandbox.progress import Reporter


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
