"""Reads parts of a remote package by HTTP ranges: its headers, its index, and only the blocks that are needed."""

from __future__ import annotations

import bisect
import contextlib
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sandbox import render
from sandbox.debuginfo.download import content_range, get, refuse, resumed, retried, total_of
from sandbox.errors import VerificationFailed
from sandbox.formats import xz
from sandbox.formats.streams import CorruptData, Stream
from sandbox.log import without_secrets
from sandbox.progress import QUIET, Reporter, Step

if TYPE_CHECKING:
    import httpx

_WINDOW: Final = 128 << 10
"""Bytes fetched at once when headers are read."""
_NO_SUCH_RANGE: Final = 416
_STREAMS: Final = 4
"""Requests at once. More than processors: some wait for the network while the others unpack."""
_ENCODED: Final = (".gz", ".tgz", ".bz2", ".xz", ".zst")
"""Files whose own compression some servers give as their encoding: the bytes are those of the file."""
_KEPT: Final = 3
"""XzBlocks kept for small reads, which often return to the first and the last block of a file."""


_NO_STEP: Final = QUIET.step("").__enter__()
"""Progress that is not shown."""

Put = Callable[[bytes, int], None]
"""Takes a piece and its offset."""


Get = Callable[[str, Mapping[str, str]], AbstractContextManager["httpx.Response"]]
"""`download.get`, with what else it is given."""


class _Stopped(Exception):
    """Another thread failed."""


class RangesUnsupported(Exception):
    """The server sends whole files only. One line."""

    def __init__(self, why: str, beginning: bytes = b"") -> None:
        super().__init__(why)
        self.beginning = beginning
        """The first bytes of what it sent."""


