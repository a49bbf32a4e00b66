"""What a case may not do with files it is asked for. A stand-in for the session: no genuine crash sends such tars."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.errors import SessionFailed
from sandbox.progress import QUIET
from sandbox.session.output_files import OutputFiles


class Noting(type(QUIET)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, line: str) -> None:
        self.said.append(line)


class Hostile:
    """Answers the request for files with a tar of its own making, in pieces of odd sizes."""

    def __init__(self, archive: bytes) -> None:
        self._answer = base64.encodebytes(archive)

    def run(self, command: str, sink: Callable[[bytes], None]) -> None:
        if "tar" in command:
            for at in range(0, len(self._answer), 101):
                sink(self._answer[at : at + 101])


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    """Members: name, content, type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.mode = 0o4777
            if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                member.linkname = content.decode()
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.size else None)
    return buffer.getvalue()


def _bring(archive: bytes, directory: Path) -> list[str]:
    noting = Noting()
    with OutputFiles(Hostile(archive), directory, noting):  # type: ignore[arg-type]
        pass
    return noting.said


def test_plain_files_come_out(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    archive = _tar(("./bt.txt", b"PID: 1\n", tarfile.REGTYPE), ("./deep/er/log", b"x" * 100000, tarfile.REGTYPE))
    assert len(_bring(archive, out)) == 2
    assert (out / "bt.txt").read_bytes() == b"PID: 1\n"
    assert (out / "deep/er/log").read_bytes() == b"x" * 100000
    # Not what the case says about them, but what a file of the user's is.
    assert (out / "bt.txt").stat().st_mode & 0o7777 == 0o644
    assert sorted(path.name for path in out.rglob("*")) == ["bt.txt", "deep", "er", "log"]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("../escaped", b"x", tarfile.REGTYPE),
        ("./a/../../escaped", b"x", tarfile.REGTYPE),
        ("/escaped", b"x", tarfile.REGTYPE),
        ("./link", b"/etc/passwd", tarfile.SYMTYPE),
        ("./hard", b"/etc/passwd", tarfile.LNKTYPE),
        ("./fifo", b"", tarfile.FIFOTYPE),
        ("./device", b"", tarfile.CHRTYPE),
        ("./way/escaped", b"x", tarfile.REGTYPE),
    ],
)
def test_what_leads_elsewhere_stays_in_the_case(name: str, content: bytes, kind: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "way").symlink_to(tmp_path)
    (said,) = _bring(_tar((name, content, kind)), out)
    assert "is left in the case" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "way"]


def test_a_link_of_the_host_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "bt.txt").symlink_to(tmp_path / "precious")
    _bring(_tar(("./bt.txt", b"theirs", tarfile.REGTYPE)), out)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (out / "bt.txt").read_bytes() == b"theirs"


def test_what_is_no_archive_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SessionFailed, match="cannot be read"):
        _bring(b"garbage" * 1000, tmp_path)
    assert list(tmp_path.iterdir()) == []
