"""`vmbox decode` on genuine logs, against addr2line on the same vmlinux."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from engines import EngineUnderTest


def _addr2line(engine: EngineUnderTest, dump: Path, symbols: list[dict[str, Any]]) -> list[list[str]]:
    """File and line of each symbol's address, inlined ones first, by the binutils of the dump's own case."""
    engine.run("run", str(dump), "--", "p 1")
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
    expected = _addr2line(engine, own_dump, symbols)
    for symbol, places in zip(symbols, expected, strict=True):
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
