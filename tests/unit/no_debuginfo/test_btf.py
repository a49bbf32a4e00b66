"""The reader of BTF: every kind, the parts of a module, and damaged ones."""

import struct
import time

import btf
import pytest
from btf_writer import Writer
from hypothesis import given, settings, strategies as st


def kernel():
    w = Writer()
    ids = {"int": w.add(btf.INT, "int", 4, struct.pack("<I", 1 << 24 | 32))}
    ids["bool"] = w.add(btf.INT, "_Bool", 1, struct.pack("<I", 4 << 24 | 8))
    ids["old bits"] = w.add(btf.INT, "int", 4, struct.pack("<I", 2 << 16 | 3))
    ids["pointer"] = w.add(btf.PTR, size=ids["int"])
    ids["array"] = w.add(btf.ARRAY, rest=struct.pack("<III", ids["int"], ids["int"], 7))
    ids["pair"] = w.struct("pair", 8, ("first", ids["int"], 0, 0), ("second", ids["int"], 32, 0))
    ids["flags"] = w.struct("flags", 4, ("low", ids["int"], 0, 5), ("high", ids["int"], 5, 27), flag=True)
    ids["old"] = w.struct("old", 4, ("bits", ids["old bits"], 8, 0))
    ids["either"] = w.struct("either", 8, ("pair", ids["pair"], 0, 0), kind=btf.UNION)
    ids["states"] = w.add(
        btf.ENUM, "states", 4, struct.pack("<IiIi", w.string("S_A"), -1, w.string("S_B"), 3), vlen=2, flag=True
    )
    wide = struct.pack("<III", w.string("W_TOP"), 0, 1 << 31)
    ids["wide"] = w.add(btf.ENUM64, "wide", 8, wide, vlen=1)
    ids["forward"] = w.add(btf.FWD, "pair_of_others", flag=True)
    ids["typedef"] = w.add(btf.TYPEDEF, "pair_t", ids["pair"])
    ids["tag"] = w.add(btf.TYPE_TAG, "user", ids["int"])
    parameters = struct.pack("<IIII", w.string("format"), ids["pointer"], 0, 0)
    ids["proto"] = w.add(btf.FUNC_PROTO, "", ids["int"], parameters, vlen=2)
    ids["function"] = w.add(btf.FUNC, "print_it", ids["proto"], vlen=1)
    ids["variable"] = w.add(btf.VAR, "counter", ids["int"], struct.pack("<I", 1))
    w.add(btf.DATASEC, ".data..percpu", 4, struct.pack("<III", ids["variable"], 0, 4), vlen=1)
    w.add(btf.DECL_TAG, "bpf_kfunc", ids["function"], struct.pack("<i", -1))
    ids["float"] = w.add(btf.FLOAT, "double", 8)
    ids["nameless"] = w.struct("", 8, ("seq", ids["int"], 0, 0), ("rest", ids["int"], 32, 0))
    return w, ids


def test_every_kind_is_read() -> None:
    writer, ids = kernel()
    read = btf.Btf(writer.bytes())
    assert read.type(ids["int"]) == (btf.INT, "int", False, 0, 4)
    assert read.int_encoding(ids["bool"])[0] == 4
    assert read.array(ids["array"]) == (ids["int"], 7)
    assert read.members(ids["pair"]) == [("first", ids["int"], 0, 0), ("second", ids["int"], 32, 0)]
    assert read.members(ids["flags"]) == [("low", ids["int"], 0, 5), ("high", ids["int"], 5, 27)]
    assert read.members(ids["old"]) == [("bits", ids["old bits"], 10, 3)]
    assert read.enumerators(ids["states"]) == [("S_A", -1), ("S_B", 3)]
    assert read.enumerators(ids["wide"]) == [("W_TOP", 1 << 63)]
    assert read.type(ids["forward"])[:3] == (btf.FWD, "pair_of_others", True)
    assert read.parameters(ids["proto"]) == ([("format", ids["pointer"])], True)
    assert list(read.variables()) == [("counter", ids["int"])]
    assert read.type(ids["float"]) == (btf.FLOAT, "double", False, 0, 8)


def test_types_are_found_by_kind_and_name() -> None:
    writer, ids = kernel()
    read = btf.Btf(writer.bytes())
    assert read.find((btf.INT,), "int") == ids["int"]
    assert read.find((btf.STRUCT, btf.UNION), "either") == ids["either"]
    assert read.find((btf.UNION,), "pair") is None
    assert read.find((btf.STRUCT,), "pai") is None
    assert read.find((btf.STRUCT,), "first") is None  # the name of a member
    assert read.find((btf.FUNC,), "print_it") == ids["function"]
    assert read.find_enumerator("S_B") == ids["states"]
    assert read.find_enumerator("W_TOP") == ids["wide"]
    assert read.find_enumerator("first") is None
    assert read.find_nameless(["seq", "rest"]) == ids["nameless"]
    assert read.find_nameless(["rest", "seq"]) is None


