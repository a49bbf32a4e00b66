"""The rows of a triage, one on a line, by which the next one with the same directory goes on.

The directory may be in a stranger's one of dumps. So each row is sealed (HMAC with SHA-256) with a key in the user's
state directory, and a row without the seal is as if it were not there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sandbox.host import decode, paths
from sandbox.host.files import mode_of
from sandbox.progress import Reporter
from sandbox.render import plain
from sandbox.triage.model import Row

NAME: Final = "rows.jsonl"

_KEY: Final = "triage-key"
_KEY_SIZE: Final = 32
_SEAL: Final = ', "seal": "'
_LONGEST: Final = 1 << 20
"""Bytes of a line."""


class Journal:
    """The file in the directory of a triage. It is as readable as the dumps in `evidence`."""

    def __init__(self, directory: Path, evidence: Sequence[Path], reporter: Reporter) -> None:
        self._path = directory / NAME
        self._mode = mode_of(evidence)
        self._key = _key(reporter)
        self._written = False

    def rows(self) -> Iterator[Row]:
        """The rows that this user's vmbox wrote; of a dump, the last one counts. Skips an incomplete last line."""
        try:
            with open(self._path, "rb", opener=self._opened) as file:
                while line := file.readline(_LONGEST):
                    if (row := self._unsealed(line)) is not None:
                        yield row
        except FileNotFoundError:
            return

    def note(self, row: Row) -> None:
        """Adds a row."""
        text = json.dumps(plain(row), ensure_ascii=False)
        with open(self._path, "ab+", opener=self._opened) as journal:
            if not self._written and journal.tell() > 0:
                # The last line is incomplete if the run was killed while writing it.
                journal.seek(-1, os.SEEK_END)
                if journal.read(1) != b"\n":
                    journal.write(b"\n")
            self._written = True
            journal.write(f'{text[:-1]}{_SEAL}{self._seal(text)}"}}\n'.encode())

    def _unsealed(self, line: bytes) -> Row | None:
        try:
            text, sealed, seal = line.decode().rstrip("\n").rpartition(_SEAL)
            text += "}"
            if not sealed or not hmac.compare_digest(seal.removesuffix('"}').encode(), self._seal(text).encode()):
                return None
            # A row of another version may have other keys: that dump is reported again.
            return decode.from_json(Row, text, keys="all")
        except (UnicodeDecodeError, decode.DecodeError):
            return None

    def _seal(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _opened(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666 if self._mode is None else self._mode)


def _key(reporter: Reporter) -> bytes:
    """The user's key, made when there is none."""
    place = paths.state_dir() / _KEY
    try:
        return _read(place) or _make(place)
    except OSError as error:
        reporter.notice(f"the triage cannot be continued by another one: {place}: {error.strerror}")
        return secrets.token_bytes(_KEY_SIZE)


def _read(place: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        key = place.read_bytes()
        if len(key) == _KEY_SIZE:
            return key
        place.unlink()
    return None


def _make(place: Path) -> bytes:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = place.with_name(f".{_KEY}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_KEY_SIZE))
    finally:
        os.close(descriptor)
    try:
        # Of two that make one at the same time, the first is taken.
        with suppress(FileExistsError):
            place.hardlink_to(temporary)
        return place.read_bytes()
    finally:
        temporary.unlink()
