"""Genuine kernel logs in the forms that people send, and what is read of each."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import quopri
import random
import tarfile
import textwrap
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandbox.dump import identify, log_forms, panic, panic_link, read_log
from sandbox.dump.source import Budget, DeadlineExceeded
from sandbox.errors import DumpDamaged, NotADump
from sandbox.model import Vmcore

DUMPS = Path(__file__).parents[2] / "fixtures" / "dumps"
KERNEL, VERSION = "6.12.107+deb12-cloud-amd64", "Debian 6.12.107-1~deb12u1"
PANIC = "Kernel panic - not syncing: sysrq triggered crash"
Stamped = tuple[float, str]


def log_of(name: str) -> list[Stamped]:
    """(seconds, text) of each line."""
    lines = gzip.decompress((DUMPS / f"{name}.dmesg.gz").read_bytes()).decode().splitlines()
    return [(float(line[1:13]), line[15:]) for line in lines if line.startswith("[")]


LOG = log_of("x86_64-6.12")
OLDER = log_of("x86_64-6.1")
OOPS = LOG[next(at for at, (_, text) in enumerate(LOG) if "sysrq: Trigger" in text) :]
BOOTED = datetime(2026, 11, 27, 8, 48, tzinfo=UTC)


def plain(log: list[Stamped]) -> list[str]:
    return [f"[{seconds:12.6f}] {text}" for seconds, text in log]


def at(seconds: float) -> datetime:
    return BOOTED + timedelta(seconds=seconds)


def text(lines: list[str], ending: str = "\n") -> bytes:
    return (ending.join(lines) + ending).encode()


def prefixed(make: Callable[[float], str], *, times: bool = True) -> Callable[[list[Stamped]], bytes]:
    def form(log: list[Stamped]) -> bytes:
        return text([f"{make(s)}{f'[{s:12.6f}] ' if times else ''}{line}" for s, line in log])

    return form


def dmesg_json(log: list[Stamped]) -> bytes:
    return json.dumps({"dmesg": [{"pri": 6, "time": round(s, 6), "msg": line} for s, line in log]}, indent=3).encode()


def dmesg_json_as_printed(log: list[Stamped]) -> bytes:
    entries = (f'      "pri": 6,\n      "time": {s:13.6f},\n      "msg": {json.dumps(line)}' for s, line in log)
    return ('{\n   "dmesg": [\n   {\n' + "\n   },{\n".join(entries) + "\n   }\n  ]\n}\n").encode()


def journal_json(log: list[Stamped]) -> bytes:
    other = {"SYSLOG_IDENTIFIER": "sshd", "_TRANSPORT": "syslog", "MESSAGE": "Kernel panic - not syncing: a joke"}
    entries = [
        {"_TRANSPORT": "kernel", "MESSAGE": line, "_SOURCE_MONOTONIC_TIMESTAMP": str(round(s * 1e6))} for s, line in log
    ]
    return text([json.dumps(one) for one in [*entries, other]])


def syslog_file(log: list[Stamped]) -> bytes:
    lines = [f"{at(s):%b %d %H:%M:%S} web01 kernel: [{s:12.6f}] {line}" for s, line in log]
    others = ["Nov 27 08:48:02 web01 systemd[1]: Kernel panic - not syncing: quoted by another program"] * 2
    return text([others[0], *lines, others[1]])


def kmsg(log: list[Stamped]) -> bytes:
    return text([f"6,{number},{round(s * 1e6)},-;{line}" for number, (s, line) in enumerate(log)])


def netconsole_extended(log: list[Stamped]) -> bytes:
    """With the release, a receiver's address, a dictionary, and long records in fragments."""
    lines = []
    for number, (s, line) in enumerate(log):
        head = f"10.0.0.7:6665 {KERNEL},6,{number},{round(s * 1e6)},-,caller=T1"
        if len(line) > 100:
            pieces = [(at, line[at : at + 90]) for at in range(0, len(line), 90)]
            lines += [f"{head},ncfrag={begin}/{len(line)};{piece}" for begin, piece in pieces]
        else:
            lines.append(f"{head};{line}")
        lines.append(" SUBSYSTEM=pci")
    return text(lines)


def mail(log: list[Stamped]) -> bytes:
    return text(["From: a@b", "Subject: crash", "", "Hello,", "we saw this:", "", *(f"> > {s}" for s in plain(log))])


