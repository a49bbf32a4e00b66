"""The bytes of a dump on a server: what is needed is fetched, in pages that are kept on the disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from sandbox.dump.source import READ_LIMIT, identity
from sandbox.errors import DumpUnreadable
from sandbox.host import config
from sandbox.log import Log, without_secrets
from sandbox.progress import QUIET, Reporter
from sandbox.remote import described
from sandbox.remote.pages import PAGE, Pages

if TYPE_CHECKING:
    # Where all is kept that is read, no server is asked, and what asks them is not loaded.
    from sandbox.remote.file import RemoteFile

_AHEAD: Final = 16
"""Pages that are fetched at once, at most, where reads go forward."""

_PAUSE: Final = 5.0
"""Seconds for which a failure stands."""

_log = Log("case")


class RemoteSource:
    """The dump that a description stands for."""

    damage: str | None = None

    def __init__(self, path: Path, reporter: Reporter = QUIET) -> None:
        """Raises `DumpUnreadable` for a description that is gone."""
        description = described.read(path)
        if description is None:
            raise DumpUnreadable(f"{path} describes no dump", hint="name the dump by its URL again")
        self.path = path
        self.url = description.url
        self.size = description.size
        self._mark = description.mark
        self._reporter = reporter
        self._opened: RemoteFile | None = None
        self._last = -2
        self._ahead = 1
        self._failure: DumpUnreadable | None = None
        self._failed = 0.0
        self._recent: dict[int, bytes] = {}
        version = hashlib.sha256(f"{self.url}\0{self.size}\0{description.mark}".encode()).digest()[:16]
        try:
            self._pages: Pages | None = Pages(path.parent, version, config.current().page_limit)
        except OSError as error:
            _log.info("pages of %s are not kept: %s", path, error)
            self._pages = None

    @property
    def _file(self) -> RemoteFile:
        if self._opened is None:
            from sandbox.remote import schemes

            self._opened = schemes.open_file(self.url, size=self.size, mark=self._mark, reporter=self._reporter)
        return self._opened

    @property
    def identity(self) -> str:
        return identity(self.path, self.path.stat())

    @property
    def cheap_to_walk(self) -> bool:
        """Whether all of it may be read to find its way in it: what is fetched is kept for the next time."""
        return self.size <= config.current().page_limit // 2

    @property
    def fetched(self) -> int:
        """Bytes that came from the server."""
        return 0 if self._opened is None else self._opened.fetched

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `DumpUnreadable`."""
        if offset < 0 or size <= 0 or offset >= self.size:
            return b""
        end = min(offset + min(size, READ_LIMIT), self.size)
        out = []
        first, last = offset // PAGE, (end - 1) // PAGE
        page = first
        while page <= last:
            data = self._kept(page) or self._fetch(page, last)
            out.append(data)
            page += -(-len(data) // PAGE)
        whole = out[0] if len(out) == 1 else b"".join(out)
        return whole[offset - first * PAGE : end - first * PAGE]

    def feed(self, take: Callable[[bytes], None]) -> None:
        """Gives all bytes to `take`, in order and once, past the kept pages. Raises `DumpUnreadable`."""
        self._file.feed(0, self.size, take)

    def _kept(self, page: int) -> bytes | None:
        data = self._recent.get(page)
        if data is None and self._pages is not None and (data := self._pages.get(page)) is not None:
            self._remember(page, data)
        return data

    def _remember(self, page: int, data: bytes) -> None:
        if len(self._recent) >= 2 * _AHEAD:
            del self._recent[next(iter(self._recent))]
        self._recent[page] = data

    def _fetch(self, page: int, wanted: int) -> bytes:
        """Fetches a page, those after it up to `wanted`, and more where reads go forward. Returns all of them."""
        self._ahead = min(self._ahead * 2, _AHEAD) if page == self._last + 1 else 1
        count = max(1, min(wanted - page + 1, _AHEAD), self._ahead)
        data = self._get(page * PAGE, min(count * PAGE, self.size - page * PAGE))
        for number in range(-(-len(data) // PAGE)):
            piece = data[number * PAGE : (number + 1) * PAGE]
            if self._pages is not None:
                self._pages.put(page + number, piece)
            self._remember(page + number, piece)
        self._last = page + count - 1
        return data

    def _get(self, offset: int, size: int) -> bytes:
        """A server that has just failed is not asked at once again: for one read the kernel asks more than once."""
        if self._failure is not None and time.monotonic() < self._failed + _PAUSE:
            raise self._failure
        try:
            return self._file.read_at(offset, size)
        except DumpUnreadable as error:
            self._failure, self._failed = error, time.monotonic()
            raise

    def close(self) -> None:
        _log.info("%s: %d of %d bytes were fetched", without_secrets(self.url), self.fetched, self.size)
        if self._opened is not None:
            self._opened.close()
        if self._pages is not None:
            self._pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
