"""Where errors become text and exit status: the one boundary between the library, which raises, and the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox import render
from sandbox.errors import VmboxError


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
        render.error(
            VmboxError(
                f"internal error: {type(problem).__name__}: {problem}",
                hint="set VMBOX_DEBUG=1 for the traceback, and report it together with the output of vmbox doctor",
            )
        )
        sys.exit(VmboxError.exit_code)