def encoded_mail(log: list[Stamped]) -> bytes:
    head = b"From: a@b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
    return head + quopri.encodestring(b"Hello,\n" + text(plain(log)))


def base64_mail(log: list[Stamped]) -> bytes:
    return b"From: a@b\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n" + base64.encodebytes(
        text(plain(log))
    )


def serial(log: list[Stamped]) -> bytes:
    """A boot loader in colours before it, and \\r\\r\\n as some consoles have."""
    return b"\x1b[2J\x1b[01;01HGNU GRUB\r\n\x1b[0m  Booting `Debian'\r\n\r\n" + text(plain(log), "\r\r\n")


def sol(log: list[Stamped]) -> bytes:
    return b"[SOL Session operational.  Use ~? for help]\r\n" + text(
        [f"\x1b[0m{line}\x1b[K" for line in plain(log)], "\r\n"
    )


def journal_export(log: list[Stamped]) -> bytes:
    other = ["SYSLOG_IDENTIFIER=sshd", "_TRANSPORT=syslog", "MESSAGE=Kernel panic - not syncing: a joke", ""]
    fields = ("__REALTIME_TIMESTAMP=1764232000000000", "_TRANSPORT=kernel", "SYSLOG_IDENTIFIER=kernel")
    entries = [
        [*fields, f"_SOURCE_MONOTONIC_TIMESTAMP={round(s * 1e6)}", f"MESSAGE={line}", ""] for s, line in log if line
    ]
    return text([field for entry in [other, *entries, other] for field in entry])


def journal_verbose(log: list[Stamped]) -> bytes:
    return text(
        [
            field
            for s, line in log
            for field in (
                f"{at(s):%a %Y-%m-%d %H:%M:%S}.000001 UTC [s=0;i=1;b=2]",
                "    _TRANSPORT=kernel",
                f"    _SOURCE_MONOTONIC_TIMESTAMP={round(s * 1e6)}",
                f"    MESSAGE={line}",
            )
        ]
    )


def console_of_a_cloud(log: list[Stamped]) -> bytes:
    return json.dumps({"InstanceId": "i-0", "Output": "\r\n".join(plain(log)) + "\r\n", "Latest": True}).encode()


def of_a_web_page(log: list[Stamped]) -> bytes:
    """Copied from one that shows two spaces as one that breaks and one that does not, and 0x12 with a times sign."""
    return text([line.replace("  ", " \u00a0").replace("0x", "0\u00d7") for line in plain(log)])


