"""The images that a build makes for each of its steps. A build that fails or is ended leaves them behind, untagged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Final

from sandbox.errors import EngineFailed

if TYPE_CHECKING:
    from sandbox.engine.protocol import Engine

ENDING: Final = 5.0
"""Seconds in which an engine removes the container of a build whose client has gone."""
_SAID: Final = re.compile(r" ?-{2,3}> (?:Using cache )?([0-9a-f]{11,64})")
"""Docker: " ---> 0123456789ab"; the first is the image that FROM names. Podman: "--> 0123456789a", only of steps."""


def noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    """Yield the lines of a build, and append to `seen` the images that it made or took from its cache."""
    for line in lines:
        if found := _SAID.fullmatch(line):
            seen.append(found[1])
        yield line


def wait_for(builds: Sized) -> None:
    """Wait until there are no `builds` any more, which remove what they made; not longer than they may take."""
    deadline = time.monotonic() + 2 * ENDING
    while builds and time.monotonic() < deadline:
        time.sleep(0.05)


def remove(made: Sequence[str], engine: Engine, *, seconds: float = 0.0) -> None:
    """Remove the intermediate images of a failed build, newest first. Stop at the first one with a tag or children.

    With `seconds`, one that is in use is waited for so long: the container of a build that was ended goes a bit later.
    """
    deadline = time.monotonic() + seconds
    for ident in reversed(made):
        image = engine.image(ident)
        if image is not None and image.tags:
            return
        while True:
            try:
                engine.remove_image(ident)
                break
            except EngineFailed:
                if time.monotonic() >= deadline:
                    return
                time.sleep(0.2)
