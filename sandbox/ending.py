"""Where errors become text and exit status: the one boundary between the library, which raises, and the process."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox import render
from sandbox.errors import ConfigurationError, NoSpace, VmboxError


@contextmanager
def ending() -> Iterator[None]:
    """Whatever a command raises inside, the user gets a line, a hint and a status; never a traceback."""
    try:
        yield
    except VmboxError as problem:
        render.error(problem)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        render.note("vmbox: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # What a shell reports of a program that SIGPIPE ended.
        sys.exit(141)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NameError, AssertionError) as problem:
        if os.environ.get("VMBOX_DEBUG"):
            raise
        if isinstance(problem, OSError) and (known := _of_the_disk(problem)) is not None:
            render.error(known)
            sys.exit(known.exit_code)
        render.error(
            VmboxError(
                f"internal error: {type(problem).__name__}: {problem}",
                hint="set VMBOX_DEBUG=1 for the traceback, and report it together with the output of vmbox doctor",
            )
        )
        sys.exit(VmboxError.exit_code)


def _of_the_disk(problem: OSError) -> VmboxError | None:
    """What any write may meet, wherever it happens: a disk that is full, or must not be written."""
    where = f"{problem.filename}: " if problem.filename else ""
    match problem.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(f"{where}no space left", hint="free some, or choose other places: vmbox config show")
        case errno.EROFS:
            hint = "choose a place that can be written: export VMBOX_CACHE_DIR=DIRECTORY; vmbox config show"
            return ConfigurationError(f"{where}the file system is read-only", hint=hint)
        case _:
            return None