FORMS: dict[str, Callable[[list[Stamped]], bytes]] = {
    "dmesg": lambda log: text(plain(log)),
    "dmesg -x": prefixed(lambda _: "kern  :info  : "),
    "dmesg -r": prefixed(lambda _: "<6>"),
    "dmesg -t": prefixed(lambda _: "", times=False),
    "dmesg -T": prefixed(lambda s: f"[{at(s):%a %b %e %H:%M:%S %Y}] ", times=False),
    "dmesg -Tx": prefixed(lambda s: f"kern  :info  : [{at(s):%a %b %e %H:%M:%S %Y}] ", times=False),
    "dmesg -e": prefixed(lambda s: "[Nov27 08:48] " if s == 0 else "[  +0.000012] ", times=False),
    "dmesg -d": lambda log: text([f"[{s:12.6f} <    0.000012>] {line}" for s, line in log]),
    "dmesg --time-format iso": prefixed(lambda s: f"{at(s):%Y-%m-%dT%H:%M:%S},123456+00:00 ", times=False),
    "dmesg --json": dmesg_json,
    "dmesg --json as printed": dmesg_json_as_printed,
    "caller": lambda log: text([f"[{s:12.6f}] [      T1] {line}" for s, line in log]),
    "journalctl": prefixed(lambda s: f"{at(s):%b %d %H:%M:%S} web01 kernel: ", times=False),
    "journalctl short-precise": prefixed(lambda s: f"{at(s):%b %d %H:%M:%S}.123456 web01 kernel: ", times=False),
    "journalctl short-iso": prefixed(lambda s: f"{at(s):%Y-%m-%dT%H:%M:%S}+01:00 web01 kernel: ", times=False),
    "journalctl short-full": prefixed(lambda s: f"{at(s):%a %Y-%m-%d %H:%M:%S} UTC web01 kernel: ", times=False),
    "journalctl short-unix": prefixed(lambda s: f"{at(s).timestamp():.6f} web01 kernel: ", times=False),
    "journalctl short-monotonic": lambda log: text([f"[{s:12.6f}] web01 kernel: {line}" for s, line in log]),
    "journalctl json": journal_json,
    "syslog": syslog_file,
    "rsyslog iso": prefixed(lambda s: f"{at(s):%Y-%m-%dT%H:%M:%S}.5+00:00 web01 kernel: "),
    "grep": prefixed(lambda s: f"kern.log:{at(s):%b %d %H:%M:%S} web01 kernel: "),
    "kmsg": kmsg,
    "netconsole": prefixed(lambda _: ""),
    "netconsole to rsyslog": prefixed(lambda s: f"{at(s):%b %d %H:%M:%S} 10.0.0.7 "),
    "netconsole to syslog without times": prefixed(lambda s: f"{at(s):%b %d %H:%M:%S} 10.0.0.7 ", times=False),
    "netconsole with address": prefixed(lambda _: "10.0.0.7:6665 "),
    "netconsole with host": prefixed(lambda s: f"{at(s):%Y-%m-%d %H:%M:%S} web01: <6>"),
    "netconsole extended": netconsole_extended,
    "serial": serial,
    "sol": sol,
    "console server": prefixed(lambda s: f"[{at(s):%Y-%m-%d %H:%M:%S}] "),
    "crlf": lambda log: text(plain(log), "\r\n"),
    "utf-16": lambda log: text(plain(log)).decode().encode("utf-16"),
    "utf-16 without mark": lambda log: text(plain(log)).decode().encode("utf-16-le"),
    "utf-8 with mark": lambda log: b"\xef\xbb\xbf" + text(plain(log)),
    "mail": mail,
    "encoded mail": encoded_mail,
    "base64 mail": base64_mail,
    "logread": prefixed(lambda s: f"{at(s):%a %b %e %H:%M:%S %Y} kern.info kernel: "),
    "journalctl in Russian": prefixed(lambda s: f"ноя {at(s):%d %H:%M:%S} web01 kernel: ", times=False),
    "journalctl in French": prefixed(lambda s: f"févr. {at(s):%d %H:%M:%S} web01 kernel: ", times=False),
    "journalctl in Chinese": prefixed(lambda s: f"11月 {at(s):%d %H:%M:%S} web01 kernel: ", times=False),
    "journalctl export": journal_export,
    "journalctl verbose": journal_verbose,
    "console of a cloud": console_of_a_cloud,
    "web page": of_a_web_page,
    "one line of JSON": lambda log: b"\\n".join(line.replace('"', '\\"').encode() for line in plain(log)) + b"\n",
    "hypervisor": prefixed(lambda s: f"{at(s):%Y-%m-%dT%H:%M:%S}.123Z| vcpu-0| I125: Guest: "),
    "in a container": prefixed(lambda _: "console_1  | "),
}


def wrapped(lines: list[str], quote: str = "") -> bytes:
    """As mail breaks lines, where it may: at spaces."""
    return text(
        [
            quote + piece
            for line in lines
            for piece in textwrap.wrap(line, 76, break_long_words=False, break_on_hyphens=False)
        ]
    )


@pytest.mark.parametrize("quote", ["", "> "])
def test_lines_that_mail_broke_are_whole_again(tmp_path: Path, quote: str) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"Hello,\nit crashed:\n\n" + wrapped(plain(OOPS), quote) + b"\nThank you for your help\n")
    found, lines = read(path)
    assert (found.release, found.panic, found.cause) == (KERNEL, PANIC, "sysrq")
    assert found.utsname_version is not None
    assert VERSION in found.utsname_version
    words = [line.split() for _, line in OOPS]
    assert [line.split() for line in lines if line.split() in words] == words
    assert lines[-1] == "Thank you for your help"


def test_an_answer_below_a_line_of_a_console_is_not_made_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    whole = plain(OOPS)
    path.write_bytes(text([*whole[:3], "Debian GNU/Linux 12 web01 ttyS0", *whole[3:]]))
    _, lines = read(path)
    assert "Debian GNU/Linux 12 web01 ttyS0" in lines
    assert [line for line in lines if not line.startswith("Debian")] == [line for _, line in OOPS]


