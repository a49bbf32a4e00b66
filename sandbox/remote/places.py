"""Places on this host of dumps on servers."""

from __future__ import annotations

from typing import Final

DESCRIBED: Final = ".remote"
"""Suffix of the directory of what stands for a dump on a server (`sandbox.remote.described`)."""

COPIED: Final = ".download"
"""Suffix of the directory of the copy of a dump on a server."""
