"""The dump that a user names: by its path, or by a URL."""

from __future__ import annotations

from pathlib import Path


def named(word: str) -> Path:
    """The path of a dump that a user names: of one with a URL, the path of this host that stands for it.

    A URL itself is no path: `Path` writes // as /. Raises `UsageError` for a URL that is none.
    """
    if ":/" not in word:
        return Path(word)
    from sandbox.remote import described

    return described.of_url(word)
