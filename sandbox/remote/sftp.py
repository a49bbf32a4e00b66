"""A dump on a host with an SSH server: sftp://[USER@]HOST[:PORT]/PATH.

By asyncssh, whose only importer this is, of the extra vmbox-crash[remote]: keys and agent, ~/.ssh/config with jump
hosts, and ~/.ssh/known_hosts, without which no host is believed. Nothing asks for a password.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sandbox.debuginfo.download import again
from sandbox.errors import DumpNotFound, DumpUnreadable, UsageError, missing_extra
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.file import in_words, replaced

_HOST: Final = re.compile(r"[\w:][\w.:%-]*")
_PORT: Final = 22
_CHUNK: Final = 4 << 20
_SECONDS: Final = 20.0
"""That an answer may take."""
_SECONDS_TO_END: Final = 2.0
_LARGEST: Final = 1 << 60
"""Bytes: no file has more, and offsets have a sign."""


class SftpDump:
    """One version of a file: its mark is the time of its last change, to the second by most servers, and its size."""

    def __init__(self, url: str, size: int | None, mark: str | None, reporter: Reporter) -> None:
        parts = urlsplit(url)
        if parts.password is not None:
            raise UsageError(
                f"{without_secrets(url)} has a password in it, which other users can see",
                hint="use a key: ssh-copy-id HOST, or an agent: ssh-add",
            )
        self.url = url
        self._host, self._port, self._user = parts.hostname or "", parts.port, parts.username
        if _HOST.fullmatch(self._host) is None:
            # It is part of a command to paste.
            raise UsageError(f"{without_secrets(url)} names no host", hint="sftp://HOST/PATH")
        # As in other programs' URLs, /~/ is the home directory there.
        self._path = unquote(parts.path).removeprefix("/~/")
        self._size = size
        self._mark = mark
        self._reporter = reporter
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._file: Any = None
        self.fetched = 0

    @property
    def mark(self) -> str | None:
        return self._mark

    @property
    def size(self) -> int:
        if self._size is None:
            self._retried(lambda: self._do(self._read(0, 1)))
        assert self._size is not None  # noqa: S101 - _read has noted it
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._retried(lambda: self._do(self._read(offset, size)))

    def feed(self, offset: int, size: int, take: Callable[[bytes], None]) -> None:
        for at in range(offset, offset + size, _CHUNK):
            take(self.read_at(at, min(_CHUNK, offset + size - at)))

    def _retried(self, attempt: Callable[[], bytes]) -> bytes:
        with self._in_words():
            data = again(attempt, _is_transient, self._say)
        self.fetched += len(data)
        return data

    def _do(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Runs it on the loop. A connection that fails, or gives no answer in time, is not used again."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="sftp", daemon=True)
            self._thread.start()
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(_SECONDS)
        except BaseException:
            running.cancel()
            self._drop()
            raise

    async def _read(self, offset: int, size: int) -> bytes:
        if self._file is None:
            await self._open()
        data, now = await asyncio.gather(self._file.read(size, offset), self._file.stat())
        if now.size is None or now.mtime is None or now.size > _LARGEST:
            raise DumpUnreadable(f"{without_secrets(self.url)}: the host does not say how large it is, or of when")
        mark = f"{now.mtime}.{now.mtime_ns or 0} {now.size}"
        self._size, self._mark = self._size or now.size, self._mark or mark
        if (self._size, self._mark) != (now.size, mark):
            raise replaced(self.url)
        if len(data) != max(0, min(size, now.size - offset)):
            raise _Cut
        return bytes(data)

    async def _open(self) -> None:
        import asyncssh

        chosen: dict[str, Any] = {} if self._port is None else {"port": self._port}
        if self._user is not None:
            chosen["username"] = self._user
        options = asyncssh.SSHClientConnectionOptions(
            host=self._host,
            config=(),
            connect_timeout=_SECONDS / 2,
            login_timeout=_SECONDS / 2,
            keepalive_interval=10,
            **chosen,
        )
        # asyncssh believes any host then.
        if options.known_hosts is None:
            raise DumpUnreadable(
                f"~/.ssh/config has no known hosts for {self._host}: nothing says that it is that host",
                hint="remove UserKnownHostsFile none from it",
            )
        try:
            self._connection = await asyncssh.connect(self._host, options=options)
        except asyncssh.HostKeyNotVerifiable:
            if (known := _known_as(options)) is None:
                raise
            raise DumpUnreadable(
                f"{without_secrets(self.url)}: its host key is another than the one that is known: is it that host?",
                hint=f"ask who runs it; if its key was changed: ssh-keygen -R '{known}'",
            ) from None
        client = await self._connection.start_sftp_client()
        # What a server says of reading one tells nothing: OpenSSH's "Failure".
        if await client.isdir(self._path):
            raise DumpNotFound(
                f"{without_secrets(self.url)} is a directory", hint="name the file in it: …/vmcore; ssh HOST ls -l PATH"
            )
        self._file = await client.open(self._path, "rb")

    def _say(self, error: BaseException | None) -> None:
        said = in_words(error) or "no answer in time"
        self._reporter.notice(f"{without_secrets(self.url)}: {said}; trying again")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            import asyncssh
        except ImportError as error:
            raise missing_extra("sftp:// URLs", extra="remote", library="asyncssh") from error
        name = without_secrets(self.url)
        try:
            yield
        except asyncssh.HostKeyNotVerifiable as error:
            raise DumpUnreadable(
                f"{name}: {in_words(error)}",
                hint=f"is it that host? then its key becomes known by: {self._ssh()} true",
            ) from None
        except asyncssh.PermissionDenied:
            hint = "try it: ssh HOST true; a key of an agent: ssh-add; another user: sftp://USER@HOST/…"
            raise DumpUnreadable(f"{name}: the host does not let this user in", hint=hint) from None
        except asyncssh.SFTPNoSuchFile:
            raise DumpNotFound(f"there is no file {name}", hint="check the path: ssh HOST ls -l PATH") from None
        except asyncssh.SFTPPermissionDenied:
            raise DumpUnreadable(f"no permission to read {name}", hint="setfacl -m u:USER:r PATH, there") from None
        except (asyncssh.Error, OSError, FutureTimeoutError, _Cut) as error:
            said = in_words(error) or "no answer in time"
            raise DumpUnreadable(f"{name}: {said}", hint="try it: ssh HOST true") from None
        except ValueError as error:  # asyncssh.packet.PacketDecodeError and others, for which it has no name
            said = f"{name}: the host's answer is none of SFTP ({in_words(error)})"
            raise DumpUnreadable(said, hint="try it: sftp HOST") from error

    def _ssh(self) -> str:
        return f"ssh {self._host}" if self._port is None else f"ssh -p {self._port} {self._host}"

    def _drop(self) -> None:
        connection, self._connection, self._file = self._connection, None, None
        if connection is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(connection.abort)

    def close(self) -> None:
        self._drop()
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        # asyncio prints a warning for each task that is left.
        with suppress(FutureTimeoutError):
            asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(_SECONDS_TO_END)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(_SECONDS_TO_END)
        if not self._thread.is_alive():
            loop.close()


def _known_as(options: Any) -> str | None:
    """The name by which known_hosts has a key of the host; None where it has none, or a jump host may be meant.

    asyncssh has one error for a host that is not known and for one with another key.
    """
    import asyncssh

    if options.tunnel:
        return None
    # Where nothing is configured, asyncssh reads this one.
    files = options.known_hosts or [str(Path("~/.ssh/known_hosts").expanduser())]
    host, port = options.host_key_alias or options.host, options.port
    try:
        keys, authorities, *_ = asyncssh.match_known_hosts(files, host, "", port)
    except (OSError, ValueError):
        return None
    if not keys and not authorities:
        return None
    return host if port in {None, _PORT} else f"[{host}]:{port}"


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Cut(Exception):
    """Other than as many bytes came as the file has there."""


def _is_transient(error: BaseException) -> bool:
    import asyncssh

    if isinstance(error, asyncssh.PermissionDenied | asyncssh.HostKeyNotVerifiable | asyncssh.KeyExchangeFailed):
        return False
    if isinstance(error, asyncssh.SFTPError):
        return isinstance(error, asyncssh.SFTPConnectionLost | asyncssh.SFTPNoConnection)
    lost = ConnectionResetError | ConnectionAbortedError | BrokenPipeError
    return isinstance(error, asyncssh.DisconnectError | lost | FutureTimeoutError | _Cut)
