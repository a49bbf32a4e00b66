"""Errors: one class for each failure that needs a different reaction of the user.

Every error has a one-line message, a hint that can be pasted or followed, and an exit status of its own::

    VmboxError
    ├── UsageError                  2
    ├── DumpError
    │   ├── DumpNotFound           10
    │   ├── DumpUnreadable         11
    │   ├── NotADump               12
    │   ├── DumpDamaged            13
    │   ├── UnknownKernel          14
    │   └── EvidenceChanged        15
    ├── EngineError
    │   ├── EngineNotFound         20
    │   ├── EnginePermission       21
    │   ├── EngineFailed           22, also PathNotFound and AccessDenied
    │   └── EmulationMissing       23
    ├── ImageError
    │   ├── BaseImageUnavailable   30, also ImageNotInRegistry
    │   └── ImageBuildFailed       31
    ├── DebuginfoError
    │   ├── DebuginfoNotFound      40
    │   ├── DebuginfoMismatch      41
    │   ├── DownloadFailed         42, also Unreachable
    │   └── VerificationFailed     43
    ├── NoSpace                    50
    ├── SessionError
    │   ├── SessionFailed          60
    │   ├── SessionDied            61
    │   ├── CommandTimeout         62
    │   └── CaseNotFound           63
    ├── ConfigurationError         70
    └── DemoFailed                 80

0 is success, 1 means that crash itself reported an error for a command, 99 is an internal error, 130 is Ctrl-C.
The library raises; only the command line exits.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class VmboxError(Exception):
    """An error that a user can act on. `message` is one line, `hint` is what to do, `detail` is further output."""

    exit_code: ClassVar[int] = 99
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.detail = detail


class Terminated(KeyboardInterrupt):
    """A signal that ends a process, SIGTERM, SIGHUP or SIGQUIT: what Ctrl-C undoes is undone then, too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def called(path: Path, name: Callable[[], str]) -> Iterator[None]:
    """Errors have `name` in the place of a path that stands for something else."""
    try:
        yield
    except VmboxError as error:
        error.message = error.message.replace(str(path), name())
        error.args = (error.message,)
        raise


class UsageError(VmboxError):
    """A command, an argument, or a file other than the dump cannot be used."""

    exit_code = 2
    default_hint = "vmbox COMMAND --help says what a command takes"


class DumpError(VmboxError):
    """Errors of the file given as a dump."""


class DumpNotFound(DumpError):
    exit_code = 10
    default_hint = "check the path; kdump writes to /var/crash/<host>-<time>/vmcore by default"


class DumpUnreadable(DumpError):
    exit_code = 11


class NotADump(DumpError):
    exit_code = 12
    default_hint = "a vmcore is written by kdump (makedumpfile), virsh dump --memory-only, or copied from /proc/vmcore"


class DumpDamaged(DumpError):
    exit_code = 13
    default_hint = "copy the file again and compare sizes; vmbox info shows what can still be read"


class UnknownKernel(DumpError):
    exit_code = 14
    default_hint = "choose an image yourself with --image PROFILE (vmbox doctor lists them) and give --debuginfo"


class EvidenceChanged(DumpError):
    exit_code = 15
    default_hint = "get the file again from its source; --accept records it as it is now"


class EngineError(VmboxError):
    """Errors of Docker or Podman."""


class EngineNotFound(EngineError):
    exit_code = 20
    default_hint = (
        "install one: apt-get install podman, dnf install podman, or see https://docs.docker.com/engine/install/"
    )


class EnginePermission(EngineError):
    exit_code = 21


class EngineFailed(EngineError):
    exit_code = 22
    default_hint = "vmbox doctor checks the engine"


class PathNotFound(EngineFailed):
    """A path that the engine was given does not exist on its host."""


class AccessDenied(EngineFailed):
    """On the engine's host, the user that the engine runs as has no permission."""