def read(path: Path) -> tuple[Vmcore, list[str]]:
    """What is found, and the lines without times."""
    lines = [line.decode() for line in read_log(path)]
    return identify(path), [line[15:] if line[:1] == "[" and line[13:15] == "] " else line for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_whole_logs(tmp_path: Path, form: str) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(FORMS[form](LOG))
    found, lines = read(path)
    assert (found.format, found.release, found.panic, found.cause) == ("log", KERNEL, PANIC, "sysrq")
    assert found.utsname_version == f"#1 SMP PREEMPT_DYNAMIC {VERSION} (2026-09-10)"
    assert (found.arch, found.taint) == ("x86_64", ())
    assert lines[-len(OOPS) :] == [line for _, line in OOPS]
    assert lines.count(PANIC) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_an_oops_cut_out_names_release_and_package(tmp_path: Path, form: str) -> None:
    path = tmp_path / "oops.txt"
    path.write_bytes(FORMS[form](OOPS))
    found, lines = read(path)
    assert (found.release, found.panic, found.cause) == (KERNEL, PANIC, "sysrq")
    assert found.utsname_version == f"#1 {VERSION}".replace("#1 ", "#1  ")
    assert (found.arch, found.banner) == ("x86_64", None)
    assert lines[-len(OOPS) :] == [line for _, line in OOPS]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dmesg", "journalctl", "serial", "dmesg -t", "kmsg", "syslog"])
def test_one_boot_gives_all_values(tmp_path: Path, form: str) -> None:
    """An older kernel panicked before; after the panic the capture kernel boots, and then the machine without one."""
    capture = [*OLDER[:1], (0.0, "Kernel command line: elfcorehdr=0x35000000"), (2.5, f"{PANIC[:28]}out of memory")]
    after = OLDER[:300]
    path = tmp_path / "console.txt"
    path.write_bytes(FORMS[form](OLDER) + FORMS[form](LOG) + FORMS[form](capture) + FORMS[form](after))
    found, lines = read(path)
    assert (found.release, found.panic, found.cause) == (KERNEL, PANIC, "sysrq")
    assert found.utsname_version == f"#1 SMP PREEMPT_DYNAMIC {VERSION} (2026-09-10)"
    begin = lines.index(OOPS[0][1])
    assert lines[begin : begin + len(OOPS)] == [line for _, line in OOPS]
    if form != "dmesg -t":
        assert found.uptime_seconds in {LOG[-1][0], None}


def test_boots_without_banners_are_told_apart_by_their_times(tmp_path: Path) -> None:
    path = tmp_path / "console.txt"
    path.write_bytes(text(plain(OOPS) + plain(OLDER[1:300])))
    found = identify(path)
    assert (found.release, found.panic, found.uptime_seconds) == (KERNEL, PANIC, LOG[-1][0])


def test_a_banner_of_another_boot_does_not_name_the_kernel(tmp_path: Path) -> None:
    """Where the beginning of the boot is lost, the line above the stack still names its kernel."""
    path = tmp_path / "mail.txt"
    path.write_bytes(text([OLDER[0][1], "and later, on another machine:", *(line for _, line in OOPS)]))
    found = identify(path)
    assert (found.release, found.banner) == (KERNEL, None)


def test_build_id_of_the_line_above_the_stack(tmp_path: Path) -> None:
    build_id = "3b43fad5034874490492495d552c0af6a5fab235"
    path = tmp_path / "oops"
    line = "CPU: 3 PID: 77 Comm: a b Kdump: loaded Tainted: G        W  O       6.5.6-300.fc39.x86_64 #1 " + build_id
    path.write_bytes(text(["BUG: kernel NULL pointer dereference, address: 0000000000000008", line]))
    found = identify(path)
    assert (found.release, found.build_id, found.utsname_version) == ("6.5.6-300.fc39.x86_64", build_id, "#1")
    assert found.taint == ("kernel issued a warning", "externally built (out-of-tree) module was loaded")


def digits(data: bytes) -> str:
    """As drm_panic_qr.rs since 6.15."""
    width = {1: 3, 2: 5, 3: 8, 4: 10, 5: 13, 6: 15, 7: 17}
    pieces = [data[begin : begin + 7] for begin in range(0, len(data), 7)]
    return "".join(f"{int.from_bytes(piece, 'little'):0{width[len(piece)]}}" for piece in pieces)


def older_digits(data: bytes) -> str:
    """As drm_panic_qr.rs before: 4 digits for 13 bits. Its last digit overflows into the one before it."""
    bits = "".join(f"{byte:08b}" for byte in data)
    number = "0"
    for piece in (bits[begin : begin + 13] for begin in range(0, len(bits), 13)):
        width = 1 if len(piece) == 1 else (len(piece) + 1) // 3
        value = int(piece, 2)
        if value >= 10**width:
            number = f"{int(number) + value // 10**width:0{len(number)}}"
        number += f"{value % 10**width:0{width}}"
    return number[1:]


@pytest.mark.parametrize(("name", "encode"), [("z", digits), ("zl", older_digits)])
def test_panic_links(tmp_path: Path, name: str, encode: Callable[[bytes], str]) -> None:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 12, 4)
    packed = compressor.compress(text(plain(OOPS))) + compressor.flush()
    link = f"https://panic.example.org/panic_report#?a=x86_64&v={KERNEL}&{name}={encode(packed)}"
    path = tmp_path / "link.txt"
    path.write_text(f"I scanned this: {link}\nWhat is it?\n")
    found, lines = read(path)
    assert (found.release, found.arch, found.panic) == (KERNEL, "x86_64", PANIC)
    assert lines == [line for _, line in OOPS]
    path.write_text(link[: link.index("=", link.index(f"{name}=")) + 9])
    with pytest.raises(DumpDamaged, match="the link of the panic screen"):
        identify(path)