def test_a_modules_types_go_on_from_the_kernels() -> None:
    base_writer, ids = kernel()
    base = btf.Btf(base_writer.bytes())
    writer = Writer(base_writer)
    own = writer.struct("driver", 16, ("pair", ids["pair"], 0, 0), ("own", ids["int"], 64, 0))
    again = writer.add(btf.TYPEDEF, "first", own)  # a name whose string is the kernel's
    module = btf.Btf(writer.bytes(), base)
    assert module.first_id == base.end_id == own
    assert module.type(own)[:2] == (btf.STRUCT, "driver")
    assert module.members(own)[0] == ("pair", ids["pair"], 0, 0)
    assert module.type(ids["pair"])[1] == "pair"
    assert module.find((btf.STRUCT,), "driver") == own
    assert module.find((btf.TYPEDEF,), "first") == again
    assert module.find((btf.STRUCT,), "pair") is None  # the base's own


def test_enums_that_do_not_mark_their_sign_are_signed() -> None:
    writer = Writer()
    values = struct.pack("<III", writer.string("NONE"), 0xFFFFFFFF, writer.string("ONE")) + struct.pack("<I", 1)
    old = writer.add(btf.ENUM, "old", 4, values, vlen=2)
    # Its values may have had more than the 32 bits that are kept of each.
    cut = writer.add(btf.ENUM, "cut", 8, values, vlen=2)
    read = btf.Btf(writer.bytes())
    assert read.enumerators(old) == [("NONE", -1), ("ONE", 1)]
    assert read.enumerators(cut) == []
    writer.add(btf.ENUM, "marked", 4, struct.pack("<Ii", writer.string("LESS"), -1), vlen=1, flag=True)
    assert btf.Btf(writer.bytes()).enumerators(old) == [("NONE", 0xFFFFFFFF), ("ONE", 1)]
    module = Writer(writer)
    own = module.add(btf.ENUM, "own", 4, values, vlen=2)
    assert btf.Btf(module.bytes(), btf.Btf(writer.bytes())).enumerators(own)[0] == ("NONE", 0xFFFFFFFF)


def test_what_is_no_btf_is_refused() -> None:
    whole = kernel()[0].bytes()
    for damaged in (b"", whole[:20], b"\x9f\xeb\x02" + whole[3:], whole[:-9], whole[:24]):
        with pytest.raises(btf.BtfError):
            btf.Btf(damaged)
    unknown = Writer()
    unknown.add(31, "later")
    with pytest.raises(btf.BtfError, match="unknown kind 31"):
        btf.Btf(unknown.bytes())
    with pytest.raises(btf.BtfError, match="no type 99"):
        btf.Btf(whole).type(99)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_btf_gives_an_answer_or_an_error_soon(data) -> None:
    whole = bytearray(kernel()[0].bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    began = time.process_time()
    try:
        read = btf.Btf(bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))
    except btf.BtfError:
        return
    for number in range(1, read.end_id):
        for ask in (read.type, read.members, read.enumerators, read.parameters, read.array, read.int_encoding):
            try:
                ask(number)
            except (btf.BtfError, struct.error):
                continue
    for find in (lambda: read.find((btf.STRUCT,), "pair"), lambda: read.find_enumerator("S_A")):
        try:
            find()
        except btf.BtfError:
            continue
    assert time.process_time() - began < 2


def test_types_that_have_no_end_are_refused() -> None:
    made = Writer()
    made.struct("itself", 8, ("inner", 1, 0, 0))
    made.struct("first", 8, ("inner", 3, 0, 0))
    made.add(8, "other_t", 4)  # typedef of the next
    made.struct("second", 8, ("inner", 2, 0, 0))
    made.struct("outside", 8, ("inner", 4, 32, 0))
    made.add(8, "loop_a", 7)
    made.add(8, "loop_b", 6)
    made.add(3, rest=struct.pack("<III", 5, 5, 1 << 30))
    made.struct("huge", 0xFFFFFFFF, ("inner", 5, 0, 0))
    read = btf.Btf(made.bytes())
    for number, why in ((1, "contains itself"), (2, "contains itself"), (4, "contains itself"), (5, "ends behind")):
        with pytest.raises(btf.BtfError, match=why):
            read.members(number)
    with pytest.raises(btf.BtfError, match="without end"):
        read.size(6)
    with pytest.raises(btf.BtfError, match="elements"):
        read.array(8)
    with pytest.raises(btf.BtfError, match="bytes"):
        read.members(9)


def test_members_that_all_lead_to_the_same_types_are_looked_at_once() -> None:
    made = Writer()
    many = 2000
    made.struct("outer", 8, *(("inner", 2, 0, 0) for _ in range(many)))
    made.struct("inner", 8, *(("leaf", 3 + number, 0, 0) for number in range(many)))
    for number in range(many):
        made.struct(f"leaf{number}", 8)
    read = btf.Btf(made.bytes())
    began = time.monotonic()
    assert len(read.members(1)) == many
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_megabyte_of_one_name_is_looked_through_soon() -> None:
    made = Writer()
    # Each word of each record is the offset of the name, so that it seems to be used everywhere.
    name = made.string("x")
    assert name == 1
    made.types = struct.pack("<III", 1, 4 << 24, 1)
    made.types += struct.pack("<6I", 1, (4 << 24) + 1, 1, 1, 1, 1) * (1 << 15) + struct.pack("<III", 1, 7 << 24, 1)
    read = btf.Btf(made.bytes())
    began = time.process_time()
    assert read.find((btf.TYPEDEF, btf.ENUM64), "x") is None
    assert read.find_enumerator("x") is None
    assert read.find_nameless(["x"]) is None
    assert time.process_time() - began < 2
