"""Brings files that commands wrote in a case (`bt > file`) to the host."""

from __future__ import annotations

import binascii
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from sandbox.errors import NoSpace, SessionDied, SessionFailed, unwritable
from sandbox.host.files import write_atomically
from sandbox.progress import QUIET, Reporter
from sandbox.session.session import Session

_SINCE = "/tmp/.since"  # noqa: S108 - in the container


class OutputFiles:
    """Brings the files that are written while the context lasts into `directory`, when it ends.

    They come as a tar through crash's own output, so no engine is needed, and in base 64, for crash's shell escape
    copies lines of text. They come from a process that has read the dump: names and kinds are looked at before
    anything is written, and what would leave `directory` is refused.
    """

    def __init__(self, session: Session, directory: Path, reporter: Reporter = QUIET) -> None:
        self._session = session
        self._directory = directory
        self._reporter = reporter

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._directory, error, hint="choose another with --output") from error
        # A tick of the clock that files are stamped with, so that what is written next is newer.
        self._session.run(f"!touch {_SINCE}; sleep 0.02", lambda _: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, SessionDied):
            self._bring()

    def _bring(self) -> None:
        with tempfile.TemporaryFile(dir=self._directory) as archive:
            rest = b""

            def decode(piece: bytes) -> None:
                nonlocal rest
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                archive.write(binascii.a2b_base64(whole + newline))

            command = f"!tar -C /scratch -N {_SINCE} -cf - . 2>/dev/null | base64"
            try:
                self._session.run(command, decode)
                archive.seek(0)
                with tarfile.open(fileobj=archive, mode="r|") as tar:
                    for member in tar:
                        self._extract(tar, member)
            except (tarfile.TarError, binascii.Error) as error:
                raise SessionFailed(f"the files of the case cannot be read: {error}") from error
            except OSError as error:
                raise NoSpace(f"{self._directory}: {error.strerror}", hint="choose another with --output") from error

    def _extract(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = PurePosixPath(member.name)
        if member.isdir():
            return
        if not member.isreg() or name.is_absolute() or ".." in name.parts:
            self._reporter.notice(f"{member.name!r} is left in the case: it is no plain file")
            return
        content = tar.extractfile(member)
        if content is None:
            return
        target = self._directory.joinpath(*name.parts)
        if not _inside(target.parent, self._directory):
            self._reporter.notice(f"{member.name!r} is left in the case: {target.parent} leads elsewhere")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, iter(lambda: content.read(1 << 16), b""), mode=0o644)
        self._reporter.notice(f"wrote {target}")


def _inside(place: Path, directory: Path) -> bool:
    """Whether `place` is below `directory` also when links of the host are followed."""
    return place.resolve().is_relative_to(directory.resolve())
