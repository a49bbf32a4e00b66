"""What engines say, and which error it becomes: callers never look at the words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sandbox.engine import messages
from sandbox.errors import (
    AccessDenied,
    BaseImageUnavailable,
    EngineFailed,
    ImageNotInRegistry,
    NoSpace,
    PathNotFound,
    VmboxError,
)

REF = "registry.example:5000/vmbox/kernel:12ab"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('invalid mount config for type "bind": bind source path does not exist: /var/crash/none', PathNotFound),
        ("statfs /var/crash/none: no such file or directory", PathNotFound),
        ("lstat /var/crash/vmcore/x: not a directory", PathNotFound),
        ("crun: open `/mnt/nfs/vmcore`: Permission denied: OCI permission denied", AccessDenied),
        ("error while creating mount source path\nmkdir /mnt/nfs: permission denied", AccessDenied),
        (
            "runc create failed: error setting rlimit type 7: operation not permitted: OCI permission denied",
            EngineFailed,
        ),
        ("write /var/lib/docker/x: no space left on device", NoSpace),
        ("cgroups in hybrid mode not supported", EngineFailed),
        ("", EngineFailed),
    ],
)
def test_a_failure(said: str, kind: type[VmboxError]) -> None:
    with pytest.raises(VmboxError) as caught:
        messages.fail("Docker cannot start sleep", said)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("free", "kind"), [(0, NoSpace), (1, EngineFailed)])
def test_a_panic_of_podman_where_its_temporary_files_have_no_room(
    free: int, kind: type[VmboxError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/full")
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_bavail=free if path == "/full" else 9))
    with pytest.raises(VmboxError) as caught:
        messages.fail(
            "Podman cannot look at an image", "runtime error: invalid memory address or nil pointer dereference"
        )
    assert type(caught.value) is kind
    assert ("/full" in str(caught.value)) == (free == 0)


@pytest.mark.parametrize(
    ("said", "kind", "login"),
    [
        (f"manifest for {REF} not found: manifest unknown: manifest unknown", ImageNotInRegistry, False),
        (f"initializing source docker://{REF}: reading manifest 12ab: name unknown", ImageNotInRegistry, False),
        ("unauthorized: authentication required", BaseImageUnavailable, True),
        ("unauthorized: repository vmbox/kernel not found", ImageNotInRegistry, True),
        ("pull access denied for x, repository does not exist: requested access denied", BaseImageUnavailable, True),
        ("dial tcp: lookup registry.example: no such host", BaseImageUnavailable, False),
        ("failed to verify certificate: x509: certificate signed by unknown authority", BaseImageUnavailable, False),
        ("the engine gives no reason", BaseImageUnavailable, False),
    ],
)
def test_an_image_that_cannot_be_had(said: str, kind: type[VmboxError], login: bool) -> None:
    with pytest.raises(BaseImageUnavailable) as caught:
        messages.unavailable(REF, said)
    assert type(caught.value) is kind
    assert caught.value.login_needed is login
    assert ("docker login" in caught.value.hint) is login
