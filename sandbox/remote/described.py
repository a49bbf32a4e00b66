"""A dump on a server, and the description of it on this host.

The description is a small file with URL, size and the server's mark of the version (ETag, else Last-Modified). Its path
stands for the dump wherever a path is wanted, so that case, transcript and messages know no URL, which may be signed.
When the server has another version, the description is written again, and by its new time it is another dump.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from sandbox.errors import DumpUnreadable, UsageError
from sandbox.host import decode, paths
from sandbox.host.files import write_atomically
from sandbox.log import without_secrets
from sandbox.model import DUMP_SCHEMES
from sandbox.progress import QUIET, Reporter
from sandbox.remote import pages
from sandbox.remote.places import COPIED, DESCRIBED

_SIGNATURE: Final = re.compile(
    r"(?i)x-(?:amz|goog|ms|oss|cos)-.*|sig(?:nature)?|expires|s[eprtv]|spr|sk(?:oid|tid|[tesv])|key-pair-id|policy"
    r"|(?:access_?)?token|awsaccesskeyid|googleaccessid"
)
"""Parameters of the signatures of AWS, CloudFront, Google, Azure, Alibaba and Tencent."""

_LATELY: Final = 60.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    url: str
    size: int
    mark: str | None
    """What the server calls this version."""


class NamedByUrl(PosixPath):
    """The path of the description of a dump, with the URL that the user gave. Its server was not asked yet."""

    url: str = ""


def of_url(word: str) -> Path:
    """The path that stands for a URL: a `NamedByUrl`, which `local` takes; of a file:// URL, the file's own.

    That of a URL of a kind that is not read is the word's, so that to open it says so. Raises `UsageError`.
    """
    scheme, _, rest = word.partition(":")
    scheme = scheme.lower()
    if scheme == "file":
        place = rest.removeprefix("//localhost") if rest.startswith("//localhost/") else rest
        return Path("/" + unquote(place).lstrip("/"))
    if not f"{scheme}:{rest}".startswith(DUMP_SCHEMES):
        return Path(word)
    # A caller's `Path` has a slash less.
    url = f"{scheme}://{rest.removeprefix('/').removeprefix('/')}"
    _check(url)
    named = NamedByUrl(_place(url, DESCRIBED))
    named.url = url
    return named


def url_of(dump: Path) -> str | None:
    """The URL by which the user named a dump; None for the path of a file."""
    return dump.url or None if isinstance(dump, NamedByUrl) else None


def local(dump: Path, reporter: Reporter = QUIET) -> Path:
    """The path of the description, or of the copy, of a dump that was named by its URL, after the server was asked.

    Any other path itself. Raises `DumpNotFound`, or `DumpUnreadable` when the server does not send parts.
    """
    path, url = known(dump), url_of(dump)
    if url is None or not is_description(path):
        return path
    now = _ask(url, reporter)
    before = read(path)
    if before != now:
        pages.discard(path.parent)
        paths.make_private(path.parent.parent)
        paths.make_private(path.parent)
        text = json.dumps({"url": now.url, "size": now.size, "mark": now.mark})
        write_atomically(path, text.encode(), mode=0o600)
    os.utime(path.parent)
    if before is not None and before != now:
        reporter.notice(f"{without_secrets(url)} was replaced on its server: it is another dump than before")
    return path


def is_known(dump: Path) -> bool:
    """Whether no server has to be asked: the dump is a file, or its server was asked for the version within a minute.

    For a case that is open: it is of the version that was noted, and reads fail when the server has another one.
    """
    if url_of(dump) is None:
        return True
    try:
        return 0 <= time.time() - known(dump).parent.stat().st_mtime < _LATELY
    except OSError:
        return False


def known(dump: Path) -> Path:
    """The path of the description of a dump that was named by its URL, whether there is one or not; no server is asked.

    That of its copy, where it was downloaded. Any other path itself, as `local` has it.
    """
    url = url_of(dump)
    if url is None:
        return dump
    copy = _place(url, COPIED)
    return copy if copy.exists() else _place(url, DESCRIBED)


def without_signature(path: Path) -> str:
    """The URL of a description, less what a cloud's signature adds to it, which is another one each time.

    Not to be shown: other values of a query may be secret as well. Raises `DumpUnreadable` for one that is gone.
    """
    description = read(path)
    if description is None:
        raise DumpUnreadable(f"{path} describes no dump", hint="name the dump by its URL again")
    url, _, query = description.url.partition("?")
    kept = [word for word in query.split("&") if word and not _SIGNATURE.fullmatch(word.partition("=")[0])]
    return f"{url}?{'&'.join(kept)}" if kept else url


def download(dump: Path, reporter: Reporter = QUIET) -> Path:
    """Downloads the dump at a URL, once: all commands that are given the URL read the copy, until `forget`.

    Raises `DumpNotFound`, `DumpUnreadable`, `NoSpace`, and `UsageError` for what is no URL.
    """
    url = url_of(dump)
    if url is None:
        raise UsageError(f"{dump} is on this host already", hint="leave --download out")
    from sandbox.remote import copied

    copy = _place(url, COPIED)
    copied.download(url, copy, reporter)
    return copy


def _place(url: str, suffix: str) -> Path:
    place = paths.unpacked_dir() / (hashlib.sha256(url.encode()).hexdigest()[:16] + suffix)
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return place / (re.sub(r"[^\w.+-]", "_", last)[:100].lstrip(".") or "vmcore")


def _check(url: str) -> None:
    """Raises `UsageError` for what is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        named = bool((parts.hostname or "").encode("idna"))
    except ValueError:  # UnicodeError is one, too
        # What it says of a port is a part of a password that has a slash.
        raise UsageError(f"{without_secrets(url)} is no URL", hint="https://HOST[:PORT]/PATH") from None
    if not named:
        raise UsageError(f"{without_secrets(url)} names no host", hint="https://HOST[:PORT]/PATH")


def refuse_url(words: Sequence[str], hint: str) -> None:
    """Raises `UsageError` if one of the words is the URL of a dump, for a command that reads files only."""
    for word in words:
        if word.startswith(DUMP_SCHEMES):
            raise UsageError(f"{without_secrets(word)} is on a server, and only files are read here", hint=hint)


def forget(path: Path) -> bool:
    """Removes description or copy of a dump on a server; returns whether there was one. No other file is removed."""
    there = (is_description(path) or is_copy(path)) and path.exists()
    if there:
        pages.discard(path.parent)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    return there


def is_description(path: Path) -> bool:
    """Whether the path stands for a dump on a server."""
    return _is_kept(path, DESCRIBED)


def is_copy(path: Path) -> bool:
    """Whether the file was downloaded by `download`."""
    return _is_kept(path, COPIED)


def _is_kept(path: Path, suffix: str) -> bool:
    return path.parent.suffix == suffix and path.parent.parent.resolve() == paths.unpacked_dir().resolve()


def name(path: Path) -> str:
    """What to call a dump in front of people: its URL, without what may be secret, or its path."""
    description = read(path) if is_description(path) else None
    return str(path) if description is None else without_secrets(description.url)


def _ask(url: str, reporter: Reporter) -> Description:
    from sandbox.remote import schemes

    file = schemes.open_file(url, reporter=reporter)
    try:
        return Description(url=url, size=file.size, mark=file.mark)
    finally:
        file.close()


def read(path: Path) -> Description | None:
    """The description in the file at `path`; None where there is none."""
    try:
        return decode.read_json(Description, path)
    except (OSError, decode.DecodeError):
        return None