class EmulationMissing(EngineError):
    """This host cannot run the crash for the dump's architecture."""

    exit_code = 23
    default_hint = "sudo apt-get install qemu-user-static binfmt-support   (dnf install qemu-user-static)"


class ImageError(VmboxError):
    """Errors of images and their bases."""


class BaseImageUnavailable(ImageError):
    exit_code = 30
    login_needed: bool = False
    """Whether the registry requires a login; the hint has the command."""


class ImageNotInRegistry(BaseImageUnavailable):
    """The registry answered that it does not have the image."""


class ImageBuildFailed(ImageError):
    exit_code = 31


class DebuginfoError(VmboxError):
    """Errors of vmlinux and the modules' debug files."""


class DebuginfoNotFound(DebuginfoError):
    exit_code = 40
    default_hint = "give it yourself: --debuginfo FILE (a vmlinux or the debug package)"


class DebuginfoMismatch(DebuginfoError):
    exit_code = 41
    default_hint = "the debuginfo is of another build; crash would show wrong data. --force uses it nevertheless"


class DownloadFailed(DebuginfoError):
    exit_code = 42
    default_hint = "check the network and proxy settings; run the same command again to resume"


class Unreachable(DownloadFailed):
    """Its host has no name that resolves, or takes no connection. It is not tried again: that is an answer."""


class VerificationFailed(DebuginfoError):
    exit_code = 43
    default_hint = "nothing of it was kept; run the same command again, or use another mirror"


class NoSpace(VmboxError):
    exit_code = 50


class SessionError(VmboxError):
    """Errors of a case and its warm crash."""


class SessionFailed(SessionError):
    exit_code = 60


class SessionDied(SessionError):
    exit_code = 61
    default_hint = "run the command again: it opens a new session"


class CommandTimeout(SessionError):
    exit_code = 62
    default_hint = "give it more time with --timeout SECONDS"


class CaseNotFound(SessionError):
    exit_code = 63
    default_hint = "vmbox list shows the open cases"


class ConfigurationError(VmboxError):
    exit_code = 70


class DemoFailed(VmboxError):
    exit_code = 80


def pasteable(name: object) -> str:
    """A file name as it is pasted into a shell, in a hint: it may be an attacker's choice."""
    import os
    import shlex

    text = str(name)
    if text.startswith("-"):
        # No command takes it for an option.
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    octets = (
        chr(one) if 0x20 <= one < 0x7F and chr(one) not in "'\\" else f"\\x{one:02x}" for one in os.fsencode(text)
    )
    return f"$'{''.join(octets)}'"


def refuse_empty(name: object) -> None:
    """Raise `UsageError` for an empty name, as `"$X"` gives one: as a path it is ".", and each name begins with it."""
    if name == "":
        raise UsageError("a name is empty", hint="is the variable set?")


def unwritable(place: object, error: OSError, *, hint: str, setting: bool = False) -> VmboxError:
    """The error for a `place` that cannot be written, because the disk is full or for another reason.

    `setting`: `place` is from a setting, and not from an argument of this command.
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = "where standard output goes" if str(place) == "-" else f"in {place}"
        return NoSpace(f"no space left {where}", hint=hint)
    kind = ConfigurationError if setting else UsageError
    return kind(f"{place} cannot be written: {error.strerror}", hint=hint)


def missing_extra(what: str, extra: str, library: str) -> ConfigurationError:
    """The error for a feature whose optional `library`, of vmbox's `extra`, is not installed."""
    return ConfigurationError(
        f"{what} needs a library that is not installed",
        hint=f"pip install 'vmbox-crash[{extra}]'   or: pipx inject vmbox-crash {library}",
    )


def kinds() -> list[type[VmboxError]]:
    """The errors with an exit status of their own, in its order."""
    found: dict[int, type[VmboxError]] = {}

    def visit(kind: type[VmboxError]) -> None:
        for child in kind.__subclasses__():
            if "exit_code" in vars(child):
                found[child.exit_code] = child
            visit(child)

    visit(VmboxError)
    return [found[status] for status in sorted(found)]
