"""Prints source lines of addresses and disassembles bytes, in a case that has debug files and no dump.

Its argument is a request in JSON, see sandbox/case/source_lines.py; so is what it prints.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import drgn

DIRECTORY = "/debuginfo"
CODE = Path("/tmp/code")
FAR = 1 << 40  # apart from each other; nothing is loaded there


def main() -> None:
    request = json.loads(sys.argv[1])
    flags = drgn.PlatformFlags.IS_LITTLE_ENDIAN if request["little"] else drgn.PlatformFlags(0)
    if request["wide"]:
        flags |= drgn.PlatformFlags.IS_64_BIT
    program = drgn.Program(drgn.Platform(drgn.Architecture[request["arch"]], flags))
    answer = {
        "files": [lines_of(program, number, file) for number, file in enumerate(request["files"], 1)],
        "code": [instructions(**code) for code in request["code"]],
    }
    json.dump(answer, sys.stdout)


def lines_of(program, number: int, file: dict) -> dict:
    base = FAR * number
    path = f"{DIRECTORY}/{file['path']}"
    try:
        if file["sections"] is None:
            module = program.extra_module(path, number, create=True)
        else:
            module = program.relocatable_module(path, base, create=True)
        # Older versions return the module alone.
        module = module[0] if isinstance(module, tuple) else module
        at = base
        places = {}
        for name, size in file["sections"] or ():
            places[name] = module.section_addresses[name] = at
            at += (size + 0xFFFF) & ~0xFFFF
        if file["sections"] is not None:
            module.address_range = (base, max(at, base + 1))
        else:
            module.address_range = (base, base + (FAR >> 1))
        module.try_file(path)
        if module.debug_file_path is None:
            return {"error": "drgn finds no debug information in it"}
        bias = 0 if file["sections"] is not None else module.debug_file_bias
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"lines": [frames(program, (places.get(name, bias) + value) % (1 << 64)) for name, value in file["places"]]}


def frames(program, address: int) -> list:
    """Innermost first: function, file, line, column."""
    try:
        found = program.source_location(address)
    except LookupError:
        return []
    return [[one.name() or "", one.filename, one.line, one.column] for one in found]


def instructions(machine: list, content: str, at: int) -> dict:
    """Disassemble so that an instruction begins at offset `at`; what is before it may begin inside of one."""
    code = bytes.fromhex(content)
    for skipped in range(min(16, at + 1)):
        CODE.write_bytes(code[skipped:])
        ran = subprocess.run(
            ["objdump", "-D", "-z", "-b", "binary", *machine, CODE], check=False, capture_output=True, text=True
        )
        if ran.returncode:
            return {"error": (ran.stderr.strip().splitlines() or ["objdump failed"])[-1][:300]}
        found = []
        for line in ran.stdout.splitlines():
            parts = re.match(r"\s*([0-9a-f]+):\t((?:[0-9a-f]{2,8} )+)\s*(?:\t(.*))?$", line)
            if parts and parts[3]:
                found.append([int(parts[1], 16) + skipped - at, parts[3].strip()])
        if any(offset == 0 for offset, _ in found):
            return {"instructions": found}
    return {"error": "no instruction begins at the marked byte"}


main()
