"""Work in a thread beside the caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


def in_background(work: Callable[[], T], *, name: str) -> Future[T]:
    """Starts `work` in a thread that does not keep the process: Ctrl-C, or an error of the caller, ends it at once."""
    from concurrent.futures import Future
    from threading import Thread

    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - every error is raised where the result is used
            future.set_exception(error)

    Thread(target=call, name=name, daemon=True).start()
    return future
