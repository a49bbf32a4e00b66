"""Reads the kernel log from the dump's memory. It has three formats, each described by VMCOREINFO.

* printk_ringbuffer, from 5.10: descriptors, infos and text in three rings (kernel/printk/printk_ringbuffer.h).
* printk_log, 3.5 to 5.9, called `log` before 3.11 and in RHEL 7: records one after the other (kernel/printk/printk.c).
* before 3.5: plain text in one ring of bytes, with `<level>` before each line (kernel/printk.c).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from sandbox.dump import vmcoreinfo
from sandbox.dump.address_translation import KernelMemory
from sandbox.dump.header import PageMissingError

_MOST_TEXT: Final = 16 << 20
"""Largest ring that is read. log_buf_len= allows 2 GiB, but real logs are far smaller."""

_MOST_RECORDS: Final = 1 << 20
_ASKED: Final = 1024
"""Records between two looks at the clock: not each is one, and their pages are kept."""
_MOST_MISSING: Final = 1 << 16

_STATE_BITS: Final = 2
"""Upper bits of a descriptor's state_var; the rest is its id."""

_COMMITTED: Final = 1
_FINALIZED: Final = 2

FACILITY: Final = re.compile(rb"([a-z0-9]{2,10}) *:[a-z]{3,6} *: ")
"""Facility and level of dmesg -x."""
_LEVEL: Final = re.compile(rb"^(?:<(\d{1,3})>|%b)" % FACILITY.pattern)
"""The level as the kernel stores it, or as dmesg -x prints it."""
_LEVELS: Final = 7
"""The highest level; a number above has a facility in it."""

_TIME: Final = re.compile(rb"^\[ *(\d+)\.(\d{6})\](?: ?\[ *[TC]\d+\])? ?")
"""With the caller after it if CONFIG_PRINTK_CALLER is set."""

_CALLER: Final = re.compile(rb"^\[ *[TC]\d+\] ?")


