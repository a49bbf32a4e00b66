# Runs in drgn, in a case: file, line and inlined functions of a place in the kernel's code. Its argument is a request
# in JSON, and so is its answer; both are described in sandbox/report/source_at.py.
import json
import re
import sys
from pathlib import Path

import drgn

MODULES = Path("/case/debuginfo/modules")
MOST = 16


def places(place):
    """(address, symbol) of `0x…`, or of each symbol of a name with its offset."""
    if re.fullmatch(r"(0x)?[0-9a-f]{8,16}", place):
        return [(int(place, 16), None)]
    name, _, offset = place.partition("+")
    return [(one.address + int(offset or "0", 16), one) for one in prog.symbols(name)][:MOST]  # noqa: F821 - drgn sets it


def module_at(address):
    try:
        return prog.module(address)  # noqa: F821
    except LookupError:
        return None


def load(module):
    """A debug file that was fetched beside vmlinux; drgn takes it only if its build-id is the module's."""
    for path in MODULES.iterdir() if MODULES.is_dir() else ():
        if re.sub(r"\.ko(\.debug)?$", "", path.name).replace("-", "_") == module.name:
            module.try_file(path)


def described(address, symbol, returns):
    # Behind a function that does not return there is only the address that its call would return to.
    returns = returns or (symbol is not None and 0 < symbol.size == address - symbol.address)
    # The call, and not the instruction behind it.
    at = address - 1 if returns else address
    answer = {"address": address, "symbol": None, "offset": 0, "size": 0, "module": None, "lines": [], "why": ""}
    answer["call"] = returns
    module = module_at(at)
    if module is not None and isinstance(module, drgn.RelocatableModule):
        if module.wants_debug_file():
            load(module)
        answer["module"] = module.name
        answer["lacks"] = module.wants_debug_file()
    try:
        symbol = symbol or prog.symbol(at)  # noqa: F821
        answer |= {"symbol": symbol.name, "offset": address - symbol.address, "size": symbol.size}
    except LookupError:
        pass
    try:
        for one in prog.source_location(at):  # noqa: F821
            line = {"function": one.name() or "", "file": one.filename, "line": one.line, "column": one.column}
            answer["lines"].append(line)
    except LookupError as error:
        answer["why"] = str(error)[:300]
    return answer


def main(request):
    try:
        found = places(request["place"])
    except (LookupError, ValueError) as error:
        print(json.dumps({"places": [], "error": str(error)[:300]}))
        return
    print(json.dumps({"places": [described(*one, request["returns"]) for one in found], "error": ""}))


main(json.loads(sys.argv[1]))
