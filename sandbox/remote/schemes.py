"""Which module reads the files of which URLs."""

from __future__ import annotations

from sandbox.progress import QUIET, Reporter
from sandbox.remote.file import RemoteFile
from sandbox.remote.http import HttpDump


def open_file(url: str, *, size: int | None = None, mark: str | None = None, reporter: Reporter = QUIET) -> RemoteFile:
    """The file at a URL; with `size` and `mark`, only this version of it. Nothing is asked for before it is read.

    Raises `DumpUnreadable`, `UsageError`, and `ConfigurationError` where the library for it is not installed.
    """
    match url.partition("://")[0]:
        case "s3":
            from sandbox.remote.s3 import S3Dump

            return S3Dump(url, size, mark, reporter)
        case "sftp":
            from sandbox.remote.sftp import SftpDump

            return SftpDump(url, size, mark, reporter)
        case _:
            return HttpDump(url, size, mark, reporter)
