"""Coverage-guided fuzzing of the kernel's own tables in a dump with atheris (libFuzzer), by hand.

    pip install --group fuzz
    python tests/fuzz/kernel_tables.py btf|kallsyms|orc [CORPUS] [-max_total_time=600 and options of libFuzzer]

A case reads them where there is no debuginfo. `harness.py` says what a finding is.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris
import harness

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "unit" / "no_debuginfo"), str(TESTS.parent / "Containerfile.d" / "files")]

with atheris.instrument_imports(include=["btf", "kallsyms", "orc"]):
    import btf
    import kallsyms
    import orc
    import test_btf
    import test_kallsyms

MOST = 4096
"""Types of one input that are read whole; a debugger reads those that it is asked for."""


def read_btf(content: bytes) -> None:
    try:
        read = btf.Btf(content)
    except btf.BtfError as error:
        harness.check_line(str(error))
        return
    for number in range(1, min(read.end_id, MOST)):
        with contextlib.suppress(btf.BtfError):
            kind = read.type(number)[0]
            read.size(number)
            ask = {
                btf.INT: read.int_encoding,
                btf.ARRAY: read.array,
                btf.STRUCT: read.members,
                btf.UNION: read.members,
                btf.ENUM: read.enumerators,
                btf.ENUM64: read.enumerators,
                btf.FUNC_PROTO: read.parameters,
            }.get(kind)
            if ask is not None:
                ask(number)
    with contextlib.suppress(btf.BtfError):
        read.find((btf.STRUCT, btf.TYPEDEF), "task_struct")
        read.find_enumerator("PIDTYPE_PID")
        read.find_nameless(["lock"])
        list(read.variables())


def read_kallsyms(content: bytes) -> None:
    try:
        kallsyms.find(content, test_kallsyms.BASE)
    except kallsyms.KallsymsError as error:
        harness.check_line(str(error))


def read_orc(content: bytes) -> None:
    count = len(content) // (4 + orc.ENTRY)
    try:
        table = orc.Orc(content[: 4 * count], 1 << 63, content[4 * count : (4 + orc.ENTRY) * count])
    except orc.OrcError as error:
        harness.check_line(str(error))
        return
    for place in (1 << 63, (1 << 63) + 4096, (1 << 64) - 1):
        table.covers(place)
        table.ends(place)
        table.caller_sp(place, 1 << 63)


def btf_seeds() -> list[bytes]:
    return [test_btf.kernel()[0].bytes()]


def kallsyms_seeds() -> list[bytes]:
    forms = ("absolute-percpu", "absolute", "relative")
    return [bytes(test_kallsyms.image(test_kallsyms.symbols(), form=form)) for form in forms]


TARGETS = {
    "btf": (read_btf, btf_seeds),
    "kallsyms": (read_kallsyms, kallsyms_seeds),
    "orc": (read_orc, lambda: [bytes(10 * 64), b"\x08\0\0\0" * 64 + b"\x08\0\0\0\x05\x02" * 64]),
}

if __name__ == "__main__":
    harness.fuzz(TARGETS)
