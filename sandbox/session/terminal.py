"""A program in a container at the user's own terminal: raw mode, window size, and everything put back afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final, Protocol

from sandbox.engine import Exec
from sandbox.host.files import write_all
from sandbox.session.terminal_filter import TerminalFilter

_BARE: Final = re.compile(rb"(?<!\r)\n")


class Watcher(Protocol):
    """Is told what goes both ways."""

    def typed(self, keys: bytes) -> None:
        """Before the program gets them."""

    def printed(self, output: bytes) -> None: ...


def attach(process: Exec, watcher: Watcher | None = None) -> int:
    """Connects the terminal with `process` until it ends. Returns its exit status.

    What the program prints is shown as `TerminalFilter` lets it.

    Without a terminal on standard input, what comes from there is sent as if typed.
    """
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    with _raw(stdin), _resizing(process, stdout) as wakeup:
        listening = [process.fileno(), stdin, wakeup]
        first = True
        shown = TerminalFilter()
        while True:
            # Keys are heard also while output comes without end.
            printed = process.pending()
            ready = select.select(listening, [], [], 0 if printed else None)[0]
            if wakeup in ready:
                os.read(wakeup, 64)
                _resize(process, stdout)
            if printed or listening[0] in ready:
                data = process.read()
                if not data:
                    return process.exit_code()
                write_all(stdout, shown(_returned(data) if first else data))
                first = False
                if watcher is not None:
                    watcher.printed(data)
            if stdin in ready:
                typed = os.read(stdin, 4096)
                if typed:
                    if watcher is not None:
                        watcher.typed(typed)
                    process.write(typed)
                else:
                    # The end of piped input is what Ctrl-D is at a terminal.
                    process.write(b"\x04")
                    listening.remove(stdin)


def _returned(data: bytes) -> bytes:
    """Lines that begin on the left in raw mode, too. A program's terminal sees to that itself; but where the program
    could not be started, what comes first is the engine's own words of why.
    """
    return _BARE.sub(b"\r\n", data)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        # What was typed ahead is for the program, too.
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def cooked_output() -> Iterator[None]:
    """For as long as the program waits, lines we print begin on the left and Ctrl-C is KeyboardInterrupt."""
    descriptor = sys.stdin.fileno()
    raw = termios.tcgetattr(descriptor)
    lent = [*raw]
    lent[1] |= termios.OPOST | termios.ONLCR
    lent[3] |= termios.ISIG
    termios.tcsetattr(descriptor, termios.TCSADRAIN, lent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)


@contextlib.contextmanager
def _resizing(process: Exec, descriptor: int) -> Iterator[int]:
    """Yields a descriptor that becomes readable when the window changed: no work is done in the signal handler."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        _resize(process, descriptor)
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)


def _resize(process: Exec, descriptor: int) -> None:
    if os.isatty(descriptor):
        size = os.get_terminal_size(descriptor)
        process.resize(rows=size.lines, columns=size.columns)
