"""The reader of kallsyms in memory: each layout that kernels before 6.0 have, and damaged ones."""

import contextlib
import struct
import time

import kallsyms
import pytest
from hypothesis import given, settings, strategies as st

BASE = 0xFFFFFFFF81000000
TOKENS = [bytes([number]) for number in range(256)]
TOKENS[0], TOKENS[1], TOKENS[2] = b"Tsys_", b"t_", b"\x80"
TOKENS[0x41], TOKENS[0x80] = b"fault", b"A"  # the places of letters that are not used have tokens


def symbols(count=700):
    found = [(0, "A", "fixed_percpu_data"), (0x1F000, "D", "current_task"), (BASE, "T", "_stext")]
    return found + [(BASE + 16 * n, "Tt"[n % 2], f"sys_read_{n}" if n % 3 else "page_fault") for n in range(1, count)]


def image(names, *, form="absolute-percpu", width=4, before=4096):
    """A kernel's read-only data as scripts/kallsyms.c lays it out."""
    memory = bytearray(b"\xcc" * before)

    def put(data):
        memory.extend(bytes(-len(memory) % 8) + data)

    relative = BASE
    if form == "absolute":
        put(b"".join(struct.pack("<Q", address) for address, _, _ in names))
    else:
        offsets = [
            address if address < BASE and form == "absolute-percpu" else (relative - 1 - address)
            for address, _, _ in names
        ]
        if form == "relative":
            offsets = [(address - relative) & 0xFFFFFFFF for address, _, _ in names]
        put(b"".join(struct.pack("<I", offset & 0xFFFFFFFF) for offset in offsets))
        put(struct.pack("<Q", relative))
    put(struct.pack("<I", len(names)))
    packed, marks = b"", []
    for number, (_, letter, name) in enumerate(names):
        if number % 256 == 0:
            marks.append(len(packed))
        word = f"{letter}{name}".encode().replace(b"Tsys_", b"\0").replace(b"fault", b"\x41")
        word = word if letter != "A" else b"\x80" + word[1:]
        packed += bytes([len(word)]) + word
    put(packed)
    put(b"".join(mark.to_bytes(width, "little") for mark in marks))
    table, index = b"", []
    for token in TOKENS:
        index.append(len(table))
        table += token + b"\0"
    put(table)
    put(struct.pack("<256H", *index))
    put(b"\xcc" * 64)
    return memory


# Token 0 of a real table is never empty, and a zero byte is none: those of the test must not be either.
TOKENS[0xCC] = b"~"


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("form", ["absolute-percpu", "absolute", "relative"])
def test_each_layout_is_found_and_read(form: str, width: int) -> None:
    wanted = symbols() if form != "relative" else symbols()[2:]
    assert kallsyms.find(image(wanted, form=form, width=width), BASE) == wanted


def test_digits_elsewhere_are_passed_over() -> None:
    decoy = b"".join(b"%d\0" % digit for digit in range(10)) + bytes(range(1, 200)) * 52
    assert len(kallsyms.find(bytearray(decoy) + image(symbols()), BASE)) == len(symbols())


def test_no_addresses_are_better_than_false_ones() -> None:
    with pytest.raises(kallsyms.KallsymsError, match="_stext is not where"):
        kallsyms.find(image(symbols()), BASE + 0x1000)
    with pytest.raises(kallsyms.KallsymsError, match="no _stext"):
        kallsyms.find(image([one for one in symbols() if one[2] != "_stext"]), BASE)
    with pytest.raises(kallsyms.KallsymsError, match="no token table"):
        kallsyms.find(bytearray(1 << 16), BASE)


def test_a_page_that_is_missing_is_noticed() -> None:
    memory = image(symbols(3000))
    for page in range(4096, len(memory) - 4096, 4096):
        damaged = bytearray(memory)
        damaged[page : page + 4096] = bytes(4096)
        try:
            found = kallsyms.find(damaged, BASE)
        except kallsyms.KallsymsError:
            continue
        # Only addresses are not checked one by one.
        assert [name for _, _, name in found] == [name for _, _, name in symbols(3000)]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_kallsyms_gives_an_answer_or_an_error_soon(data) -> None:
    memory = image(symbols(600), before=64)
    for _ in range(data.draw(st.integers(1, 8))):
        memory[data.draw(st.integers(0, len(memory) - 1))] = data.draw(st.integers(0, 255))
    began = time.process_time()
    with contextlib.suppress(kallsyms.KallsymsError):
        kallsyms.find(memory[: data.draw(st.integers(len(memory) // 2, len(memory)))], BASE)
    assert time.process_time() - began < 2


def test_names_without_measure_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = symbols()
    monkeypatch.setattr(kallsyms, "MOST_BYTES", sum(len(name) + 2 for _address, _letter, name in names))
    made = image(names)
    assert kallsyms.find(made, BASE) == names
    monkeypatch.setattr(kallsyms, "MOST_BYTES", 1000)
    with pytest.raises(kallsyms.KallsymsError):
        kallsyms.find(made, BASE)


def test_names_that_run_over_the_end_of_the_memory_are_refused() -> None:
    made = image(symbols())
    first = made.index(b"\x80fixed_percpu_data") - 1
    made[first : first + 600] = b"\xff" * 600
    with pytest.raises(kallsyms.KallsymsError):
        kallsyms.find(made, BASE)


def _parts(names: bytes, tokens: list[bytes], count: int, *, wide: bool = False) -> dict[str, object]:
    starts = [sum(len(token) + 1 for token in tokens[:number]) for number in range(256)]
    table = b"".join(token + b"\0" for token in tokens)
    return {"names": names, "table": table, "index": struct.pack("<256H", *starts), "count": count, "wide": wide}


ORDINARY = [bytes([letter or 1]) for letter in range(256)]


def test_tables_of_a_kernels_size_are_left_to_drgn() -> None:
    names = b"\x05T_one\x06t_long" * 100
    kallsyms.check(**_parts(names, ORDINARY, 200))
    # 200 is C8 01 where a length may have two bytes.
    kallsyms.check(**_parts(b"\xc8\x01" + b"x" * 200 + names, ORDINARY, 201, wide=True))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"count": 10**7}, "10000000 names"),
        ({"count": 201}, "end behind its token table"),
        ({"names": b"\xff" * 1300, "wide": True}, "end behind its token table"),
        ({"names": b"\xff" * 4, "count": 1}, "end behind its token table"),
        ({"table": b"a" * 60000}, "tokens has no end"),
        ({"index": b"\xff" * 512}, "tokens has no end"),
        (
            {"names": b"\xff" * (300 << 10), "count": 1200, "table": (b"a" * 1000 + b"\0") * 2, "index": bytes(512)},
            "1000 bytes",
        ),
    ],
    ids=["count", "cut", "two bytes", "one", "table", "index", "long tokens"],
)
def test_tables_that_would_take_drgn_long_are_refused(changed: dict[str, object], why: str) -> None:
    parts = _parts(b"\x05T_one\x06t_long" * 100, ORDINARY, 200) | changed
    began = time.process_time()
    with pytest.raises(kallsyms.KallsymsError, match=why):
        kallsyms.check(**parts)
    assert time.process_time() - began < 1