def test_digits_of_all_lengths() -> None:
    random.seed(1)
    for length in range(40):
        packed = zlib.compress(random.randbytes(length) + b"\n")
        for name, encode in (("z", digits), ("zl", older_digits)):
            found = panic_link.find(f"https://a.example/?a=aarch64&v=7.2.1&{name}={encode(packed)}".encode())
            assert found is not None
            assert (found.text, found.arch, found.release) == (zlib.decompress(packed), "aarch64", "7.2.1")


def pstore(directory: Path, log: list[Stamped], *, reason: str = "Panic#2", stamp: int = 1_764_232_000) -> None:
    """Parts as efi_pstore writes them: part 1 has the end."""
    directory.mkdir(exist_ok=True)
    lines = [f"<6>{line}" for line in plain(log)]
    parts = [lines[max(0, end - 12) : end] for end in range(len(lines), 0, -12)]
    for number, part in enumerate(parts, 1):
        ident = (stamp * 100 + number) * 1000 + int(reason.partition("#")[2])
        content = f"{reason} Part{number}\n".encode() + text(part)
        if number == 2:
            compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
            (directory / f"dmesg-efi_pstore-{ident}.enc.z").write_bytes(
                compressor.compress(content) + compressor.flush()
            )
        else:
            (directory / f"dmesg-efi_pstore-{ident}").write_bytes(content)


def test_pstore_parts_are_joined_in_their_order(tmp_path: Path) -> None:
    place = tmp_path / "pstore"
    pstore(place, OLDER[-60:], stamp=1_764_000_000)
    pstore(place, LOG[-60:])
    pstore(place, OLDER[-50:], reason="Oops#1", stamp=1_764_300_000)
    (place / "console-ramoops-0").write_bytes(text(plain(OLDER)))
    found, lines = read(place)
    assert (found.format, found.release, found.panic, found.complete) == ("log", KERNEL, PANIC, None)
    assert lines == [line for _, line in LOG[-60:]]
    part = next(path for path in place.iterdir() if "1764232" in path.name and b"Part3" in path.read_bytes()[:30])
    assert read(part)[1] == lines
    part.unlink()
    found, shorter = read(place)
    assert (found.complete, found.incomplete_reason) == (False, "pstore has no part 3 of this log")
    assert len(shorter) == 48


def test_pstore_in_an_archive(tmp_path: Path) -> None:
    place = tmp_path / "pstore"
    pstore(place, LOG[-60:])
    archive = tmp_path / "host.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, "pstore")
    found, lines = read(archive)
    assert (found.wrappers, found.release, found.complete) == (("gz", "tar"), KERNEL, None)
    assert lines == [line for _, line in LOG[-60:]]
    next(path for path in place.iterdir() if b"Part3" in path.read_bytes()[:30]).unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, "pstore")
    assert read(archive)[0].incomplete_reason == "pstore has no part 3 of this log"


