"""Downloads whole packages: hashes and reads them while they arrive, and goes on where an earlier attempt ended.

The bytes are kept in a `.part` file that outlives the process; the next attempt asks for the rest with a range.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Final, Generic, TypeVar

from sandbox.debuginfo.download import get, refuse, refuse_page, retried, total_of
from sandbox.debuginfo.package_names import RemotePackage
from sandbox.errors import DownloadFailed, VerificationFailed
from sandbox.formats.streams import CHUNK, CorruptData, GrowingFile, Stream
from sandbox.host import mirrors
from sandbox.host.disk import need_space, no_space
from sandbox.host.files import write_all
from sandbox.progress import Reporter, Step

_T = TypeVar("_T")

_ATTEMPTS: Final = 4
"""Beginnings from the first byte."""
LARGEST_PACKAGE: Final = 16 << 30
"""Bytes that a package of unknown size may have. Debug packages of kernels have one or two GB."""
_STRIDE: Final = 256 << 20
"""Free space is checked again after so many bytes of a download of unknown size."""


class _StartOver(Exception):
    """The `.part` file cannot be continued."""


def read_package(
    remote: RemotePackage,
    part: Path,
    consume: Callable[[Stream], _T],
    *,
    title: str,
    reporter: Reporter,
    limit: int = LARGEST_PACKAGE,
) -> tuple[_T, str]:
    """Downloads `remote` into `part` while `consume` reads it in a thread: (its result, the package's SHA-256).

    Returns only after the whole package arrived and its size and hash are the index's; `consume` must not make
    anything visible before. An error of `consume` ends the download, and so do more than `limit` bytes. Raises
    `DownloadFailed`, `VerificationFailed`, `NoSpace`, or what `consume` raised.
    """
    for _ in range(_ATTEMPTS):
        resumed = part.exists() and part.stat().st_size > 0
        try:
            return _Arrival(remote, part, reporter, limit).run(consume, title)
        except _StartOver as why:
            part.unlink(missing_ok=True)
            reporter.notice(f"{remote.url}: {why}; starting over")
        except VerificationFailed as error:
            part.unlink(missing_ok=True)
            if not resumed:
                raise
            # A power failure may have damaged an earlier download; only a new one is proof.
            reporter.notice(f"{error.message}; what was left of an earlier download is thrown away")
    raise DownloadFailed(f"{remote.url}: cut off again and again, and the server cannot resume")


class _Arrival:
    """One package under way."""

    def __init__(self, remote: RemotePackage, part: Path, reporter: Reporter, limit: int) -> None:
        self.url = mirrors.rewrite(remote.url)
        self.limit = limit
        self.remote = remote
        self.part = part
        self.reporter = reporter
        self.size = remote.size
        self.offset = 0
        self.hash = hashlib.sha256()

    def run(self, consume: Callable[[Stream], _T], title: str) -> tuple[_T, str]:
        try:
            with self.part.open("ab", buffering=0) as out, self._reader() as arriving:
                reading = _Reading(consume, arriving)
                try:
                    with self.reporter.step(title, total=self.size, unit="B") as step:
                        self._rehash(arriving, step)
                        self._download(out, arriving, reading, step)
                    arriving.end()
                except BaseException:
                    arriving.end(failed=True)
                    reading.join()
                    raise
                if reading.busy():
                    with self.reporter.step(f"Unpacking {self.remote.package}"):
                        reading.join()
                result = reading.result()
        except CorruptData as error:
            raise VerificationFailed(f"{self.url}: {error}") from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise no_space(self.part.parent, self.remote.package) from None
            raise
        found = self.hash.hexdigest()
        if self.remote.sha256 is not None and found != self.remote.sha256:
            raise VerificationFailed(f"{self.url}: its SHA-256 is {found}, the index says {self.remote.sha256}")
        return result, found

    @contextlib.contextmanager
    def _reader(self) -> Iterator[GrowingFile]:
        arriving = GrowingFile(self.part)
        try:
            yield arriving
        finally:
            arriving.close()

    def _rehash(self, arriving: GrowingFile, step: Step) -> None:
        """Hashes the bytes of an earlier attempt, which count as arrived."""
        with self.part.open("rb", buffering=0) as old:
            while data := old.read(CHUNK):
                self.hash.update(data)
                self.offset += len(data)
                arriving.arrived(self.offset)
                step.advance(len(data))
        if self.size is not None and self.offset > self.size:
            raise _StartOver("more is here than there should be")

    def _download(self, out: FileIO, arriving: GrowingFile, reading: _Reading[_T], step: Step) -> None:
        if self.size is not None:
            self._within(self.size)
            need_space(self.part.parent, self.size - self.offset, self.remote.package)

        def attempt() -> None:
            if self.size is not None and self.offset == self.size:
                return
            headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
            with get(self.url, headers) as response:
                if response.status_code == 416:
                    raise _StartOver("it is not as long as what is here")
                refuse(response)
                if self.offset and response.status_code != 206:
                    raise _StartOver("the server cannot resume")
                self._expect(total_of(response), step)
                # In pieces as they arrive: with pieces of one size, the last bytes of a cut connection would be lost.
                for data in response.iter_raw():
                    if not self.offset:
                        refuse_page(self.url, data)
                    reading.raise_own()
                    self._room(len(data))
                    write_all(out.fileno(), data)
                    self.hash.update(data)
                    self.offset += len(data)
                    arriving.arrived(self.offset)
                    step.advance(len(data))
            if self.size is not None and self.offset < self.size:
                import httpx

                raise httpx.RemoteProtocolError("ended too early")

        retried(self.url, attempt, self.reporter, lambda: self.offset)

    def _room(self, more: int) -> None:
        """Refuses more bytes than the promised size: a server must not fill the disk."""
        if self.size is not None:
            if self.offset + more > self.size:
                raise VerificationFailed(f"{self.url}: longer than {self.size} bytes")
            return
        self._within(self.offset + more)
        if self.offset // _STRIDE != (self.offset + more) // _STRIDE:
            need_space(self.part.parent, _STRIDE, self.remote.package)

    def _within(self, size: int) -> None:
        if size > self.limit:
            raise VerificationFailed(f"{self.url}: longer than the {self.limit} bytes that it may have at most")

    def _expect(self, total: int | None, step: Step) -> None:
        if total is None:
            return
        if self.size is None:
            self._within(total)
            need_space(self.part.parent, total - self.offset, self.remote.package)
            self.size = total
            step.total(total)
        elif total != self.size:
            raise VerificationFailed(f"{self.url}: it is {total} bytes long, not {self.size}")


class _Reading(Generic[_T]):
    """`consume` in a thread of its own."""

    def __init__(self, consume: Callable[[Stream], _T], stream: Stream) -> None:
        self._result: list[_T] = []
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._result.append(consume(stream))
            except BaseException as error:  # noqa: BLE001 - raised again where the download is waited for
                self._error = error

        self._thread = threading.Thread(target=run, name="debuginfo", daemon=True)
        self._thread.start()

    def raise_own(self) -> None:
        """Raises what `consume` raised, if it did."""
        if self._error is not None:
            raise self._error

    def busy(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    def result(self) -> _T:
        self.join()
        self.raise_own()
        return self._result[0]
