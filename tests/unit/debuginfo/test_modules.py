"""Debug files of modules out of the package that vmlinux came from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import archives
from debuginfo_bench import Bench
from sandbox.debuginfo import http_ranges
from sandbox.debuginfo.modules import Modules, fetch_modules, module_name
from sandbox.errors import DebuginfoNotFound, VerificationFailed

BLOCK = 1 << 12
TREE = f"./usr/lib/debug/lib/modules/{archives.RELEASE}/kernel"


def modules() -> dict[str, bytes]:
    noise = random.Random(2)
    names = [f"drivers/d{number // 10}/mod-{number:03}.ko" for number in range(40)]
    # A long one: GNU tar writes its name into a member of its own.
    names.append("fs/" + "deep/" * 20 + "far-away.ko")
    return {f"{TREE}/{name}": noise.randbytes(noise.choice((200, 1000, 6_000))) for name in sorted(names)}


@pytest.fixture(scope="module")
def package() -> bytes:
    noise = random.Random(1).randbytes
    files = {archives.PATH: archives.vmlinux(dwarf=noise(60_000)), **modules()}
    return archives.deb(files, "blocks", block=BLOCK)


@pytest.fixture
def vmlinux(bench: Bench, over_tls: None, package: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(http_ranges, "_WINDOW", 4096)
    bench.put(package)
    found = bench.locate().vmlinux
    bench.archive.sent = 0
    bench.archive.requests.clear()
    return found


def test_names() -> None:
    assert module_name("usr/lib/debug/lib/modules/6.1/kernel/drivers/block/virtio-blk.ko.debug") == "virtio_blk"
    assert module_name("ext4.ko") == "ext4"
    assert module_name("vmlinux.debug") is None
    assert module_name("ext4.ko.xz") is None


def test_a_few_of_many(bench: Bench, vmlinux: Path, package: bytes) -> None:
    got = fetch_modules(vmlinux, ["mod_037", "mod-003", "far_away", "nosuch"])
    assert got == Modules(fetched=("far_away", "mod_003", "mod_037"), missing=("nosuch",))
    there = {path.name: path.read_bytes() for path in (vmlinux.parent / "modules").glob("*.ko")}
    assert there == {
        Path(path).name: data
        for path, data in modules().items()
        if path.endswith(("mod-003.ko", "mod-037.ko", "far-away.ko"))
    }
    # The package is small, and what does not grow with it is most of the bytes: what counts is how few blocks are read.
    assert bench.archive.sent < 0.75 * len(package)
    assert len(bench.archive.requests) < 30
    bench.archive.requests.clear()
    assert fetch_modules(vmlinux, ["mod_003"]) == Modules(fetched=(), missing=())
    assert bench.archive.requests == []


@pytest.mark.slow
def test_all_of_them(vmlinux: Path) -> None:
    names = [name for path in modules() if (name := module_name(path))]
    assert len(fetch_modules(vmlinux, names).fetched) == 41
    assert len(list((vmlinux.parent / "modules").glob("*.ko"))) == 41


@pytest.mark.slow
def test_a_package_in_no_order(bench: Bench, over_tls: None) -> None:
    shuffled = list(modules().items())
    random.Random(5).shuffle(shuffled)
    files = {archives.PATH: archives.vmlinux(dwarf=b"x" * 60_000), **dict(shuffled)}
    bench.put(archives.deb(files, "blocks", block=BLOCK))
    vmlinux = bench.locate().vmlinux
    assert fetch_modules(vmlinux, ["mod_037"], bench.heard).fetched == ("mod_037",)
    assert any("another order" in notice for notice in bench.heard.notices)
    (module,) = (vmlinux.parent / "modules").glob("*.ko")
    assert module.read_bytes() == modules()[f"{TREE}/drivers/d3/mod-037.ko"]


@pytest.mark.parametrize("kind", ["xz", "gz", "zst", ""])
def test_without_blocks(bench: Bench, kind: str) -> None:
    bench.put(archives.deb({archives.PATH: archives.vmlinux(), **modules()}, kind))
    vmlinux = bench.locate().vmlinux
    assert fetch_modules(vmlinux, ["mod_037", "mod_003"]).fetched == ("mod_003", "mod_037")
    assert bench.left_over() == []


def test_strict_wants_the_hash_of_all(bench: Bench, vmlinux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    bench.archive.flip = len(bench.package) - 40
    with pytest.raises(VerificationFailed):
        fetch_modules(vmlinux, ["mod_037"])
    assert not (vmlinux.parent / "modules").exists()
    bench.archive.flip = None
    assert fetch_modules(vmlinux, ["mod_037"]).fetched == ("mod_037",)


def test_strict_does_not_use_what_was_not_checked(bench: Bench, vmlinux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_modules(vmlinux, ["mod_037"])
    (module,) = (vmlinux.parent / "modules").glob("*.ko")
    module.write_bytes(b"lies")
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    assert fetch_modules(vmlinux, ["mod_037"]).fetched == ("mod_037",)
    assert module.read_bytes() == modules()[f"{TREE}/drivers/d3/mod-037.ko"]
    assert fetch_modules(vmlinux, ["mod_037"]) == Modules(fetched=(), missing=())


@pytest.mark.parametrize("ranges", [True, False])
def test_modules_of_a_vmlinux_that_came_over_tls_come_over_tls(bench: Bench, package: bytes, *, ranges: bool) -> None:
    """Who blocks TLS, or names a mirror without, gets no modules into what is used for every dump."""
    bench.put(package)
    vmlinux = bench.locate().vmlinux
    file = vmlinux.with_name("about.json")
    about = json.loads(file.read_text())
    assert about["url"].startswith("http:")
    bench.archive.ranges = ranges
    for check in ("ranged-tls", "tls"):
        file.write_text(json.dumps(about | {"sha256": None, "check": check}))
        with pytest.raises(VerificationFailed, match="its modules would come without"):
            fetch_modules(vmlinux, ["mod_037"])
        assert not (vmlinux.parent / "modules").exists()


@pytest.mark.slow
def test_a_flipped_byte_is_never_kept(bench: Bench, vmlinux: Path) -> None:
    for flip in range(500, len(bench.package), len(bench.package) // 7):
        bench.archive.flip = flip
        try:
            fetch_modules(vmlinux, ["mod_021"])
        except VerificationFailed:
            assert not (vmlinux.parent / "modules").exists()
        else:
            (module,) = (vmlinux.parent / "modules").glob("*.ko")
            assert module.read_bytes() == modules()[f"{TREE}/drivers/d2/mod-021.ko"]
            for file in module.parent.iterdir():
                file.unlink()
            module.parent.rmdir()


def test_from_what_the_user_gave(bench: Bench, tmp_path: Path) -> None:
    tree = tmp_path / "usr/lib/debug"
    for path, data in {archives.PATH: archives.vmlinux(), **modules()}.items():
        file = tmp_path / path.removeprefix("./")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    vmlinux = bench.locate(given=tree).vmlinux
    assert fetch_modules(vmlinux, ["mod_037"]).fetched == ("mod_037",)


def test_from_a_package_the_user_gave(bench: Bench, tmp_path: Path, package: bytes) -> None:
    given = tmp_path / "linux-image-x-dbg_1_amd64.deb"
    given.write_bytes(package)
    vmlinux = bench.locate(given=given).vmlinux
    assert fetch_modules(vmlinux, ["mod_037", "nosuch"]) == Modules(fetched=("mod_037",), missing=("nosuch",))


def test_what_is_not_in_the_cache(bench: Bench, vmlinux: Path) -> None:
    moved = vmlinux.parent.parent / "elsewhere"
    vmlinux.parent.rename(moved)
    (moved / "about.json").unlink()
    with pytest.raises(DebuginfoNotFound, match="not in the cache"):
        fetch_modules(moved / "vmlinux", ["x"])
