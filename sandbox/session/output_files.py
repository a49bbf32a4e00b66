"""Brings files that commands redirected to in a case (`bt > file`) to the host.

The case may be a hostile dump's: what it sends is never more than the content of a file. Which files there are, what
they are called and where they go is said by the user's commands alone.
"""

from __future__ import annotations

import binascii
import errno
import os
import shlex
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from sandbox.errors import CommandTimeout, SessionDied, SessionFailed, UsageError, pasteable, unwritable
from sandbox.host.files import write_all
from sandbox.progress import QUIET, Reporter
from sandbox.session.session import Session, Sink

_SINCE: Final = "/tmp/.since"  # noqa: S108 - in the container
_SCRATCH: Final = "/scratch"

_SECONDS: Final = 600.0
"""For all files together."""

_ANSWER: Final = 30.0
"""Seconds for a word of the case that is no file."""

_LONGEST_LINE: Final = 4096
"""Bytes; base64 writes 76."""

_LISTING: Final = 1 << 16
"""Bytes that are heard of the names of files which stay."""

_SAID: Final = 10
"""Names of files which stay that are said."""

_WHOLE: Final = b"."
"""After the last line of a file; not in the alphabet of base64."""

_ELSEWHERE: Final = "choose another with --output"


class OutputDirectory:
    """A directory that was made now, or was empty; files are made in it and never replaced."""

    def __init__(self, path: Path) -> None:
        """Raises `UsageError` when there is something in it, or it cannot be made."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unwritable(path, error, hint=_ELSEWHERE) from error
        if os.listdir(self._descriptor):  # noqa: PTH208 - of the descriptor: the name may lead elsewhere by now
            self.close()
            raise UsageError(f"{path} is not empty", hint=f"--output {pasteable(_free_name(path))}")

    def create(self, name: str) -> int:
        """A descriptor of the new file `name`, the owner's alone as a dump's memory is. Raises FileExistsError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OutputFiles:
    """Brings the files that commands redirected to out of the case, when the context ends.

    Each comes through crash's own output, so no engine is needed, and in base64, for crash's shell escape copies lines
    of text. All together are at most `limit` bytes.
    """

    def __init__(self, session: Session, directory: OutputDirectory, *, limit: int, reporter: Reporter = QUIET) -> None:
        self._session = session
        self._directory = directory
        self._left = limit
        self._limit = limit
        self._reporter = reporter
        self._names: dict[str, None] = {}
        """In the order of the commands."""

    def expect(self, command: str) -> None:
        """Takes the names of the files that `command` is about to write."""
        self._names |= dict.fromkeys(sorted(self._session.debugger.output_files(command)))

    def __enter__(self) -> Self:
        # A tick of the clock that files are stamped with, so that what is written next is newer.
        self._session.run(f"!touch {_SINCE}; sleep 0.02", lambda _: None, timeout=_ANSWER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, SessionDied):
            self._bring()

    def _bring(self) -> None:
        deadline = time.monotonic() + _SECONDS
        for name in self._names:
            if _is_plain(name):
                self._bring_one(name, deadline)
            else:
                self._reporter.notice(f"{name!r} is left in the case: only a plain name in {_SCRATCH} comes out")
        self._say_what_stays()

    def _bring_one(self, name: str, deadline: float) -> None:
        target = self._directory.path / name
        try:
            descriptor = self._directory.create(name)
        except FileExistsError:
            self._reporter.notice(f"{name!r} is left in the case: {target} exists")
            return
        except OSError as error:
            raise unwritable(self._directory.path, error, hint=_ELSEWHERE) from error
        content = _Content(descriptor, self._left)
        kept = False
        try:
            place = shlex.quote(f"{_SCRATCH}/{name}")
            command = f"![ -f {place} ] && base64 {place} && echo {_WHOLE.decode()}"
            self._hear(command, content, max(deadline - time.monotonic(), 0.001), f"{name!r} did not come out")
            self._check(content, name)
            kept = content.whole
        finally:
            os.close(descriptor)
            if not kept:
                self._directory.remove(name)
        self._left -= content.size
        self._reporter.notice(f"wrote {target}" if kept else f"{name!r} was not written by its command")

    def _check(self, content: _Content, name: str) -> None:
        """Raises what kept a file from coming out, if something did."""
        if content.failed is not None:
            raise unwritable(self._directory.path, content.failed, hint=_ELSEWHERE) from content.failed
        if content.refused:
            raise SessionFailed(f"the file {name!r} of the case is refused: {content.refused}")
        if not content.whole and content.size:
            raise SessionFailed(f"the file {name!r} of the case came in part only", hint="run the commands again")

    def _hear(self, command: str, sink: Sink, seconds: float, problem: str) -> None:
        """Runs a command of our own. A sink that has heard enough ends it."""
        try:
            self._session.run(command, sink, timeout=seconds)
        except BrokenPipeError:
            pass
        except CommandTimeout:
            raise SessionFailed(
                f"{problem} within {seconds:.0f} s", hint="bring fewer files, or smaller ones"
            ) from None

    def _say_what_stays(self) -> None:
        heard = bytearray()

        def hear(piece: bytes) -> None:
            heard.extend(piece[: _LISTING - len(heard)])
            if len(heard) >= _LISTING:
                raise BrokenPipeError

        command = f"!tar -C {_SCRATCH} -N {_SINCE} -cvf /dev/null . 2>/dev/null"
        self._hear(command, hear, _ANSWER, "what else was written was not said")
        found = [line.removeprefix("./") for line in heard.decode(errors="backslashreplace").splitlines()]
        others = [name for name in found if name and not name.endswith("/") and name not in self._names]
        for name in others[:_SAID]:
            self._reporter.notice(f"{name[:255]!r} is left in the case: no command redirected to it")
        if len(others) > _SAID:
            self._reporter.notice(f"{len(others) - _SAID} more files are left in the case")


def _is_plain(name: str) -> bool:
    """Whether a name leads nowhere and hides nothing."""
    return name.isprintable() and "/" not in name and not name.startswith(".") and 0 < len(os.fsencode(name)) < 256


class _Content:
    """A sink that writes what lines of base64 say into a file, and ends the command at the first that is wrong."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._rest = b""
        self.size = 0
        """Bytes of the file."""
        self.whole = False
        """Whether its end was seen."""
        self.refused = ""
        """What was wrong."""
        self.failed: OSError | None = None
        """What writing met."""

    def __call__(self, piece: bytes) -> None:
        lines, _, self._rest = (self._rest + piece).rpartition(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._refuse(f"a line of more than {_LONGEST_LINE} bytes")
        text, end, after = lines.replace(b"\n", b"").partition(_WHOLE)
        if after or (self.whole and (text or end)):
            self._refuse("more follows its end")
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            self._refuse(str(error))
        self.size += len(data)
        if self.size > self._limit:
            self._refuse("there is more of it than the case has scratch memory")
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            self.failed = error
            raise BrokenPipeError(errno.EPIPE, "the file cannot be written") from error
        self.whole = self.whole or bool(end)

    def _refuse(self, why: str) -> NoReturn:
        self.refused = why
        raise BrokenPipeError(errno.EPIPE, why)


def _free_name(path: Path) -> Path:
    """A name beside `path` that is not taken; in the working directory where nothing is beside it."""
    if path.name in {"", ".."}:  # the working directory, the root
        path = path.resolve()
        path = path if path.name else Path("output")
    return next(free for number in range(2, 1 << 30) if not (free := path.with_name(f"{path.name}-{number}")).exists())