class HttpFile:
    """Random access to one URL. May be used by several threads."""

    def __init__(
        self,
        url: str,
        size: int | None,
        reporter: Reporter,
        step: Step = _NO_STEP,
        *,
        mark: str | None = None,
        get: Get = get,
    ) -> None:
        """`url` as it is asked for: mirrors are put in already. With `mark`, only that version of the file is read."""
        self.url = url
        self._get = get
        self.secure = url.startswith("https:")
        """Whether every answer comes over TLS: no redirect leads out of it, and one that leads into it may be false."""
        self.fetched = 0
        """Bytes received so far."""
        self._size = size
        self._reporter = reporter
        self._step = step
        self._lock = threading.Lock()
        self.mark = mark
        """What the server calls this version of the file: its ETag, else the time of its last change."""

    @property
    def size(self) -> int:
        """Size of the whole file. Raises like `read_at`."""
        if self._size is None:
            self.read_at(0, 1)
        assert self._size is not None  # noqa: S101 - a 206 without the total is refused
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes. Raises `RangesUnsupported`, `DownloadFailed`, `VerificationFailed`."""
        data = bytearray()
        self.feed(offset, size, data.extend)
        return bytes(data)

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        """Gives these bytes to `take` as they arrive. Continues after a cut connection."""
        resumed(self._range, offset, size, take, lambda once, done: retried(self.url, once, self._reporter, done))

    def _range(self, offset: int, size: int) -> Iterator[bytes]:
        import httpx

        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        with self._get(self.url, headers) as response:
            if response.status_code == _NO_SUCH_RANGE:
                self._refuse_length(response.headers.get("Content-Range", ""))
            refuse(response)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity" and not urlsplit(self.url).path.endswith(_ENCODED):
                raise RangesUnsupported(f"the server, or a proxy, sends it encoded ({encoding})")
            if response.status_code != 206:
                total = total_of(response)
                of = "" if total is None else f", of {render.size(total)} here"
                beginning = next(response.iter_raw(), b"")
                raise RangesUnsupported(f"the server sends whole files only{of}", beginning)
            found = content_range(response)
            if found is None or found[0] != offset or found[1] >= offset + size:
                raise RangesUnsupported("the server does not send the range that was asked for")
            self._same_file(found[2], response.headers.get("ETag") or response.headers.get("Last-Modified"))
            left = min(size, found[2] - offset)
            try:
                for piece in response.iter_raw():
                    left -= len(piece)
                    if left < 0:
                        raise RangesUnsupported("the server sends more than was asked for")
                    with self._lock:
                        self.fetched += len(piece)
                        self._step.advance(len(piece))
                    yield piece
            except httpx.TransportError:
                # A length that is too large, or a cut behind the last byte, takes nothing away.
                if left:
                    raise
        if left:
            raise httpx.RemoteProtocolError("ended too early")

    def _refuse_length(self, said: str) -> None:
        """Raises for a server that has no such range: the file is shorter than it was, empty, or it takes no ranges."""
        found = re.fullmatch(r"bytes \*/([0-9]{1,18})", said)
        if found is not None and self._size is not None:
            self._same_file(int(found[1]), None)
        raise RangesUnsupported(f"the server refuses the range that was asked for ({_NO_SUCH_RANGE})")

    def _same_file(self, total: int, mark: str | None) -> None:
        with self._lock:
            if self._size is None:
                self._size = total
            if self.mark is None:
                self.mark = mark
            if total != self._size:
                raise VerificationFailed(f"{without_secrets(self.url)}: it is {total} bytes long, not {self._size}")
            if mark is not None and mark != self.mark:
                raise VerificationFailed(f"{without_secrets(self.url)}: it was replaced while it was read")


class RemoteStream(Stream):
    """Bytes of a remote file in order, from `offset`; skipping costs nothing."""

    def __init__(self, file: HttpFile, offset: int = 0) -> None:
        self._file = file
        self._at = offset
        self._window = b""
        self._window_at = offset

    def read(self, size: int) -> bytes:
        data = self._windowed(size)
        while 0 < len(data) < size and (piece := self._windowed(size - len(data))):
            data += piece
        return data

    def skip(self, size: int) -> None:
        self._at += size

    def _windowed(self, size: int) -> bytes:
        inside = self._at - self._window_at
        if size and not 0 <= inside < len(self._window):
            wanted = min(max(size, _WINDOW), self._file.size - self._at)
            if wanted <= 0:
                return b""
            self._window = self._file.read_at(self._at, wanted)
            self._window_at, inside = self._at, 0
        data = self._window[inside : inside + size]
        self._at += len(data)
        return data


class XzBlocks:
    """Random access to what a remote multi-block xz stream unpacks to. Use it in a `with` statement."""

    def __init__(self, file: HttpFile, offset: int, size: int) -> None:
        """The stream begins at `offset` of the file. Raises `xz.NotSeekable`, `CorruptData`."""
        self._file = file
        self._offset = offset
        self._header, self._blocks = xz.blocks(lambda at, length: file.read_at(offset + at, length), size)
        self._starts = [block.at for block in self._blocks]
        self.size = self._blocks[-1].at + self._blocks[-1].length
        self._pool = ThreadPoolExecutor(_STREAMS, thread_name_prefix="blocks")
        self._kept: OrderedDict[int, Future[bytes]] = OrderedDict()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end. For small reads: their blocks are kept for the next one."""
        data = b""
        for number in self._between(offset, size):
            if (future := self._kept.pop(number, None)) is None:
                future = self._submit(number)
            self._kept[number] = future
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            start = self._starts[number]
            data += future.result()[max(offset - start, 0) : offset + size - start]
        return data

    def copy(self, offset: int, size: int, put: Put) -> None:
        """Gives `put` all of those bytes, in pieces without order, from several threads.

        Neighbouring blocks are one request: a few streams cost a mirror as little as one.
        """
        numbers = list(self._between(offset, size))
        for number in [number for number in numbers if number in self._kept]:
            self._put(self._kept.pop(number).result(), self._starts[number], offset, size, put)
            numbers.remove(number)
        stop = threading.Event()
        running = [self._pool.submit(self._run, run, offset, size, put, stop) for run in self._runs(numbers)]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            stop.set()
            wait(running)

    def _runs(self, numbers: Sequence[int]) -> list[list[int]]:
        """Groups neighbouring blocks, and divides long runs among the threads."""
        share = sum(self._blocks[number].size for number in numbers) / _STREAMS
        runs: list[list[int]] = []
        size = 0
        for number in numbers:
            if runs and runs[-1][-1] == number - 1 and size < share:
                runs[-1].append(number)
            else:
                runs.append([number])
                size = 0
            size += self._blocks[number].size
        return runs

    def _run(self, numbers: Sequence[int], offset: int, size: int, put: Put, stop: threading.Event) -> None:
        coming = deque(numbers)
        unpacking: xz.Unpacking | None = None
        missing = 0

        def take(piece: bytes) -> None:
            nonlocal unpacking, missing
            view = memoryview(piece)
            while view:
                if stop.is_set():
                    raise _Stopped
                block = self._blocks[coming[0]]
                if unpacking is None:
                    unpacking, missing = xz.Unpacking(self._header, block), block.size
                at = block.at + unpacking.length
                data, view = view[:missing], view[missing:]
                missing -= len(data)
                self._put(unpacking.feed(bytes(data)), at, offset, size, put)
                if not missing:
                    unpacking = None
                    coming.popleft()

        with contextlib.suppress(_Stopped):
            first = self._offset + self._blocks[numbers[0]].offset
            self._file.feed(first, sum(self._blocks[number].size for number in numbers), take)

    def _put(self, data: bytes, at: int, offset: int, size: int, put: Put) -> None:
        """Gives `put` the requested part of `data`, which begins at `at`."""
        start, end = max(offset - at, 0), max(offset + size - at, 0)
        if wanted := data if not start and end >= len(data) else data[start:end]:
            put(wanted, max(at - offset, 0))

    def _between(self, offset: int, size: int) -> range:
        """Numbers of the blocks that hold those bytes."""
        end = min(offset + size, self.size)
        if offset >= end:
            return range(0)
        return range(bisect.bisect_right(self._starts, offset) - 1, bisect.bisect_left(self._starts, end))

    def bounds(self, offset: int) -> tuple[int, int]:
        """(first byte, end) of the block that holds the byte at `offset`."""
        number = max(bisect.bisect_right(self._starts, min(offset, self.size - 1)) - 1, 0)
        return self._starts[number], self._starts[number] + self._blocks[number].length

    def cost(self, offset: int, size: int) -> int:
        """Bytes that still have to be fetched for those."""
        return sum(self._blocks[number].size for number in self._between(offset, size) if number not in self._kept)

    def _submit(self, number: int) -> Future[bytes]:
        return self._pool.submit(self._fetch, self._blocks[number])

    def _fetch(self, block: xz.Block) -> bytes:
        data = self._file.read_at(self._offset + block.offset, block.size)
        return xz.unpack(self._header, data, block)


class BlockStream(Stream):
    """The content of a remote xz stream, in order, for the headers of an archive."""

    def __init__(self, blocks: XzBlocks) -> None:
        self.at = 0
        self._blocks = blocks

    def read(self, size: int) -> bytes:
        data = self._blocks.read_at(self.at, size)
        self.at += len(data)
        return data

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > self._blocks.size:
            raise CorruptData("it ends too early")
