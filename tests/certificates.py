"""A certificate authority, and a certificate of it for servers and clients alike, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

FILES = ("ca.pem", "cert.pem", "key.pem")
"""What `make` makes, under the names that Docker has for them."""


def make(place: Path) -> Path:
    """Make the directory `place` with `FILES`. The certificate is for 127.0.0.1, and valid for two days."""
    place.mkdir()
    (place / "usage").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=both -keyout key.pem -out request",
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile usage -out cert.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=place, capture_output=True, check=True)
    return place
