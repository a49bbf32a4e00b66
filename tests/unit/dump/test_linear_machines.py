"""Logs of machines whose kernel lies in a linear map: all but x86_64 and aarch64, in both byte orders.

Fixtures are of Debian's kernels, made to panic under QEMU; what they do not have is written here.
"""

import struct
from pathlib import Path

import dump_writer
import pytest

from sandbox.dump import identify, kdump, read_log
from sandbox.dump.source import FileSource

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
PHYSICAL = 0x1000000
BANNER = b"Linux version 6.1.0-test (a@b) (gcc) #1 SMP"
TEXTS = [BANNER, b"two\nlines", b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"]

MACHINES = {
    # arch: virtual start of the image, where crash dumps of it have it; byte order; bytes of a long; ELF machine; info
    "ppc64le": (0xC000000000000000 + PHYSICAL, "little", 8, 21, []),
    "ppc64": (0xC000000000000000 + PHYSICAL, "big", 8, 21, []),
    "s390x": (PHYSICAL, "big", 8, 22, ["SYMBOL(lowcore_ptr)=100"]),
    "s390x since 6.10": (
        0x3FFE0000000,
        "big",
        8,
        22,
        ["IDENTITYBASE=10000000000", "KERNELOFFSET=3ffe0000000", f"KERNELOFFPHYS={PHYSICAL:x}"],
    ),
    "riscv64": (
        0xFFFFFFFF80000000,
        "little",
        8,
        243,
        [
            "NUMBER(KERNEL_LINK_ADDR)=0xffffffff80000000",
            f"NUMBER(va_kernel_pa_offset)={0xFFFFFFFF80000000 - PHYSICAL:#x}",
            "NUMBER(PAGE_OFFSET)=0xff60000000000000",
            "NUMBER(phys_ram_base)=0x80000000",
        ],
    ),
    "ppc64le under a big-endian header": (0xC000000000000000 + PHYSICAL, "little", 8, 21, []),
    "i686": (0xC0000000 + PHYSICAL, "little", 4, 3, []),
    # The file's first segment says where memory begins.
    "armv7l": (0xC0000000, "little", 4, 40, ["SYMBOL(swapper_pg_dir)=c0204000"]),
    "armv7l with 2 GiB for each": (0x80000000, "little", 4, 40, ["SYMBOL(swapper_pg_dir)=80004000"]),
    "armv7b": (0xC0000000, "big", 4, 40, ["SYMBOL(swapper_pg_dir)=c0004000"]),
    "loongarch64": (0x9000000000000000 + PHYSICAL, "little", 8, 258, []),
    "mips64": (0xFFFFFFFF80000000 + PHYSICAL, "little", 8, 8, []),
    "mips64 big-endian, in XKPHYS": (0x9800000000000000 + PHYSICAL, "big", 8, 8, []),
    "mips": (0x80000000 + PHYSICAL, "big", 4, 8, []),
}


def ring(image, code, word):
    """A printk_ringbuffer of 4 descriptors at `image`: memory by offset, and what VMCOREINFO says of it."""
    long = code + ("Q" if word == 8 else "I")
    bits = 8 * word - 2
    first = (1 << bits) - 2  # ids wrap around
    texts, descs, infos = b"", {}, {}
    for number, text in enumerate(TEXTS):
        identity = (first + number) & ((1 << bits) - 1)
        begin = len(texts)
        block = struct.pack(long, identity) + text
        texts += block + bytes(-len(block) % word)
        slot = identity % 4
        descs[slot] = struct.pack(
            long * 1 + "QQ" if word == 8 else long + "II", identity | 2 << bits, begin, len(texts)
        )
        infos[slot] = struct.pack(code + "QQH", number, number * 1_000_000_000, len(text)).ljust(32, b"\0")
    desc_size = 3 * word
    last = (first + len(TEXTS) - 1) & ((1 << bits) - 1)
    prb = struct.pack(code + "II", 2, 12) + struct.pack(
        code + ("QQQQQ" if word == 8 else "IIIII"), image + 0x2000, image + 0x3000, last, first, image + 0x4000
    )
    content = {
        0: struct.pack(long, image + 0x1000),
        0x1000: prb,
        0x2000: b"".join(descs.get(slot, bytes(desc_size)) for slot in range(4)),
        0x3000: b"".join(infos.get(slot, bytes(32)) for slot in range(4)),
        0x4000: texts,
    }
    offsets = {
        "printk_ringbuffer.desc_ring": 0,
        "printk_ringbuffer.text_data_ring": 0,
        "atomic_long_t.counter": 0,
        "prb_desc_ring.count_bits": 0,
        "prb_data_ring.size_bits": 4,
        "prb_desc_ring.descs": 8,
        "prb_desc_ring.infos": 8 + word,
        "prb_desc_ring.head_id": 8 + 2 * word,
        "prb_desc_ring.tail_id": 8 + 3 * word,
        "prb_data_ring.data": 8 + 4 * word,
        "prb_desc.state_var": 0,
        "prb_desc.text_blk_lpos": word,
        "prb_data_blk_lpos.begin": 0,
        "prb_data_blk_lpos.next": word,
        "printk_info.ts_nsec": 8,
        "printk_info.text_len": 16,
    }
    info = [f"OFFSET({name})={value}" for name, value in offsets.items()]
    return content, [*info, f"SYMBOL(prb)={image:x}", f"SIZE(prb_desc)={desc_size}", "SIZE(printk_info)=32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "release", "lines", "build_id"),
    [
        (
            "ppc64le",
            "6.1.0-50-powerpc64le",
            274,
            "e04703597006cc36ab4eb3e421c377f39b50aecc",
        ),
        ("riscv64", "6.12.107+deb13-riscv64", 223, "0ced2ce8d44e8f377eee75b7c4198104fafeb9e0"),
        ("s390x", "6.1.0-50-s390x", 159, "64191809e7272da77af306133aa6c566be0be242"),
        (
            "i686",
            "6.1.0-50-686-pae",
            445,
            "624a8b769bdfaa206b2026637863dde5ad75d430",
        ),
    ],
)
@pytest.mark.usefixtures("patient")
def test_real_kernels(tmp_path, name, release, lines, build_id):
    """Every line of the serial console was in the log when the fixture was made; it has as many since."""
    (fixture,) = FIXTURES.glob(f"{name}-*-zlib")
    found = identify(fixture)
    assert (found.release, found.arch, found.cause) == (release, name, "sysrq")
    assert found.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert str(found.hardware).startswith(("IBM pSeries (emulated by qemu)", "QEMU", "riscv-virtio,qemu"))
    assert found.build_id == build_id
    assert found.complete is True
    assert len(list(read_log(fixture))) == lines
    (tmp_path / "vmcore").write_bytes(fixture.read_bytes().replace(b"BUILD-ID=", b"BUILD-XX="))
    found = identify(tmp_path / "vmcore")
    assert (found.build_id, found.origins["build_id"]) == (build_id, "memory")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "lines", "build_id"),
    [
        ("armv7l", ("little", 32), 202, "48595b79b8f9f8c3a37f56904f275db5972d07e5"),
        ("loongarch64", ("little", 64), 196, "0fc184d88c38cab92a0608cb6a3a84ebe7732ac8"),
        ("s390x", ("big", 64), 149, "64191809e7272da77af306133aa6c566be0be242"),
    ],
)
def test_headers_as_qemu_writes_them(cut_off, name, form, lines, build_id):
    """Of dump-guest-memory -z: all but the pages that were left out is QEMU's, and neither has a note or a machine."""
    (path,) = FIXTURES.glob(f"{name}-*-qemu")
    with FileSource(path) as source:
        header, layout = kdump.parse(source)
    assert (header.order, header.bits, header.vmcoreinfo, header.release) == (*form, b"", None)
    found = identify(path)
    assert (found.arch, found.build_id) == (name, build_id)
    assert found.cause in {"no-root", "init-killed"}
    assert (found.dump_level, found.nr_cpus, found.complete) == (1, 1, True)
    assert found.origins["release"] == "vmcoreinfo in memory"
    assert len(list(read_log(path))) == lines
    for keep in (layout.descriptors_offset + 100, path.stat().st_size - 1):
        cut = identify(cut_off(path, keep))
        assert cut.complete is False


@pytest.fixture
def cut_off(tmp_path):
    def cut(path, size):
        (tmp_path / "vmcore").write_bytes(path.read_bytes()[:size])
        return tmp_path / "vmcore"

    return cut


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_ringbuffer(tmp_path, name):
    image, order, word, machine, more = MACHINES[name]
    content, info = ring(image, "<" if order == "little" else ">", word)
    pages = {(PHYSICAL + offset) // 4096: data.ljust(4096, b"\0") for offset, data in content.items()}
    text = "\n".join(["OSRELEASE=6.1.0-test", "PAGESIZE=4096", *more, *info, ""]).encode()
    path = tmp_path / "vmcore"
    # QEMU's pseries machine writes that of a panicked ppc64le guest.
    of_header = "big" if "big-endian header" in name else order
    path.write_bytes(dump_writer.elf(pages, text, machine=machine, order=of_header, bits=8 * word))
    assert list(read_log(path)) == [
        b"[    0.000000] " + BANNER,
        b"[    1.000000] two",
        b"               lines",
        b"[    2.000000] " + TEXTS[2],
    ]
    found = identify(path)
    assert (found.arch, found.cause) == (name.split()[0], "init-killed")
    assert found.panic == TEXTS[2].decode()
