"""Servers of dumps other than web servers, on loopback: an object store, and an SSH server that serves a directory.

And the flattened form of a dump.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def flatten(dump: bytes, order: int = -1) -> bytes:
    """In reverse order, or with 1 as it is; the header again at the end."""

    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    out = (b"makedumpfile".ljust(16, b"\0") + number(1) + number(1)).ljust(4096, b"\0")
    pieces = [(at, dump[at : at + 500]) for at in range(0, len(dump), 500)]
    for at, piece in (*pieces[::order], (0, dump[:464])):
        out += number(at) + number(len(piece)) + piece
    return out + b"\xff" * 16


@dataclass
class Bucket:
    """A bucket called dumps."""

    endpoint: str
    client: Any

    def put(self, key: str, content: bytes, **more: str) -> str:
        self.client.put_object(Bucket="dumps", Key=key, Body=content, **more)
        return f"s3://dumps/{key}"


@contextmanager
def bucket() -> Iterator[Bucket]:
    """moto, which speaks S3 without AWS."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="dumps")
    try:
        yield Bucket(endpoint, client)
    finally:
        client.close()
        server.stop()


@dataclass
class SshHost:
    port: int
    directory: Path
    key: Path
    """The client's private key."""
    host_key: str
    """As a line of known_hosts, with its host."""
    loop: asyncio.AbstractEventLoop
    connections: list[Any]

    def put(self, name: str, content: bytes) -> str:
        path = self.directory / name
        before = path.stat().st_mtime if path.exists() else 0
        path.write_bytes(content)
        # The protocol tells time to the second.
        os.utime(path, (before + 2, before + 2))
        return f"sftp://127.0.0.1:{self.port}{self.directory / name}"


@contextmanager
def ssh_host(place: Path) -> Iterator[SshHost]:
    """asyncssh's own server, with one client's key."""
    import asyncssh

    key, mine = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    (place / "files").mkdir()
    private = place / "id_ed25519"
    private.write_bytes(mine.export_private_key())
    private.chmod(0o600)
    authorized = place / "authorized_keys"
    authorized.write_bytes(mine.export_public_key())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    connections: list[Any] = []

    class Host(asyncssh.SSHServer):
        def connection_made(self, connection: Any) -> None:
            connections.append(connection)

    async def listen() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Host,
            server_host_keys=[key],
            authorized_client_keys=str(authorized),
            sftp_factory=True,
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    port = server.get_port()
    line = f"[127.0.0.1]:{port} {key.export_public_key().decode().strip()}\n"
    try:
        yield SshHost(port, place / "files", private, line, loop, connections)
    finally:
        loop.call_soon_threadsafe(server.close)
        for connection in connections:
            loop.call_soon_threadsafe(connection.abort)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
