"""A dump on a web server: a description of it on this host, and its bytes by HTTP ranges.

The description is a small file with URL, size and the server's mark of the version (ETag, else Last-Modified). Its path
stands for the dump wherever a path is wanted, so that case, transcript and messages know no URL, which may be signed.
When the server has another version, the description is written again, and by its new time it is another dump.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from urllib.parse import unquote, urlsplit

from sandbox.dump.identify import identify_source
from sandbox.dump.source import READ_LIMIT, identity
from sandbox.dump.view import open_view
from sandbox.errors import DumpNotFound, DumpUnreadable, VmboxError
from sandbox.host import decode, paths
from sandbox.host.files import write_atomically
from sandbox.log import Log, without_secrets
from sandbox.model import DUMP_SCHEMES, Vmcore
from sandbox.progress import QUIET, Reporter

_SUFFIX: Final = ".remote"
"""Of the directory of a description."""

_PAGE: Final = 128 << 10
"""Bytes that are fetched at least."""
_AHEAD: Final = 16
"""Pages that are fetched at once, at most, where reads go forward."""
_KEPT: Final = (1 << 30) // _PAGE
"""Pages that are kept on the disk; then the one that was fetched first goes."""

_log = Log("case")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    url: str
    size: int
    mark: str | None
    """What the server calls this version."""


def local(dump: Path, reporter: Reporter = QUIET) -> Path:
    """The path of the description of a dump that is given as a URL, after the server was asked; any other path itself.

    Raises `DumpNotFound`, or `DumpUnreadable` when the server does not send parts.
    """
    if not str(dump).startswith(DUMP_SCHEMES):
        return dump
    url, path = _url(dump), known(dump)
    now = _ask(url, reporter)
    before = _read(path)
    if before != now:
        paths.make_private(path.parent.parent)
        paths.make_private(path.parent)
        text = json.dumps({"url": now.url, "size": now.size, "mark": now.mark})
        write_atomically(path, text.encode(), mode=0o600)
    if before is not None and before != now:
        reporter.notice(f"{without_secrets(url)} was replaced on its server: it is another dump than before")
    return path


def known(dump: Path) -> Path:
    """The path of the description of a dump that is given as a URL, whether there is one or not; no server is asked."""
    url = _url(dump)
    place = paths.unpacked_dir() / (hashlib.sha256(url.encode()).hexdigest()[:16] + _SUFFIX)
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return place / (re.sub(r"[^\w.+-]", "_", last)[:100].lstrip(".") or "vmcore")


def _url(dump: Path) -> str:
    scheme, _, rest = str(dump).partition(":/")
    return f"{scheme}://{rest}"


def forget(path: Path) -> bool:
    """Removes the description of a dump, which may have a signed URL in it; returns whether there was one."""
    there = is_description(path) and path.exists()
    if there:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    return there


def is_description(path: Path) -> bool:
    """Whether the path stands for a dump on a server."""
    return path.parent.suffix == _SUFFIX and path.parent.parent.resolve() == paths.unpacked_dir().resolve()


def name(path: Path) -> str:
    """What to call a dump in front of people: its URL, without what may be secret, or its path."""
    description = _read(path) if is_description(path) else None
    return str(path) if description is None else without_secrets(description.url)


def identify(path: Path, reporter: Reporter = QUIET) -> Vmcore:
    """`sandbox.dump.identify` of the dump that a description stands for. Raises what that does."""
    with RemoteSource(path, reporter) as source:
        view = open_view(source, paths.unpacked_dir(), reporter)
        if view is None:
            raise DumpUnreadable(
                f"{name(path)} has to be unpacked or rearranged, which takes all of it",
                hint="download it first: curl -LO URL",
            )
        return identify_source(path, view)


class RemoteSource:
    """The dump that a description stands for. What was fetched is kept on the disk, in a file without a name."""

    damage: str | None = None

    def __init__(self, path: Path, reporter: Reporter = QUIET) -> None:
        """Raises `DumpUnreadable` for a description that is gone."""
        from sandbox.debuginfo.http_ranges import HttpFile

        description = _read(path)
        if description is None:
            raise DumpUnreadable(f"{path} describes no dump", hint="name the dump by its URL again")
        self.path = path
        self.url = description.url
        self.size = description.size
        self._kept: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - as long as this
        self._slots: dict[int, int] = {}
        self._last = -2
        self._ahead = 1
        self._file = HttpFile(description.url, description.size, reporter, mark=description.mark)

    @property
    def identity(self) -> str:
        return identity(self.path, self.path.stat())

    @property
    def fetched(self) -> int:
        """Bytes that came from the server."""
        return self._file.fetched

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises `DumpUnreadable`."""
        if offset < 0 or size <= 0 or offset >= self.size:
            return b""
        end = min(offset + min(size, READ_LIMIT), self.size)
        out = []
        for page in range(offset // _PAGE, (end - 1) // _PAGE + 1):
            if page not in self._slots:
                self._fetch(page, (end - 1) // _PAGE)
            first = max(offset - page * _PAGE, 0)
            self._kept.seek(self._slots[page] * _PAGE + first)
            out.append(self._kept.read(min(_PAGE, end - page * _PAGE) - first))
        return out[0] if len(out) == 1 else b"".join(out)

    def _fetch(self, page: int, wanted: int) -> None:
        """Fetches a page, those after it up to `wanted`, and more where reads go forward."""
        self._ahead = min(self._ahead * 2, _AHEAD) if page == self._last + 1 else 1
        count = max(1, min(wanted - page + 1, _AHEAD, _KEPT), self._ahead)
        data = self._get(page * _PAGE, min(count * _PAGE, self.size - page * _PAGE))
        for number in range(-(-len(data) // _PAGE)):
            if page + number not in self._slots:
                self._keep(page + number, data[number * _PAGE : (number + 1) * _PAGE])
        self._last = page + count - 1

    def _keep(self, page: int, data: bytes) -> None:
        slot = len(self._slots)
        if slot >= _KEPT:
            slot = self._slots.pop(next(iter(self._slots)))
        self._slots[page] = slot
        self._kept.seek(slot * _PAGE)
        self._kept.write(data)

    def _get(self, offset: int, size: int) -> bytes:
        from sandbox.debuginfo.http_ranges import RangesUnsupported

        try:
            return self._file.read_at(offset, size)
        except VmboxError as error:
            raise DumpUnreadable(
                f"{without_secrets(self.url)} cannot be read at byte {offset}: {error.message}",
                hint="run the command again",
            ) from None
        except RangesUnsupported as error:
            raise _without_ranges(self.url, str(error)) from None

    def close(self) -> None:
        _log.info("%s: %d of %d bytes were fetched", without_secrets(self.url), self.fetched, self.size)
        self._kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _ask(url: str, reporter: Reporter) -> Description:
    from sandbox.debuginfo.download import Refused
    from sandbox.debuginfo.http_ranges import HttpFile, RangesUnsupported

    file = HttpFile(url, None, reporter)
    try:
        return Description(url=url, size=file.size, mark=file.mark)
    except Refused as error:
        if error.status in {404, 410}:
            raise DumpNotFound(f"there is no file {without_secrets(url)}", hint="check the URL") from None
        raise DumpUnreadable(error.message, hint="is a login missing, or is the URL's signature too old?") from None
    except RangesUnsupported as error:
        raise _without_ranges(url, str(error)) from None
    except VmboxError as error:
        raise DumpUnreadable(error.message, hint="check the URL and the network") from None


def _without_ranges(url: str, reason: str) -> DumpUnreadable:
    return DumpUnreadable(
        f"{without_secrets(url)} cannot be read in parts: {reason}",
        hint="download it first: curl -LO URL",
    )


def _read(path: Path) -> Description | None:
    try:
        return decode.read_json(Description, path)
    except (OSError, decode.DecodeError):
        return None
