"""How a command ends: a message, a hint and an exit status for whatever it raises."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sandbox.errors import ConfigurationError, NoSpace, Terminated, UsageError, VmboxError, pasteable
from sandbox.log import Log
from sandbox.render.output import STDOUT, error, leave_line, note, to_stdout

_log = Log("vmbox")

_UNEXPECTED: Final = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, NameError, AssertionError),
    *(ArithmeticError, RecursionError, NotImplementedError, MemoryError, EOFError),
)
"""What a mistake of vmbox's raises. SystemExit and what the command line library raises are none."""

_NO_MEMORY: Final = NoSpace("no memory is left", hint="free some, or raise the limit: ulimit -v unlimited -d unlimited")
_NO_PROCESSES: Final = ConfigurationError("no more processes can be started", hint="ulimit -u unlimited, or end some")
_NO_THREADS: Final = ConfigurationError(
    "no more processes can be started, or no memory is left for one", hint="ulimit -u unlimited -v unlimited"
)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn what a command raises into a message, a hint and an exit status; never a traceback."""
    try:
        yield
        with to_stdout():
            sys.stdout.flush()
    except VmboxError as problem:
        _log.info("%s, exit status %d", type(problem).__name__, problem.exit_code)
        error(problem)
        sys.exit(problem.exit_code)
    except Terminated as ended:
        # Its terminal may be gone.
        with suppress(OSError):
            note(f"vmbox: ended by a signal ({ended.number})")
        sys.exit(128 + ended.number)
    except KeyboardInterrupt:
        if sys.stdin.isatty():
            # Behind the ^C that the terminal shows.
            leave_line()
        note("vmbox: interrupted")
        sys.exit(130)
    except SystemExit as ended:
        # rich ends the process by itself where the reader of its help closed the pipe.
        sys.exit(141 if isinstance(ended.__context__, BrokenPipeError) else ended.code)
    except BrokenPipeError:
        # The reader closed the pipe. Python would raise again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The status that a shell gives a program that was ended by SIGPIPE.
        sys.exit(141)
    except (*_UNEXPECTED, RuntimeError, ExceptionGroup) as problem:
        # The command line library ends a command by errors that are RuntimeErrors.
        strange = not isinstance(problem, _UNEXPECTED) and _of_the_place(problem) is None
        if strange or os.environ.get("VMBOX_DEBUG"):
            raise
        if (known := _of_the_place(problem)) is not None:
            error(known)
            sys.exit(known.exit_code)
        error(
            VmboxError(
                f"internal error: {type(problem).__name__}: {problem}",
                hint="set VMBOX_DEBUG=1 for the traceback, and report it with what vmbox -v and vmbox doctor print",
            )
        )
        sys.exit(VmboxError.exit_code)


def _of_the_place(problem: Exception) -> VmboxError | None:
    """The error for what any part of a command may find: a disk that is full or read-only, a directory that
    refuses the user, a limit of the process (setrlimit(2)), a removed working directory. None for another one.
    """
    if isinstance(problem, ExceptionGroup):  # of what runs side by side
        return next(filter(None, map(_of_the_place, problem.exceptions)), None)
    if isinstance(problem, MemoryError):
        return _NO_MEMORY
    if isinstance(problem, RuntimeError):
        if "home directory" in str(problem):
            return ConfigurationError(
                f"$HOME is not set, and user {os.geteuid()} has no entry in /etc/passwd", hint="export HOME=DIRECTORY"
            )
        return _NO_THREADS if "start new thread" in str(problem) else None
    if not isinstance(problem, OSError):
        return None
    where = f"{problem.filename}: " if problem.filename else ""
    match problem.errno:
        case errno.ENOSPC | errno.EDQUOT if problem.filename == STDOUT:
            return NoSpace("no space left where standard output goes", hint="free some, or write to another disk")
        case errno.ENOSPC | errno.EDQUOT:
            from sandbox.host.disk import full_places

            # write(2) names no file.
            full = "" if where else ", ".join(map(str, full_places()))
            hint = "free some, or choose other places: vmbox config show"
            return NoSpace(f"{where}no space left{full and f' in {full}'}", hint=hint)
        case errno.ENOENT if _working_directory_is_gone():
            return UsageError("the working directory was removed", hint="go to one that is there: cd /")
        case errno.EFBIG:
            return NoSpace(f"{where}files may not become so large", hint="ulimit -f unlimited")
        case errno.EMFILE | errno.ENFILE:
            return ConfigurationError(f"{where}too many files are open", hint="let more be open: ulimit -n 1024")
        case errno.EAGAIN:
            return _NO_PROCESSES
        case errno.ENOMEM:
            return _NO_MEMORY
        case errno.EACCES if problem.filename:
            shown = pasteable(os.fsdecode(problem.filename))
            return UsageError(
                f"{where}no permission to look there", hint=f"this shows which directory refuses: namei -l {shown}"
            )
        case errno.EROFS:
            hint = "choose a place that can be written: export VMBOX_CACHE_DIR=DIRECTORY; vmbox config show"
            return ConfigurationError(f"{where}the file system is read-only", hint=hint)
        case _:
            return None


def _working_directory_is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False
