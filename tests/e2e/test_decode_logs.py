"""`vmbox decode` on genuine logs, against addr2line on the same vmlinux."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engines import EngineUnderTest
from sandbox import profiles
from sandbox.case.package_query import ContainerPackageQuery
from sandbox.explain import source_package


def _addr2line(engine: EngineUnderTest, dump: Path, symbols: list[dict[str, Any]]) -> list[list[str]]:
    """File and line of each symbol's address, inlined ones first, by the binutils of the dump's own case."""
    engine.run("run", str(dump), "--with", "drgn", "--", "p jiffies")
    (case,) = (one for one in json.loads(engine.run("list", "--json").stdout) if one["dump"] == str(dump))
    names = "|".join(sorted({re.escape(symbol["name"]) for symbol in symbols}))
    script = f"""
        nm /case/debuginfo/vmlinux | grep -E ' [tTwW] ({names})$'
        echo
        addr2line -a -i -e /case/debuginfo/vmlinux
    """
    places: dict[str, int] = {}
    with engine.engine.exec(case["container"], ["sh", "-c", script], stdin=True) as process:
        said = b""
        while b"\n\n" not in said:
            said += process.read()
        for line in said.decode().split("\n\n")[0].splitlines():
            address, _, name = line.split()
            places[name] = int(address, 16)
        for symbol in symbols:
            # The call, and not the instruction that it returns to.
            back = 0 if symbol["exact"] or not symbol["offset"] else 1
            process.write(f"{places[symbol['name']] + symbol['offset'] - back:x}\n".encode())
        process.close_stdin()
        said = said.partition(b"\n\n")[2]
        while piece := process.read():
            said += piece
    found = [block.splitlines()[1:] for block in re.split(r"(?m)^(?=0x)", said.decode()) if block.strip()]
    return [[re.sub(r" \(discriminator \d+\)", "", line) for line in block] for block in found]


def test_lines_are_those_of_addr2line(vmbox, engine: EngineUnderTest, own_dump: Path) -> None:
    log = engine.directory() / "oops.txt"
    lines = vmbox("dmesg", own_dump).stdout.splitlines()
    begin = next(at for at, line in enumerate(lines) if b"Kernel panic" in line)
    # As it is quoted in a mail: without the banner, the line above the stack names the kernel.
    log.write_bytes(b"".join(b"> " + line + b"\n" for line in lines[begin:]))
    decoded = json.loads(vmbox("decode", log, "--json").stdout)
    symbols = [symbol for line in decoded["lines"] for symbol in line["symbols"]]
    assert len(symbols) >= 10
    assert all(symbol["agrees"] and symbol["lines"] for symbol in symbols), symbols
    assert re.fullmatch(r"release, and what the log has of the version; size of (\d+) of \1 symbols", decoded["proof"])
    # Once: on each engine the same drgn reads the same vmlinux, and addr2line takes long.
    expected = _addr2line(engine, own_dump, symbols) if engine.name == "docker" else []
    for symbol, places in zip(symbols, expected, strict=engine.name == "docker"):
        mine = [f"{line['file'].removeprefix('./')}:{line['line']}" for line in symbol["lines"]]
        # addr2line does not leave out the directory that the kernel was built in.
        assert len(mine) == len(places)
        assert all(place.endswith(f"/{one}") or place == one for one, place in zip(mine, places, strict=True)), symbol
    (handler,) = (symbol for symbol in symbols if symbol["name"] == "sysrq_handle_crash")
    assert handler["lines"][-1]["file"].endswith("drivers/tty/sysrq.c")
    # The program's bytes at its system call, which had been made: the marked instruction is the next.
    (code,) = decoded["code"]
    assert code["user"] is True
    assert [text for offset, text in code["instructions"] if offset == -2] == ["syscall"]

    piped = vmbox("decode", "-", input=log.read_bytes().decode().encode("utf-16"), stdin=None)
    assert re.search(rb"sysrq_handle_crash\+0x[0-9a-f]+/0x[0-9a-f]+ \(drivers/tty/sysrq\.c:\d+\)\n", piped.stdout)
    assert b"<-- trapping instruction" in piped.stdout
    assert b" symbols, by " in piped.stderr

    other = re.sub(rb"(\+0x[0-9a-f]+/0x)", rb"\g<1>1", log.read_bytes())
    refused = vmbox("decode", "-", input=other, stdin=None, status=41)
    assert b"0 of " in refused.stderr


def _in_case(engine: EngineUnderTest, dump: Path, command: str, given: bytes) -> bytes:
    (case,) = (one for one in json.loads(engine.run("list", "--json").stdout) if one["dump"] == str(dump))
    with engine.engine.exec(case["container"], ["sh", "-c", command], stdin=True) as process:
        process.write(given)
        process.close_stdin()
        said = b"".join(iter(process.read, b""))
        assert process.exit_code() == 0, said
    return said


@pytest.mark.on_demand("FIDELITY")
def test_lines_are_those_of_the_kernels_own_script(docker_engine: EngineUnderTest, dumps, tmp_path: Path) -> None:
    """scripts/decode_stacktrace.sh of Debian's linux-source, with the binutils of the case."""
    dump: Path = dumps()
    home = profiles.by_name("debian-12")
    (package,) = ContainerPackageQuery(home, docker_engine.engine)(["linux-source-6.1"], home.image.sources)
    deb = tmp_path / "linux-source.deb"
    subprocess.run(["curl", "--silent", "--fail", "--location", "--output", deb, package.url], check=True)
    _, script = source_package.read(deb, ("scripts", "decode_stacktrace.sh"))
    trace = docker_engine.run("dmesg", str(dump)).stdout.decode().partition("Call Trace:")[2]
    symbols = dict.fromkeys(re.findall(r"[\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+", trace))
    assert len(symbols) >= 10
    # As addresses of instructions: of those that calls return to, the script of 6.1 gives the line behind the call.
    known = json.loads(docker_engine.run("info", str(dump), "--json").stdout)
    build = f"{known['release']} #1 {known['utsname_version'].partition(' (')[0].partition('_DYNAMIC ')[2]}"
    lines = [f"CPU: 0 PID: 1 Comm: init Not tainted {build}", *(f"RIP: 0010:{one}" for one in symbols)]
    log = tmp_path / "log"
    log.write_text("".join(f"[    1.000000] {line}\n" for line in lines))
    decoded = json.loads(docker_engine.run("decode", str(log), "--json").stdout)
    docker_engine.run("run", str(dump), "--", "p 1")
    said = _in_case(
        docker_engine,
        dump,
        "cat > /tmp/given && "
        "sed '/^=====$/,$d' /tmp/given > /tmp/script && sed '1,/^=====$/d' /tmp/given > /tmp/log && "
        "bash /tmp/script /case/debuginfo/vmlinux auto /case/debuginfo/modules < /tmp/log",
        f"{script}\n=====\n".encode() + log.read_bytes(),
    ).decode()
    docker_engine.run("close", str(dump))
    theirs = {
        name: re.sub(r" \(discriminator \d+\)", "", places).split()
        for name, places in re.findall(r"RIP: 0010:(\S+) \((.*)\)", said)
    }
    mine = {
        one["name"]: [f"{line['file'].removeprefix('./')}:{line['line']}" for line in one["lines"]]
        for line in decoded["lines"]
        for one in line["symbols"]
    }
    assert theirs.keys() == mine.keys()
    assert {name: [place.removeprefix("./") for place in places] for name, places in theirs.items()} == mine
