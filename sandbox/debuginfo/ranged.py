"""A package read where it lies, by HTTP ranges: its headers, its index, and only the blocks that are wanted."""

from __future__ import annotations

import bisect
import os
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from sandbox import mirrors
from sandbox.debuginfo import xz
from sandbox.debuginfo.download import client, refuse, retried
from sandbox.debuginfo.stream import Damaged
from sandbox.errors import VerificationFailed
from sandbox.progress import Reporter, Step

_WINDOW: Final = 128 << 10
"""Bytes fetched at once where headers are read."""
_IN_FLIGHT: Final = 80 << 20
"""Bytes of unpacked blocks that may wait for their turn. liblzma's output takes twice its size while it is joined."""
_KEPT: Final = 3
"""Blocks kept for small reads, which come back to the first and the last of a file."""


class NoRanges(Exception):
    """The server sends whole files only. One line."""


class RemoteFile:
    """Random access to one URL. May be used by several threads."""

    def __init__(self, url: str, size: int | None, reporter: Reporter, step: Step) -> None:
        self.url = mirrors.rewrite(url)
        self.fetched = 0
        """Bytes that travelled."""
        self._size = size
        self._reporter = reporter
        self._step = step
        self._lock = threading.Lock()
        self._etag: str | None = None

    @property
    def size(self) -> int:
        """Of the whole file. Raises like `read_at`."""
        if self._size is None:
            self.read_at(0, 1)
        assert self._size is not None  # noqa: S101 - a 206 without the total is refused
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes. Raises `NoRanges`, `DownloadFailed`, `VerificationFailed`."""
        if size <= 0:
            return b""
        data = bytearray()
        retried(self.url, lambda: self._once(offset, size, data), self._reporter, lambda: len(data))
        return bytes(data)

    def _once(self, offset: int, size: int, data: bytearray) -> None:
        """Adds to `data` what is missing of it."""
        start = offset + len(data)
        headers = {"Range": f"bytes={start}-{offset + size - 1}"}
        with client().stream("GET", self.url, headers=headers) as response:
            refuse(response)
            if response.status_code != 206:
                raise NoRanges("the server sends whole files only")
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start or int(found[2]) >= offset + size:
                raise NoRanges("the server does not send the range that was asked for")
            self._same_file(int(found[3]), response.headers.get("ETag"))
            for piece in response.iter_raw():
                if len(data) + len(piece) > size:
                    raise NoRanges("the server sends more than was asked for")
                data += piece
                with self._lock:
                    self.fetched += len(piece)
                    self._step.advance(len(piece))
        if offset + len(data) < min(offset + size, self._size or 0):
            import httpx

            raise httpx.RemoteProtocolError("ended too early")

    def _same_file(self, total: int, etag: str | None) -> None:
        with self._lock:
            if self._size is None:
                self._size = total
            if self._etag is None:
                self._etag = etag
            if total != self._size:
                raise VerificationFailed(f"{self.url}: it is {total} bytes long, not {self._size}")
            if etag is not None and etag != self._etag:
                raise VerificationFailed(f"{self.url}: it was replaced while it was read")


class RemoteStream:
    """Bytes of a remote file in order, from `offset`; skipping costs nothing."""

    def __init__(self, file: RemoteFile, offset: int = 0) -> None:
        self._file = file
        self._at = offset
        self._window = b""
        self._window_at = offset

    def read(self, amount: int) -> bytes:
        inside = self._at - self._window_at
        if not 0 <= inside < len(self._window):
            size = min(max(amount, _WINDOW), self._file.size - self._at)
            if size <= 0:
                return b""
            self._window = self._file.read_at(self._at, size)
            self._window_at, inside = self._at, 0
        data = self._window[inside : inside + amount]
        self._at += len(data)
        return data

    def skip(self, amount: int) -> None:
        self._at += amount


class Blocks:
    """Random access to what a remote multi-block xz stream unpacks to. Use it in a `with` statement."""

    def __init__(self, file: RemoteFile, offset: int, size: int) -> None:
        """The stream begins at `offset` of the file. Raises `xz.NotSeekable`, `Damaged`."""
        self._file = file
        self._offset = offset
        self._header, self._blocks = xz.blocks(lambda at, length: file.read_at(offset + at, length), size)
        self._starts = [block.at for block in self._blocks]
        self.size = self._blocks[-1].at + self._blocks[-1].length
        # More threads than processors: some wait for the network while the others unpack.
        self._pool = ThreadPoolExecutor(min((os.cpu_count() or 2) + 2, 8), thread_name_prefix="blocks")
        self._kept: OrderedDict[int, Future[bytes]] = OrderedDict()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end. For small reads: the blocks they lie in are kept for the next one."""
        data = b""
        for number in self._between(offset, size):
            if (future := self._kept.pop(number, None)) is None:
                future = self._submit(number)
            self._kept[number] = future
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            data += self._cut(number, future.result(), offset, size)
        return data

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """`size` bytes from `offset`, in order; the blocks ahead are fetched and unpacked meanwhile, none is kept."""
        coming = deque(self._between(offset, size))
        ahead: deque[tuple[int, Future[bytes]]] = deque()
        waiting = 0
        while ahead or coming:
            while coming and (not ahead or waiting + self._blocks[coming[0]].length <= _IN_FLIGHT):
                number = coming.popleft()
                ahead.append((number, self._kept.pop(number) if number in self._kept else self._submit(number)))
                waiting += self._blocks[number].length
            number, future = ahead.popleft()
            yield self._cut(number, future.result(), offset, size)
            waiting -= self._blocks[number].length

    def _between(self, offset: int, size: int) -> range:
        """Numbers of the blocks that hold those bytes."""
        end = min(offset + size, self.size)
        if offset >= end:
            return range(0)
        return range(bisect.bisect_right(self._starts, offset) - 1, bisect.bisect_left(self._starts, end))

    def _cut(self, number: int, data: bytes, offset: int, size: int) -> bytes:
        at = self._starts[number]
        start, end = max(offset - at, 0), offset + size - at
        return data if not start and end >= len(data) else data[start:end]

    def cost(self, offset: int, size: int) -> int:
        """Bytes that still have to travel for those."""
        return sum(self._blocks[number].size for number in self._between(offset, size) if number not in self._kept)

    def _submit(self, number: int) -> Future[bytes]:
        return self._pool.submit(self._fetch, self._blocks[number])

    def _fetch(self, block: xz.Block) -> bytes:
        data = self._file.read_at(self._offset + block.offset, block.size)
        return xz.unpack(self._header, data, block)


class BlockStream:
    """What a remote xz stream unpacks to, in order, for the headers of an archive."""

    def __init__(self, blocks: Blocks) -> None:
        self.at = 0
        self._blocks = blocks

    def read(self, amount: int) -> bytes:
        data = self._blocks.read_at(self.at, min(amount, 1 << 20))
        self.at += len(data)
        return data

    def skip(self, amount: int) -> None:
        self.at += amount
        if self.at > self._blocks.size:
            raise Damaged("it ends too early")
