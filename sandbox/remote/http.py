"""A dump on a web server, read by ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sandbox.dump import magic
from sandbox.errors import ConfigurationError, DumpError, DumpNotFound, DumpUnreadable, NoSpace, NotADump, VmboxError
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.file import NotInParts, replaced

if TYPE_CHECKING:
    from sandbox.debuginfo.http_ranges import RangesUnsupported

_T = TypeVar("_T")

_SECONDS: Final = 10.0
"""Without a byte: a debugger waits for it."""


_WHOLE: Final = 32 << 20
"""Bytes of a file, a log mostly, that is fetched as a whole where the server sends no parts."""


class HttpDump:
    """A file on a web server, read by ranges. Credentials are those of ~/.netrc, each for its host only.

    A small one is kept in memory where the server sends whole files only, or other parts than it was asked for.
    """

    def __init__(self, url: str, size: int | None, mark: str | None, reporter: Reporter) -> None:
        from sandbox.debuginfo.download import get
        from sandbox.debuginfo.http_ranges import HttpFile

        self.url = url
        self._reporter = reporter
        self._version = size, mark
        self._file = HttpFile(url, size, reporter, mark=mark, get=partial(get, seconds=_SECONDS, login=True))
        self._whole: _Whole | None = None

    @property
    def mark(self) -> str | None:
        return self._file.mark if self._whole is None else self._whole.mark

    @property
    def fetched(self) -> int:
        return self._file.fetched + (0 if self._whole is None else len(self._whole.content))

    @property
    def size(self) -> int:
        return self._read(lambda: self._file.size, len)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._read(lambda: self._file.read_at(offset, size), lambda content: content[offset : offset + size])

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        with _in_words(self.url):
            if self._whole is None:
                self._file.feed(offset, size, take)
            else:
                take(self._whole.content[offset : offset + size])

    def _read(self, by_range: Callable[[], _T], in_whole: Callable[[bytes], _T]) -> _T:
        from sandbox.debuginfo.http_ranges import RangesUnsupported

        with _in_words(self.url):
            if self._whole is None:
                try:
                    return by_range()
                except RangesUnsupported as why:
                    self._whole = self._fetch_whole(why)
            return in_whole(self._whole.content)

    def _fetch_whole(self, why: RangesUnsupported) -> _Whole:
        """Raises `why` for a file that is too large, or that is no dump and no log."""
        from sandbox.debuginfo.download import get, refuse, retried, total_of

        content = bytearray()
        mark: str | None = None

        def attempt() -> None:
            nonlocal mark
            content.clear()
            with get(self.url, seconds=_SECONDS, login=True) as response:
                refuse(response)
                size = total_of(response)
                mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
                if response.headers.get("Content-Encoding", "identity") != "identity" or (size or 0) > _WHOLE:
                    raise why
                for piece in response.iter_raw():
                    content.extend(piece)
                    if len(content) > _WHOLE:
                        raise why
            if size is not None and len(content) != size:
                import httpx

                raise httpx.RemoteProtocolError("ended too early")

        if magic.foreign(why.beginning) is not None:
            raise why
        retried(self.url, attempt, self._reporter)
        whole = _Whole(bytes(content), mark or f"sha256:{hashlib.sha256(content).hexdigest()}")
        size, version = self._version
        if size not in {None, len(content)} or version not in {None, whole.mark}:
            raise replaced(self.url)
        return whole

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


@dataclass(frozen=True, slots=True)
class _Whole:
    content: bytes
    mark: str
    """What the server calls this version, else the hash of it."""


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
