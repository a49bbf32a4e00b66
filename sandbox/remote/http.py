"""A dump on a web server, read by ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from sandbox.dump import magic
from sandbox.errors import ConfigurationError, DumpError, DumpNotFound, DumpUnreadable, NoSpace, NotADump, VmboxError
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.file import NotInParts

_SECONDS: Final = 10.0
"""Without a byte: a debugger waits for it."""


class HttpDump:
    """A file on a web server, read by ranges. Credentials are those of ~/.netrc, each for its host only."""

    def __init__(self, url: str, size: int | None, mark: str | None, reporter: Reporter) -> None:
        from sandbox.debuginfo.download import get
        from sandbox.debuginfo.http_ranges import HttpFile

        self.url = url
        self._reporter = reporter
        self._file = HttpFile(url, size, reporter, mark=mark, get=partial(get, seconds=_SECONDS, login=True))

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

    def feed_whole(self, begin: Callable[[int | None], Callable[[bytes], None]]) -> None:
        """All of it from a server that sends whole files only: `begin` is called with the size, again after each cut.

        It returns what takes the bytes. Raises `DumpUnreadable`.
        """
        from sandbox.debuginfo.download import get, refuse, retried, total_of

        def attempt() -> None:
            with get(self.url, seconds=_SECONDS, login=True) as response:
                refuse(response)
                size, arrived = total_of(response), 0
                take = begin(size)
                for piece in response.iter_raw():
                    arrived += len(piece)
                    take(piece)
            if size is not None and arrived != size:
                import httpx

                raise httpx.RemoteProtocolError("ended too early")

        with _in_words(self.url):
            retried(self.url, attempt, self._reporter)

    def close(self) -> None:
        """Connections are kept by the client, for all files of a process."""


@contextmanager
def _in_words(url: str) -> Iterator[None]:
    from sandbox.debuginfo.download import ProxyRefused, Refused
    from sandbox.debuginfo.http_ranges import RangesUnsupported

    try:
        yield
    except Refused as error:
        if error.status in {404, 410}:
            raise DumpNotFound(f"there is no file {without_secrets(url)}", hint="check the URL") from None
        hint = "is a login missing (~/.netrc), or is the URL's signature too old?"
        if error.status >= 500:
            hint = "it is the server that fails: run the command again later"
        raise DumpUnreadable(error.message, hint=hint) from None
    except ProxyRefused as error:
        raise DumpUnreadable(error.message, hint=error.hint) from None
    except RangesUnsupported as error:
        if (found := magic.foreign(error.beginning)) is not None:
            hint = (
                "is it a login? Give the address of the file itself, which a download in a browser has, or a signed one"
            )
            raise NotADump(f"{without_secrets(url)} is {found[0]}, not a kernel crash dump", hint=hint) from None
        raise NotInParts(url, str(error)) from None
    except (DumpError, ConfigurationError, NoSpace):
        raise
    except VmboxError as error:
        raise DumpUnreadable(error.message, hint="check the URL and the network, and run the command again") from None
