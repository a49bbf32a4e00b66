"""RSA signatures of OpenPGP (RFC 4880 and its v3 predecessor), checked against keys that vmbox ships.

Nearly all RPMs are signed this way. This module exists because Sequoia refuses the keys of EL 7 and 8: SHA-1 binds
their user IDs. vmbox ships each key as a file, so the user ID proves nothing more. The signature of the package does
matter, and there SHA-1 is refused here too, except of keys that say otherwise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_SMALLEST_KEY: Final = 2048
_MOST_SIGNATURES: Final = 16
_MOST_PACKETS: Final = 1 << 16
"""Most packets in a file of certificates, with all their signatures."""
_RSA: Final = frozenset({1, 3})
_DIGEST_INFO: Final = {
    8: ("sha256", bytes.fromhex("3031300d060960864801650304020105000420")),
    9: ("sha384", bytes.fromhex("3041300d060960864801650304020205000430")),
    10: ("sha512", bytes.fromhex("3051300d060960864801650304020305000440")),
    2: ("sha1", bytes.fromhex("3021300906052b0e03021a05000414")),
}
"""By OpenPGP number: name, and the DER that PKCS #1 v1.5 puts before the hash (RFC 8017, 9.2)."""


class Malformed(ValueError):
    """Not what RFC 4880 describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaKey:
    """A primary key. Subkeys are not used: their binding signatures would have to be checked."""

    name: str
    """Its first user ID."""
    fingerprint: str
    modulus: int
    exponent: int
    sha1: bool = False
    """Whether its signatures over SHA-1 count."""


def rsa_keys(data: bytes, *, sha1: bool = False) -> tuple[RsaKey, ...]:
    """The RSA keys in a file of certificates, armored or not; others are skipped. Raises `Malformed`.

    `sha1`: their signatures over SHA-1 count. A forger would need a second package with the hash of a signed one, which
    is beyond reach even for SHA-1; two packages of one hash are not. So this is only for vendors that sign no more.
    """
    found: list[RsaKey] = []
    for block in _dearmored(data):
        body: bytes | None = None
        for tag, packet in _packets(block):
            if tag == 6:
                body = packet
            elif tag == 13 and body is not None and body[:1] == b"\x04" and len(body) > 6 and body[5] in _RSA:
                modulus, rest = _number(body[6:])
                exponent, _ = _number(rest)
                fingerprint = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
                name = packet.decode("utf-8", "replace")
                found.append(
                    RsaKey(
                        name=name,
                        fingerprint=fingerprint.hexdigest(),
                        modulus=modulus,
                        exponent=exponent,
                        sha1=sha1,
                    )
                )
                body = None
    return tuple(key for key in found if key.modulus.bit_length() >= _SMALLEST_KEY)


def rsa_signer(data: bytes, signature: bytes, keys: Sequence[RsaKey]) -> RsaKey | None:
    """Which of `keys` made `signature` over `data`; None when none did. Raises `Malformed`."""
    # Each one costs a hash of all of `data`.
    for tag, packet in itertools.islice(_packets(signature), _MOST_SIGNATURES):
        if tag == 2 and (parts := _signature(packet)) is not None:
            algorithm, hashed, value = parts
            name, prefix = _DIGEST_INFO[algorithm]
            digest = hashlib.new(name, data + hashed, usedforsecurity=name != "sha1").digest()
            for key in keys:
                if name == "sha1" and not key.sha1:
                    continue
                size = (key.modulus.bit_length() + 7) // 8
                if not 0 < value < key.modulus:
                    continue
                made = pow(value, key.exponent, key.modulus).to_bytes(size, "big")
                # The whole block is compared with the expected one: nothing in it is parsed.
                wanted = b"\0\x01" + b"\xff" * (size - len(prefix) - len(digest) - 3) + b"\0" + prefix + digest
                if hmac.compare_digest(made, wanted):
                    return key
    return None


def _signature(packet: bytes) -> tuple[int, bytes, int] | None:
    """(hash algorithm, what is hashed after the data, number) of an RSA signature over a document; None for others."""
    if packet[:2] == b"\x03\x05" and len(packet) > 19:
        kind, public, algorithm = packet[2], packet[15], packet[16]
        hashed, rest = packet[2:7], packet[19:]
    elif packet[:1] == b"\x04" and len(packet) > 10:
        kind, public, algorithm = packet[1], packet[2], packet[3]
        end = 6 + int.from_bytes(packet[4:6], "big")
        hashed = packet[:end] + b"\x04\xff" + end.to_bytes(4, "big")
        rest = packet[end + 2 + int.from_bytes(packet[end : end + 2], "big") + 2 :]
    else:
        return None
    if kind != 0 or public not in _RSA or algorithm not in _DIGEST_INFO:
        return None
    return algorithm, hashed, _number(rest)[0]


def _number(data: bytes) -> tuple[int, bytes]:
    size = (int.from_bytes(data[:2], "big") + 7) // 8
    if len(data) < 2 + size:
        raise Malformed("a number is cut off")
    return int.from_bytes(data[2 : 2 + size], "big"), data[2 + size :]


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = count = 0
    while at < len(data):
        head = data[at : at + 6]
        first = head[0]
        count += 1
        if not first & 0x80 or len(head) < 2 or count > _MOST_PACKETS:
            raise Malformed("not an OpenPGP packet")
        if first & 0x40:
            tag, start = first & 0x3F, 2
            size = head[1]
            if 192 <= size < 224:
                size, start = ((size - 192) << 8) + head[2 if len(head) > 2 else 1] + 192, 3
            elif size == 255:
                size, start = int.from_bytes(head[2:6], "big"), 6
            elif size >= 224:
                raise Malformed("a packet in parts")
        else:
            tag, width = first >> 2 & 0xF, first & 3
            if width == 3:
                raise Malformed("a packet without a length")
            start = 1 + (1 << width)
            size = int.from_bytes(head[1:start], "big")
        at += start + size
        if at > len(data):
            raise Malformed("a packet is cut off")
        yield tag, data[at - size : at]


def _dearmored(data: bytes) -> Iterator[bytes]:
    if not data.lstrip().startswith(b"-----BEGIN"):
        yield data
        return
    for block in re.findall(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END", data, re.DOTALL):
        # Headers, an empty line, base64, and a checksum that begins with "=".
        _, _, body = (b"\n" + block.replace(b"\r", b"")).partition(b"\n\n")
        try:
            yield base64.b64decode(re.split(rb"\n=(?=[^\n]{4}\n)", body)[0])
        except binascii.Error as error:
            raise Malformed(f"not base64: {error}") from None
