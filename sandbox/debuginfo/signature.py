"""OpenPGP signatures of vendors. Sequoia knows version 6 and post-quantum ones, which GnuPG does not."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from sandbox.errors import VerificationFailed
from sandbox.formats import openpgp
from sandbox.profiles.keys import SHA1_SUFFIX


def signer(data: bytes, signatures: Sequence[bytes], keys: Sequence[Path], *, what: str) -> str:
    """The signer of `data`, in words: user ID and fingerprint of the key.

    One valid signature by one of `keys` is enough: newer packages carry a second, post-quantum one. RSA is checked
    here; for all else Sequoia is asked. Raises `VerificationFailed`.
    """
    if not signatures:
        raise VerificationFailed(f"{what}: it is not signed")
    certificates = [path.read_bytes() for path in keys]
    refused = VerificationFailed(f"{what}: its signature is not one of the vendor's")
    known = _rsa_keys(keys)
    for signature in signatures:
        try:
            key = openpgp.rsa_signer(data, signature, known)
        except openpgp.Malformed as error:
            # It may be of a future kind; another signature beside it is enough.
            refused = VerificationFailed(f"{what}: its signature cannot be read: {error}")
            continue
        if key is not None:
            return f"{key.name} ({key.fingerprint})"
    return _by_sequoia(data, signatures, certificates, refused)


def _rsa_keys(files: Sequence[Path]) -> list[openpgp.RsaKey]:
    found: list[openpgp.RsaKey] = []
    for file in files:
        with contextlib.suppress(openpgp.Malformed):
            found += openpgp.rsa_keys(file.read_bytes(), sha1=file.name.endswith(SHA1_SUFFIX))
    return found


def _by_sequoia(data: bytes, signatures: Sequence[bytes], keys: Sequence[bytes], refused: VerificationFailed) -> str:
    try:
        import pysequoia
    except ImportError:
        refused.hint = "if the vendor signs with something newer than RSA: pip install pysequoia"
        raise refused from None
    certificates = []
    for key in keys:
        # A key that Sequoia cannot read must not hide the others.
        with contextlib.suppress(Exception):
            certificates += pysequoia.Cert.split_bytes(key)
    for packet in signatures:
        try:
            signature = pysequoia.Sig.from_bytes(packet)
            checked = pysequoia.verify(data, lambda _: certificates, signature=signature)
        except Exception:  # noqa: BLE001, S112 - Rust's errors arrive as plain exceptions; another signature may do
            continue
        for valid in checked.valid_sigs:
            for certificate in certificates:
                if certificate.fingerprint == valid.certificate:
                    return f"{certificate.user_ids[0] if certificate.user_ids else 'key'} ({certificate.fingerprint})"
    raise refused
