"""A dump in a bucket of S3, or of a store that speaks its protocol: s3://BUCKET/KEY[?versionId=…].

By AWS's own SDK, whose only importer this is, of the extra vmbox-crash[remote]: region, endpoint, profile and
credentials come from where every other program of AWS takes them (environment, ~/.aws, SSO, the instance). Without any,
requests are not signed, which public buckets allow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sandbox.debuginfo.download import again, resumed
from sandbox.errors import DumpNotFound, DumpUnreadable, missing_extra
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.file import NotInParts, in_words, replaced

_CHUNK: Final = 1 << 20
_SECONDS: Final = 15
"""Without a byte."""

_NO_SUCCESS: Final = 300
_LONGEST_ERROR: Final = 64 << 10
"""Bytes. S3's have some hundred."""

_LONGEST_CODE: Final = 100
"""Characters."""

_GONE: Final = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404"})
_TRANSIENT: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "429", "500", "502", "503", "504"}
)


class S3Dump:
    """One version of an object. Its mark is the version in a bucket that has versions, else the ETag."""

    def __init__(self, url: str, size: int | None, mark: str | None, reporter: Reporter) -> None:
        parts = urlsplit(url)
        self.url = url
        self._bucket, self._key = parts.netloc, parts.path.removeprefix("/")
        self._version = parse_qs(parts.query).get("versionId", [None])[0]
        self._size = size
        self._mark = mark
        self._reporter = reporter
        self._client = _client(url)
        self.fetched = 0

    @property
    def mark(self) -> str | None:
        return self._mark

    @property
    def size(self) -> int:
        if self._size is None:
            self.read_at(0, 1)
        assert self._size is not None  # noqa: S101 - an answer without it is refused
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        data = bytearray()
        self.feed(offset, size, data.extend)
        return bytes(data)

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        with self._in_words():
            resumed(self._range, offset, size, take, lambda once, done: again(once, _is_transient, self._say, done))

    def _range(self, offset: int, size: int) -> Iterator[bytes]:
        wanted: dict[str, Any] = {"Range": f"bytes={offset}-{offset + size - 1}"}
        if self._mark is not None and self._mark.startswith('"'):
            wanted["IfMatch"] = self._mark
        elif (version := self._mark or self._version) is not None:
            wanted["VersionId"] = version
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key, **wanted)
        except ValueError as error:  # of numbers and dates in headers, for which botocore has no error
            raise DumpUnreadable(
                f"{without_secrets(self.url)}: the store's answer is none of S3", hint="check the endpoint"
            ) from error
        first, _, total = answer.get("ContentRange", "").removeprefix("bytes ").partition("/")
        if not first.startswith(f"{offset}-") or not re.fullmatch("[0-9]{1,18}", total):
            raise NotInParts(self.url, "the store sends whole objects only")
        version = answer.get("VersionId")
        found = version if version not in {None, "null"} else answer.get("ETag")
        self._size, self._mark = self._size or int(total), self._mark or found
        if (self._size, self._mark) != (int(total), found):
            raise replaced(self.url)
        left = min(size, int(total) - offset)
        for piece in answer["Body"].iter_chunks(_CHUNK):
            left -= len(piece)
            if left < 0:
                raise NotInParts(self.url, "the store sends more than was asked for")
            self.fetched += len(piece)
            yield piece
        if left:
            raise _Cut

    def _say(self, error: BaseException | None) -> None:
        said = in_words(error) or "no answer in time"
        self._reporter.notice(f"{without_secrets(self.url)}: {said}; trying again")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        name = without_secrets(self.url)
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _GONE:
                raise DumpNotFound(f"there is no object {name}", hint="check bucket and key: aws s3 ls") from None
            if code in {"PreconditionFailed", "412"}:
                raise replaced(self.url) from None
            hint = "who you are: aws sts get-caller-identity; choose a profile: export AWS_PROFILE=NAME"
            raise DumpUnreadable(
                f"{name}: the store says {' '.join(code.split())[:_LONGEST_CODE]}", hint=hint
            ) from None
        except (BotoCoreError, _Cut) as error:
            said = in_words(error) or "the store ends its answer too early"
            raise DumpUnreadable(f"{name}: {said}", hint="check the network, AWS_PROFILE and the endpoint") from None

    def close(self) -> None:
        self._client.close()


class _Cut(Exception):
    """The answer ended before its last byte."""


def _client(url: str) -> Any:
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise missing_extra("s3:// URLs", extra="remote", library="boto3") from error
    settings: dict[str, Any] = {
        "connect_timeout": _SECONDS,
        "read_timeout": _SECONDS,
        # `again` says what it waits for.
        "retries": {"total_max_attempts": 1},
    }
    try:
        session = botocore.session.get_session()
        if session.get_credentials() is None:
            settings["signature_version"] = UNSIGNED
        client = session.create_client("s3", config=Config(**settings))
    except (BotoCoreError, ValueError) as error:
        said = f"{without_secrets(url)}: {in_words(error)}"
        raise DumpUnreadable(said, hint="aws configure list") from None
    # botocore has no public place for it.
    client._endpoint.http_session = _Errors(client._endpoint.http_session)  # noqa: SLF001
    return client


class _Errors:
    """botocore's HTTP session, which would read an error of any length into memory, and any entity of its XML."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        answer = self._session.send(request)
        if answer.status_code >= _NO_SUCCESS:
            raw = answer.raw
            answer.raw = SimpleNamespace(stream=lambda: _error(raw), close=raw.close)
        return answer

    def close(self) -> None:
        self._session.close()


def _error(raw: Any) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        body = raw.read(_LONGEST_ERROR + 1)
    except (HTTPError, OSError):
        body = b""
    raw.close()
    # Without one botocore has the status in place of S3's word for it.
    yield b"" if len(body) > _LONGEST_ERROR or b"<!" in body else body


def _is_transient(error: BaseException) -> bool:
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError

    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "") in _TRANSIENT
    return isinstance(error, HTTPClientError | ResponseStreamingError | IncompleteReadError | _Cut)
