"""Write a root file system in the format of `docker save`: the only way to give Docker an image's architecture.

`docker import --platform` of Docker 20.10 accepts a platform, but records the host's architecture in the image. A build
on that image then fails at the first COPY after a RUN.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Final

_PIECE: Final = 1 << 20


def of_rootfs(tar: IO[bytes], ref: str, labels: Mapping[str, str], platform: str) -> Iterator[bytes]:
    """Yield the archive in pieces. Reads `tar` twice, from its beginning."""
    digest = hashlib.sha256()
    size = 0
    tar.seek(0)
    while piece := tar.read(_PIECE):
        digest.update(piece)
        size += len(piece)
    tar.seek(0)
    system, _, machine = platform.partition("/")
    layer = f"sha256:{digest.hexdigest()}"
    config = {
        "architecture": machine,
        "os": system,
        "created": datetime.now(UTC).isoformat(),
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created_by": "root file system of packages"}],
    }
    written = json.dumps(config).encode()
    name = f"{hashlib.sha256(written).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [ref], "Layers": ["layer.tar"]}]).encode()
    for member, content in (("manifest.json", manifest), (name, written)):
        yield _header(member, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    yield _header("layer.tar", size)
    while piece := tar.read(_PIECE):
        yield piece
    yield bytes(-size % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)
