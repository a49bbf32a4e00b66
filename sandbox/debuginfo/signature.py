"""OpenPGP signatures of vendors, by Sequoia: it knows version 6 and post-quantum ones, which GnuPG does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sandbox import paths
from sandbox.errors import ConfigurationError, VerificationFailed


def key_files(names: Sequence[str]) -> tuple[Path, ...]:
    """The vendors' public keys, by file name: the user's own in `<config>/images/keys`, else those of vmbox.

    Raises `ConfigurationError` for one that is in neither.
    """
    found: list[Path] = []
    for name in names:
        for directory in (paths.config_dir(), paths.data_dir()):
            path = directory / "images" / "keys" / name
            if path.is_file():
                found.append(path)
                break
        else:
            raise ConfigurationError(
                f"there is no key {name}", hint=f"put it into {paths.config_dir() / 'images' / 'keys'}"
            )
    return tuple(found)


def signer(data: bytes, signatures: Sequence[bytes], keys: Sequence[Path], *, what: str) -> str:
    """Who signed `data`, in words: user ID and fingerprint of the key.

    One valid signature by one of `keys` is enough: newer packages carry a second, post-quantum one. Raises
    `VerificationFailed`.
    """
    try:
        import pysequoia
    except ImportError:
        raise VerificationFailed(
            f"{what}: its signature cannot be checked without pysequoia", hint="pip install pysequoia"
        ) from None
    if not signatures:
        raise VerificationFailed(f"{what}: it is not signed")
    certificates = [certificate for path in keys for certificate in pysequoia.Cert.split_bytes(path.read_bytes())]
    reasons: list[str] = []
    for packet in signatures:
        try:
            signature = pysequoia.Sig.from_bytes(packet)
            checked = pysequoia.verify(data, lambda _: certificates, signature=signature)
        except Exception as error:  # noqa: BLE001 - pysequoia raises plain exceptions of Rust's anyhow
            reasons.append(str(error).partition("\n")[0])
            continue
        for valid in checked.valid_sigs:
            for certificate in certificates:
                if certificate.fingerprint == valid.certificate:
                    return f"{certificate.user_ids[0] if certificate.user_ids else 'key'} ({certificate.fingerprint})"
    raise VerificationFailed(f"{what}: its signature is not one of the vendor's", detail="\n".join(reasons) or None)
