"""The images that a build makes on its way, one for each step: a failed build leaves them behind without a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sandbox.errors import EngineFailed

if TYPE_CHECKING:
    from sandbox.engine.protocol import Engine

_SAID: Final = re.compile(r" ?-{2,3}> (?:Using cache )?([0-9a-f]{11,64})")
"""Docker: " ---> 0123456789ab", the first of them being what FROM names. Podman: "--> 0123456789a", of steps only."""


def noted(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    """The lines of a build, and on the way, in `seen`, the images that it says it made or took from its cache."""
    for line in lines:
        if found := _SAID.fullmatch(line):
            seen.append(found[1])
        yield line


def remove(made: Sequence[str], engine: Engine) -> None:
    """Removes what a failed build left, down to what is somebody's: has a name, or an image that stands on it."""
    for ident in reversed(made):
        image = engine.image(ident)
        if image is not None and image.tags:
            return
        try:
            engine.remove_image(ident)
        except EngineFailed:
            return