class LogMissingError(Exception):
    """The log's pages are not in the dump, or VMCOREINFO does not describe it. Caught inside this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One message of the kernel log."""

    nanoseconds: int | None
    """Time since boot; None if the kernel logged without times."""
    text: bytes
    """May have several lines and any bytes that a driver printed; control characters are not removed."""
    from_program: bool = False
    """Whether a program wrote it, by /dev/kmsg: it may read like anything, e.g. like a panic. A program cannot choose
    the kernel's facility, 0 (commit e11fea92e13f ("kmsg: export printk records to the /dev/kmsg interface"), v3.5).
    False, too, where the log does not have facilities."""

    def lines(self) -> list[bytes]:
        """The lines as dmesg prints them: the time before the first line, the others indented by its width."""
        first, *more = self.text.split(b"\n")
        if self.nanoseconds is None:
            return [first, *more]
        micros = self.nanoseconds // 1000
        prefix = b"[%5d.%06d] " % (micros // 1_000_000, micros % 1_000_000)
        return [prefix + first, *(b" " * len(prefix) + line for line in more)]


def records(kernel: KernelMemory, info: Mapping[str, str], ask: Callable[[], object]) -> Iterator[Record]:
    """The log, oldest message first. Raises `LogMissingError` before the first record if there is no log.

    Records whose pages are missing are left out. `ask` raises when the time is over.
    """
    try:
        if vmcoreinfo.symbol(info, "prb") is not None:
            yield from _ringbuffer(kernel, info, ask)
        elif vmcoreinfo.symbol(info, "log_first_idx") is not None:
            yield from _printk_log(kernel, info)
        elif vmcoreinfo.symbol(info, "log_end") is not None:
            yield from _bytes_ring(kernel, info)
        else:
            raise LogMissingError("VMCOREINFO does not say where the log is")
    except PageMissingError as error:
        raise LogMissingError("the log's pages are not in the dump") from error


def _ringbuffer(kernel: KernelMemory, info: Mapping[str, str], ask: Callable[[], object]) -> Iterator[Record]:
    def at(name: str) -> int:
        return _needed(vmcoreinfo.offset(info, name), name)

    ring = kernel.pointer(_needed(vmcoreinfo.symbol(info, "prb"), "prb"))
    descriptors = ring + at("printk_ringbuffer.desc_ring")
    texts = ring + at("printk_ringbuffer.text_data_ring")
    counter = at("atomic_long_t.counter")
    count_bits = kernel.integer(descriptors + at("prb_desc_ring.count_bits"), 4)
    size_bits = kernel.integer(texts + at("prb_data_ring.size_bits"), 4)
    if not 0 < count_bits <= 24 or not 0 < size_bits <= 31:
        raise LogMissingError("the log's ring buffer is damaged")
    count, size = 1 << count_bits, 1 << size_bits
    descs = kernel.pointer(descriptors + at("prb_desc_ring.descs"))
    infos = kernel.pointer(descriptors + at("prb_desc_ring.infos"))
    data = kernel.pointer(texts + at("prb_data_ring.data"))
    head = kernel.pointer(descriptors + at("prb_desc_ring.head_id") + counter)
    tail = kernel.pointer(descriptors + at("prb_desc_ring.tail_id") + counter)

    desc_size = _needed(vmcoreinfo.size(info, "prb_desc"), "prb_desc")
    info_size = _needed(vmcoreinfo.size(info, "printk_info"), "printk_info")
    state = at("prb_desc.state_var") + counter
    block, word, order = at("prb_desc.text_blk_lpos"), kernel.word, kernel.order
    begin_at, next_at = block + at("prb_data_blk_lpos.begin"), block + at("prb_data_blk_lpos.next")
    time_at, length_at = at("printk_info.ts_nsec"), at("printk_info.text_len")
    if max(desc_size, info_size) > 4096 or max(state, begin_at, next_at) + word > desc_size or time_at + 8 > info_size:
        raise LogMissingError("VMCOREINFO contradicts itself about the log")

    missing, found_any = 0, False
    id_bits = 8 * word - _STATE_BITS
    ids = (1 << id_bits) - 1
    for step in range(min(((head - tail) & ids) + 1, count, _MOST_RECORDS)):
        if not step % _ASKED:
            ask()
        number = (tail + step) & ids
        index = number % count
        try:
            desc = kernel.read(descs + index * desc_size, desc_size)
            found = int.from_bytes(desc[state : state + word], order)
            if found & ids != number or found >> id_bits not in {_COMMITTED, _FINALIZED}:
                continue
            begin = int.from_bytes(desc[begin_at : begin_at + word], order) % size
            end = int.from_bytes(desc[next_at : next_at + word], order) % size
            about = kernel.read(infos + index * info_size, info_size)
            length = int.from_bytes(about[length_at : length_at + 2], order)
            text = b""
            if begin != end and length:
                # A block that did not fit before the end of the ring starts at its beginning instead. Blocks without
                # data have begin == end, both odd. Each block starts with its descriptor's id, a long.
                begin = word if begin > end else begin + word
                text = kernel.read(data + begin, max(0, min(length, end - begin)))
        except PageMissingError:
            missing += 1
            if missing > _MOST_MISSING:
                break
            continue
        # struct printk_info: u16 text_len; u8 facility. VMCOREINFO has no place of the latter.
        facility = about[length_at + 2 : length_at + 3]
        found_any = True
        yield Record(
            nanoseconds=int.from_bytes(about[time_at : time_at + 8], order), text=text, from_program=any(facility)
        )
    if missing and not found_any:
        raise PageMissingError


def _printk_log(kernel: KernelMemory, info: Mapping[str, str]) -> Iterator[Record]:
    name = "printk_log" if vmcoreinfo.size(info, "printk_log") is not None else "log"
    header = _needed(vmcoreinfo.size(info, name), name)
    time_at, length_at, text_at = (
        _needed(vmcoreinfo.offset(info, f"{name}.{field}"), field) for field in ("ts_nsec", "len", "text_len")
    )
    if not 16 <= header <= 256 or max(time_at + 8, length_at + 2, text_at + 2) > header:
        raise LogMissingError("VMCOREINFO contradicts itself about the log")
    # struct printk_log: u16 dict_len; u8 facility. 3.5 has the level there (u16 level).
    dict_at = vmcoreinfo.offset(info, f"{name}.dict_len")
    facility_at = header if dict_at is None or info.get("OSRELEASE", "").startswith("3.5.") else dict_at + 2
    buffer, size = _log_buf(kernel, info)
    at = _variable(kernel, info, "log_first_idx", 4)
    end = _variable(kernel, info, "log_next_idx", 4)
    walked = 0
    # `walked` ends the walk of a corrupted ring that never meets `end`.
    while at != end and walked <= size and at + header <= size:
        try:
            record = kernel.read(buffer + at, header)
            length = int.from_bytes(record[length_at : length_at + 2], kernel.order)
            if length == 0:
                # The next record did not fit before the end of the ring.
                if at == 0:
                    return
                at = 0
                walked += header
                continue
            text_length = int.from_bytes(record[text_at : text_at + 2], kernel.order)
            text = kernel.read(buffer + at + header, min(text_length, max(0, length - header)))
        except PageMissingError:
            if walked:
                return
            raise
        yield Record(
            nanoseconds=int.from_bytes(record[time_at : time_at + 8], kernel.order),
            text=text,
            from_program=any(record[facility_at : facility_at + 1]),
        )
        at += length
        walked += length


def _bytes_ring(kernel: KernelMemory, info: Mapping[str, str]) -> Iterator[Record]:
    buffer, size = _log_buf(kernel, info)
    # log_end has 32 bits since 2.6.25. In 2.6.24, the first with VMCOREINFO, its upper half is 0 up to 4 GiB of log.
    end = _variable(kernel, info, "log_end", 4)
    if end > size:
        start = end & (size - 1)
        text = kernel.read(buffer + start, size - start) + kernel.read(buffer, start)
    else:
        text = kernel.read(buffer, end)
    yield from from_text(text)


def from_text(text: bytes) -> Iterator[Record]:
    """Records of a ring of text, each line with its level and time. `sandbox.dump.log_forms` reads other texts."""
    for raw in BytesIO(text.strip(b"\0")):
        yield from_line(raw.rstrip(b"\r\n"))


def from_line(line: bytes) -> Record:
    """The record of a line as the kernel prints it to a console, or dmesg to a terminal."""
    level = _LEVEL.match(line)
    program = level is not None and is_of_program(int(level[1] or 0))
    line = line[level.end() :] if level else line
    found = _TIME.match(line)
    if found is None:
        return Record(nanoseconds=None, text=_CALLER.sub(b"", line, count=1), from_program=program)
    return Record(
        nanoseconds=int(found[1][:12]) * 1_000_000_000 + int(found[2]) * 1000,
        text=line[found.end() :],
        from_program=program,
    )


def is_of_program(level: int) -> bool:
    """Whether a message's level has in the bits above it another facility than the kernel's."""
    return level > _LEVELS


def stamped(line: bytes) -> bool:
    """Whether a line begins with the kernel's time, or with its level and time."""
    return _TIME.match(_LEVEL.sub(b"", line[:64], count=1)) is not None


def _log_buf(kernel: KernelMemory, info: Mapping[str, str]) -> tuple[int, int]:
    buffer = kernel.pointer(_needed(vmcoreinfo.symbol(info, "log_buf"), "log_buf"))
    size = _variable(kernel, info, "log_buf_len", 4)
    if not 0 < size <= _MOST_TEXT:
        raise LogMissingError("the log's size makes no sense")
    return buffer, size


def _variable(kernel: KernelMemory, info: Mapping[str, str], name: str, size: int) -> int:
    return kernel.integer(_needed(vmcoreinfo.symbol(info, name), name), size)


def _needed(value: int | None, name: str) -> int:
    if value is None or value < 0:
        raise LogMissingError(f"VMCOREINFO lacks {name}")
    return value