def test_pstore_parts_of_ramoops_of_two_boots(tmp_path: Path) -> None:
    place = tmp_path / "pstore"
    place.mkdir()
    for number, log in enumerate((OLDER, LOG)):
        for half, lines in ((1, log[-30:]), (2, log[-60:-30])):
            name = f"dmesg-ramoops-{2 * number + half}"
            (place / name).write_bytes(f"Panic#1 Part{half}\n".encode() + text(plain(lines)))
    assert read(place)[1] == [line for _, line in LOG[-60:]]


def test_directories_of_abrt_and_apport(tmp_path: Path) -> None:
    abrt = tmp_path / "oops-2026-11-27-08:48:01-1234-0"
    abrt.mkdir()
    (abrt / "backtrace").write_bytes(text(plain(OOPS)))
    (abrt / "kernel").write_text(KERNEL)
    (abrt / "reason").write_text("general protection fault")
    assert read(abrt)[0].release == KERNEL
    assert read(abrt)[0].size == (abrt / "backtrace").stat().st_size
    (abrt / "backtrace").rename(abrt / "dmesg_log")
    assert read(abrt)[0].panic == PANIC
    apport = tmp_path / "unpacked"
    apport.mkdir()
    (apport / "ProblemType").write_text("KernelCrash")
    (apport / "VmCoreDmesg").write_bytes(text(plain(OOPS)))
    assert read(apport)[0].panic == PANIC
    report = tmp_path / "linux-image.crash"
    report.write_bytes(
        b"ProblemType: KernelOops\nArchitecture: amd64\nDate: Fri Nov 27 08:48:00 2026\nOopsText:\n"
        + b"".join(b" %s\n" % line for line in text(plain(OOPS)).splitlines())
        + b"Uname: Linux 6.8.0-31-generic x86_64\n"
    )
    found, lines = read(report)
    assert (found.release, found.arch) == (KERNEL, "x86_64")
    assert lines == [line for _, line in OOPS]
    report.write_bytes(b"ProblemType: Crash\nArchitecture: amd64\nCoreDump: base64\n H4sIAAAA\n" + b" AAAA\n" * 99)
    with pytest.raises(NotADump, match="apport report"):
        identify(report)


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_long_texts_are_read_around_their_last_panic(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    noise = text([f"[{100 + number / 1000:12.6f}] eth0: link is up, and down again" for number in range(180_000)])
    path.write_bytes(text(plain(LOG[:300])) + noise + text(plain([(400 + s, line) for s, line in OOPS])) + noise)
    began = time.process_time()
    found = identify(path)
    assert time.process_time() - began < 1
    assert path.stat().st_size > 12 << 20
    assert (found.release, found.panic) == (KERNEL, PANIC)
    assert found.utsname_version == f"#1 SMP PREEMPT_DYNAMIC {VERSION} (2026-09-10)"


def test_other_texts_are_no_logs(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    for content in (
        b"{}",
        b'{"dmesg": 1}',
        b"[1, 2]",
        b"> quoted\n" * 50,
        b"https://a.example/?z=1\n",
        b"a,b,c\n1,2,3;4\n",
    ):
        path.write_bytes(content)
        with pytest.raises(NotADump, match="no kernel log"):
            identify(path)


def test_pages_and_scripts_that_quote_a_log_are_none(tmp_path: Path) -> None:
    path = tmp_path / "report"
    for head, kind in ((b"<!DOCTYPE html>\n<pre>", "an HTML page"), (b"#!/bin/sh\ncat <<E\n", "a script")):
        path.write_bytes(head + text(plain(OOPS)))
        with pytest.raises(NotADump, match=kind):
            identify(path)
    path.write_bytes(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + text(plain(OOPS)))
    assert identify(path).release == KERNEL


XEN = (b"(XEN) Xen version 4.17.3 (Debian) debug=n", b"(XEN) [2026-11-27 08:48:01] CPU:    2")


def test_lines_of_the_xen_hypervisor_are_not_the_kernels(tmp_path: Path) -> None:
    path = tmp_path / "console"
    lines = text(plain(OOPS)).splitlines()
    path.write_bytes(b"\r\n".join([*XEN, *lines[:3], XEN[1], *lines[3:], b"(XEN) Hardware Dom0 crashed", b""]))
    found, records = read(path)
    assert (found.release, found.panic) == (KERNEL, PANIC)
    assert records == [line for _, line in OOPS]
    path.write_bytes(b"\r\n".join([*XEN, b"(XEN)    [<ffff82d04021b5c6>] R vmx_fn+0x16/0x1f0a", b""]))
    with pytest.raises(NotADump, match="a log of the Xen hypervisor"):
        identify(path)


HOSTILE = [
    b"[" * 100_000,
    b">" * 100_000,
    b"{" * 200_000,
    b'{"dmesg":[' + b'{"time":' * 20_000,
    b'{"msg":"' + b"\\" * 100_000,
    b"1,2,3,-" + b",a=b" * 20_000 + b";x",
    b"6,1,1,-,ncfrag=0/999999;x\n" * 20_000,
    b"Linux version 6.1 (a) #1\n" * 20_000,
    b"[ 9999999999.000000] a\n[    0.000000] Linux version 6.1 (b)\n" * 10_000,
    b"CPU: 1 PID: 1 Comm: " + b"Tainted: " * 20_000,
    b"CPU: 1 PID: 1 Comm: x " + (b"Tainted: " + b"W" * 60 + b" ") * 2_000,
    b"\x1b[" * 50_000 + b"\n[    0.000000] a\n[    0.000000] b\n",
    b"\x1b]" * 50_000,
    b"a " * 100_000 + b"kernel: ",
    b"1:" * 100_000,
    b"2026-11-27 08:48:01" * 5_000,
    b"https://a/?" + b"a=b&" * 50_000 + b"z=1",
    b"https://a/?z=" + b"9" * 19_000,
    b"Content-Transfer-Encoding: base64\n" * 3_000,
    b"\0\xd8" * 50_000,
    b"ProblemType: Crash\n" + b"A: \n b\n" * 20_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.usefixtures("patient")
def test_hostile_texts_end_in_time(tmp_path: Path, number: int) -> None:
    path = tmp_path / "log"
    began = time.process_time()
    for before in (b"[    0.000000] first\n[    0.100000] Kernel panic - not syncing: x\n", b""):
        path.write_bytes(before + HOSTILE[number])
        with contextlib.suppress(NotADump, DumpDamaged):
            identify(path)
    assert time.process_time() - began < 2


@pytest.mark.slow
def test_time_is_asked_for_all_forms() -> None:
    """Each form gives up when the time is over."""
    for form in FORMS.values():
        with pytest.raises(DeadlineExceeded):
            log_forms.read(form(LOG), Budget(-1).ask)


@pytest.mark.slow
def test_cut_logs_never_fail(tmp_path: Path) -> None:
    random.seed(2)
    path = tmp_path / "log"
    for form in FORMS.values():
        whole = form(LOG)
        for _ in range(4):
            path.write_bytes(whole[random.randrange(len(whole)) :][: random.randrange(1, 9000)])
            try:
                list(read_log(path))
                identify(path)
            except (NotADump, DumpDamaged):
                continue


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n", b"\r", b"\r\r"])
def test_ends_of_lines(end: bytes) -> None:
    assert [one.text for one in log_forms.read(b"one" + end + b"two\n").records] == [b"one", b"two"]


PROGRAM = {
    "dmesg -r": ("<6>", "<12>"),
    "dmesg -x": ("kern  :info  : ", "user  :warn  : "),
    "kmsg": ("6,{0},{0}000000,-;", "12,{0},{0}000000,-;"),
}


@pytest.mark.parametrize("form", PROGRAM)
def test_a_programs_line_is_told_from_the_kernels_where_the_log_has_facilities(form: str) -> None:
    kernel, program = PROGRAM[form]
    said = ["Linux version 6.1.0 (x@y)", "Kernel panic - not syncing: hung_task: blocked tasks", "Kernel panic - no"]
    stamp = "" if form == "kmsg" else "[    {0}.000000] "
    lines = [((program if number == 2 else kernel) + stamp).format(number) + line for number, line in enumerate(said)]
    found = log_forms.read(text(lines)).records
    assert [record.from_program for record in found] == [False, False, True]
    assert panic.examine(found).panic == said[1]


def test_a_facility_that_all_lines_have_is_that_of_a_receiver() -> None:
    lines = [f"<14>[    {number}.000000] Kernel panic - not syncing: {number}" for number in range(4)]
    assert not any(record.from_program for record in log_forms.read(text(lines)).records)
