"""Kernel logs as people send them: each form of text becomes the records that the kernel printed.

Forms: dmesg with -T, -x, -t, -d, -e, -r, --time-format and --json; journalctl's short forms and its JSON; files of
syslog; /dev/kmsg and netconsole, basic and extended (Documentation/networking/netconsole.rst), with the prefixes of
receivers; captures of serial consoles and BMCs; pstore's parts; quoted and encoded mail; UTF-16; apport's reports; the
link of drm_panic's QR code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sandbox.dump import magic, panic_link, printk
from sandbox.dump.printk import Record
from sandbox.errors import DumpDamaged

PEEK: Final = 64 << 10
"""Bytes of a text that tell whether it is a kernel log: mail has other text before it."""

_ASKED: Final = 1024
"""Lines between two looks at the clock."""

_BOUNDARY: Final = re.compile(rb"boundary[*\d ]*=", re.IGNORECASE)
_MOST_PARTED: Final = 16
"""Mails in parts that are in each other: each line is compared with the boundaries of all."""
_FED: Final = 8192
"""Bytes of mail between two looks at the clock."""

_LONGEST: Final = 2048
"""Bytes at the beginning of a line in which prefixes are looked for."""

_CLOCK: Final = rb"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_DATE: Final = re.compile(
    rb"(?:[A-Z][a-z]{2} )?(?:"
    rb"[A-Z][a-z]{2} [ \d]\d %(clock)b(?: [A-Z]{1,5})?(?: \d{4})?"
    rb"|\d{4}-\d\d-\d\d[T ]%(clock)b(?: ?(?:Z|[A-Z]{2,5}|[+-]\d\d:?\d\d)(?=[\s:\]]))?"
    rb"|\d{4}/\d\d/\d\d %(clock)b"
    rb"|\d{9,10}\.\d{3,9}(?= )"
    rb")" % {b"clock": _CLOCK}
)
_BRACKETED: Final = re.compile(rb"\[(?:[A-Z][a-z]{2}[ \d]\d \d\d:\d\d| *\+\d{1,9}\.\d{6}|%b)\]" % _DATE.pattern)
"""Dates of dmesg -T and -e, and of programs that capture consoles."""

_PREFIXED: Final = 4
"""Bytes of the shortest line that may have a prefix, but for a quote's or a priority's."""
_QUOTE: Final = re.compile(rb"(?:>[ \t]?){1,20}")
_PRI: Final = re.compile(rb"<\d{1,3}>(?:1 )?")
_KERNEL: Final = re.compile(rb"(?:[\w.:@%/-]{1,128} )?kernel(?:\[\d{1,7}\])?: ")
"""Host and tag of syslog and journalctl."""
_LOCAL_DATE: Final = re.compile(rb"[^\s\[<>]{2,24} {1,2}\d{1,2} %b (?=[\w.-]{1,128} kernel: )" % _CLOCK)
"""The date of journalctl, which has the names of months in the user's language."""
_TAGGED: Final = re.compile(
    rb"^(?:[A-Z\d<[]|%b)[^\n]{0,80}? kernel(?:\[\d{1,7}\])?: " % _LOCAL_DATE.pattern, re.MULTILINE
)
_OTHER_TAG: Final = re.compile(rb"[\w.:@%-]{1,128} [\w./@-]{1,64}(?:\[\d{1,7}\])?: ")
"""Host and tag of another program in the same file."""
_ADDRESS: Final = re.compile(
    rb"[\[(]?(?:\d{1,3}(?:\.\d{1,3}){3}|[\da-f]{0,4}(?::[\da-f]{0,4}){3,7})(?::\d{1,5})?[\])]?:? ?"
)
"""The sender, from a receiver of netconsole."""
_XEN: Final = b"(XEN) "
"""Before each line of the hypervisor, whose console dom0 prints to as well (xen/drivers/char/console.c)."""
_STAMP_AHEAD: Final = re.compile(rb".{1,120}?(?=(?:<\d{1,3}>)?\[ {0,6}\d{1,10}\.\d{6}\])")
"""Anything before the kernel's time: a receiver's prefix, grep's file name, half a line of another program."""
_AFTER_STAMP: Final = re.compile(rb"(\[ *\d+\.\d{6})(?: *< *\d+\.\d{6} *>)?\] (?:[\w.@%-]{1,64} kernel: )?")
"""The time of dmesg -d, or of journalctl -o short-monotonic."""
_EXTENDED: Final = re.compile(
    rb"(?:(?P<release>\d{1,3}\.\d[^\s,;]{0,62}),)?(?P<level>\d{1,3}),(?P<seq>\d{1,20}),(?P<usec>\d{1,20}),(?P<cont>[-c+])"
    rb"(?P<more>(?:,[\w-]{1,32}=[^,;\s]{1,64}){0,8});"
)
"""Head of a record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg)."""
_FRAGMENT: Final = re.compile(rb",ncfrag=(\d{1,6})/(\d{1,6})")
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")
_PART: Final = re.compile(rb"(?:[A-Z][a-z]{3,9})#\d{1,10} Part\d{1,4}")
"""The first line of each part of pstore (fs/pstore/platform.c:pstore_dump)."""
_TERMINAL: Final = re.compile(
    rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[()][A-Z0-9]|[=>78cDEHMNOZ])"
)
_ENCODED: Final = re.compile(rb"^content-transfer-encoding: *(?:quoted-printable|base64)", re.MULTILINE | re.IGNORECASE)


_EXPORTED: Final = re.compile(rb"^\s{0,16}_TRANSPORT=kernel$", re.MULTILINE)
"""A field of journalctl -o export and -o verbose."""
_FIELD: Final = re.compile(rb"\s{0,16}([A-Z_]{1,64})=(.*)")
_JSON: Final = re.compile(rb"\s{0,16}(?:\{|\[\s{0,16}[\[{\"])")
_SPACES: Final = 12
"""Between the letters of "Tainted:", more or less: they are broken as one word with what follows."""
_WRAPPED: Final = 80
"""Columns at which mail breaks lines, at most."""
_SIGNED: Final = b"-----BEGIN PGP SIGNED MESSAGE"
"""Mail, which other files of GPG are not."""

_KERNELS: Final = re.compile(
    rb"^Linux version \d|Kernel panic - not syncing|\bPID: \d+ Comm: |^Call [Tt]race:|^RIP: 0010:"
    rb"|[\w.]\+0x[0-9a-f]{1,6}/0x[0-9a-f]{1,6}(?: |$)|Unable to handle kernel |^BUG: unable to handle "
)
"""What only a kernel prints; for logs without times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogText:
    """The records of a text, and what it says of the kernel beside them."""

    records: list[Record]
    release: str | None = None
    arch: str | None = None


def read(text: bytes, ask: Callable[[], object] = lambda: None) -> LogText:
    """Records of a kernel log in any form. `ask` raises when the time is over. Raises `DumpDamaged` for a cut link."""
    text = decoded(text)
    if text.startswith(b"ProblemType:"):
        return _apport(text, ask)
    if (link := panic_link.find(text)) is not None:
        return LogText(records=_believed(_records(_plain(link.text, ask), ask)), release=link.release, arch=link.arch)
    if text.lstrip()[:1] in {b"{", b"["}:
        if (captured := _captured(text)) is not None:
            return read(captured, ask)
        if found := _from_json(text, ask):
            return LogText(records=_believed(found))
    if _EXPORTED.search(text[:65536]):
        return LogText(records=_believed(_exported(text, ask)))
    release = next((found["release"] for found in _EXTENDED.finditer(text[:65536]) if found["release"]), None)
    return LogText(
        records=_believed(_records(_plain(text, ask), ask)),
        release=None if release is None else release.decode("ascii", "replace"),
    )


def _believed(found: Iterable[Record]) -> list[Record]:
    """The records, none of a program where most seem to be: a receiver of logs gave all lines a facility of its own."""
    records = list(found)
    if 2 * sum(record.from_program for record in records) <= len(records):
        return records
    return [replace(record, from_program=False) for record in records]


def is_log(head: bytes, ask: Callable[[], object] = lambda: None) -> bool:
    """Whether a file that begins so is a kernel log, in any form. `head` has up to `PEEK` bytes."""
    text = decoded(head)
    if not magic.is_text(text[: magic.PEEK]):
        return False
    if text.startswith(b"ProblemType:"):
        return b"\nOopsText:" in text or b"\nVmCoreDmesg:" in text
    if magic.foreign(text) is not None and not text.startswith(_SIGNED):
        return False  # a page or a script that quotes a log
    try:
        found = read(head, ask)
    except DumpDamaged:
        return True  # a link that was cut: reading it says so
    if len(_TAGGED.findall(text)) >= 2 or sum(record.nanoseconds is not None for record in found.records) >= 2:
        return True
    return any(_KERNELS.search(record.text[:_LONGEST]) for record in found.records)


def is_of_xen(head: bytes) -> bool:
    """Whether lines of a text are those of the Xen hypervisor."""
    return re.search(rb"^(?:\[[^\]\n]{1,40}\] ?)?\(XEN\) ", decoded(head), re.MULTILINE) is not None


def decoded(text: bytes) -> bytes:
    """The text as UTF-8, without a byte-order mark: some terminals and Windows save UTF-16."""
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return text.decode("utf-16", "replace").encode("utf-8", "replace")
    text = _as_typed(text.removeprefix(b"\xef\xbb\xbf"))
    head = text[:1024]
    if len(head) >= 32:
        for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) * 10 >= len(zeros) * 9 and head.count(0) * 10 <= len(head) * 6:
                return text[: len(text) & ~1].decode(name, "replace").encode("utf-8", "replace")
    return text


def _as_typed(text: bytes) -> bytes:
    """Without what web pages make of a text that is copied from them: spaces that do not break, and another x in 0x12.

    A log that was copied out of JSON, or of a program's source, is one line.
    """
    if b"\xc2\xa0" in text:
        text = text.replace(b"\xc2\xa0", b" ")
    if b"0\xc3\x97" in text:
        text = re.sub(rb"(?<=\b0)\xc3\x97(?=[0-9a-f])", b"x", text)
    if text.count(b"\n", 0, PEEK) <= 1 and text.count(b"\\n", 0, PEEK) > 4 and not _JSON.match(text):
        text = re.sub(rb"(?:\\r)?\\n", b"\n", text).replace(rb"\t", b"\t").replace(rb"\"", b'"')
    return text


def _captured(text: bytes) -> bytes | None:
    """The console in the answer of a cloud (`aws ec2 get-console-output`); None for other JSON."""
    if b'"Output"' not in text[:4096] and b'"Output"' not in text[-4096:]:
        return None
    answer = _loaded(text)
    output = answer.get("Output") if isinstance(answer, Mapping) else None
    # The console of a console would be read without an end.
    return output.encode("utf-8", "replace") if isinstance(output, str) and output.lstrip()[:1] != "{" else None


def _plain(text: bytes, ask: Callable[[], object]) -> bytes:
    """Without what mail, serial lines and terminals add."""
    if _ENCODED.search(text[:65536]):
        text = _mail(text, ask)
    if b"\r" in text:
        # One pass: a pattern that needs the newline would be tried from each \r of a row that has none.
        text = re.sub(rb"\r++\n?", b"\n", text)
    return _TERMINAL.sub(b"", text) if b"\x1b" in text else text


def _mail(text: bytes, ask: Callable[[], object]) -> bytes:
    from email.message import Message
    from email.parser import BytesFeedParser

    if len(_BOUNDARY.findall(text)) > _MOST_PARTED:
        return text
    parser = BytesFeedParser()
    try:
        for at in range(0, len(text), _FED):
            ask()
            parser.feed(text[at : at + _FED])
        ask()
        parts = [part for part in parser.close().walk() if part.get_content_maintype() == "text"]
    except RecursionError:
        return text  # messages in messages without an end
    bodies = (body for part in parts if isinstance(body := Message.get_payload(part, decode=True), bytes))
    return b"\n".join(bodies) or text


def _records(text: bytes, ask: Callable[[], object]) -> Iterator[Record]:
    # In a file of syslog other programs write, too, and quote the kernel: only its own lines count there.
    tagged = _TAGGED.search(text) is not None
    fragments: dict[bytes, bytes] = {}
    for at, raw in enumerate(_unwrapped(text.strip(b"\0").removesuffix(b"\n").split(b"\n"))):
        if at % _ASKED == 0:
            ask()
        line: bytes | None = raw.strip(b"\0")
        # Half a million of the shortest lines fit into a megabyte.
        if line and (len(line) >= _PREFIXED or line.startswith((b">", b"<"))):
            line = _without_prefixes(line, tagged=tagged)
        if line is None or _PART.fullmatch(line):
            continue
        if (head := _EXTENDED.match(line)) is not None:
            yield from _extended(head, line[head.end() :], fragments)
        elif not (raw.startswith(b" ") and at and re.match(rb" [A-Z_]{3,32}=", raw)):
            record = printk.from_line(line)
            program = (facility := printk.FACILITY.match(raw)) is not None and facility[1] != b"kern"
            yield replace(record, from_program=True) if program else record


def _unwrapped(lines: list[bytes]) -> list[bytes]:
    """Lines that mail broke, whole again.

    Only where all lines of the log are as short as mail makes them, and a piece would not have fitted above.
    """
    bare = [line[quote.end() :] if (quote := _QUOTE.match(line)) else line for line in lines]
    begin = [at for at, line in enumerate(bare) if printk.stamped(line) or _DATE.match(line[:_LONGEST])]
    if len(begin) < 5:
        return lines
    width = max(len(line) for line in bare[begin[0] : begin[-1] + 1])
    if width > _WRAPPED:
        return lines
    begins = set(begin)
    found = list(lines[: begin[0]])
    for at in range(begin[0], len(lines)):
        line, above = bare[at], bare[at - 1]
        word = line.split(maxsplit=1)[:1]
        fits = not word or len(above) + _SPACES + len(word[0]) <= width
        if at in begins or fits:
            found.append(lines[at])
        else:
            found[-1] = found[-1].rstrip() + b" " + line.lstrip()
    return found


def _without_prefixes(line: bytes, *, tagged: bool) -> bytes | None:
    """The line as the kernel printed it; None for one of another program, or of a hypervisor."""
    head, rest = line[:_LONGEST], line[_LONGEST:]
    if (quote := _QUOTE.match(head)) is not None:
        head = head[quote.end() :]
    if (facility := printk.FACILITY.match(head)) is not None:
        head = head[facility.end() :]
    if (pri := _PRI.match(head)) and not printk.stamped(head):
        # syslog's priority; the kernel's level goes with the time.
        head = head[pri.end() :] if _DATE.match(head, pri.end()) or b" kernel: " in head[:160] else head
    dated = _BRACKETED.match(head) or _DATE.match(head) or _LOCAL_DATE.match(head)
    if dated is not None:
        head = re.sub(rb"^:? ?", b"", head[dated.end() :])
    if head.startswith(_XEN):
        return None
    if (kernel := _KERNEL.match(head)) is not None:
        return _stamp(head[kernel.end() :]) + rest
    if tagged and dated is not None and _OTHER_TAG.match(head):
        return None
    if printk.stamped(head):
        return _stamp(head) + rest
    if _EXTENDED.match(head):
        return head + rest
    if (address := _ADDRESS.match(head)) is not None:
        head = head[address.end() :]
    elif (ahead := _STAMP_AHEAD.match(head)) is not None:
        head = head[ahead.end() :]
    elif (extended := _EXTENDED.search(head, 0, 400)) is not None and b" " not in extended[0]:
        head = head[extended.start() :]
    return _stamp(head) + rest


def _stamp(head: bytes) -> bytes:
    found = _AFTER_STAMP.match(head)
    return head if found is None else found[1] + b"] " + head[found.end() :]


def _extended(head: re.Match[bytes], message: bytes, fragments: dict[bytes, bytes]) -> Iterator[Record]:
    """A record of /dev/kmsg or netconsole; pieces of a long one are joined when the last has come."""
    fragment = _FRAGMENT.search(head["more"])
    if fragment is not None:
        whole = fragments.pop(head["seq"], b"") + message
        if len(whole) < int(fragment[2]) and int(fragment[1]) < int(fragment[2]):
            # Few are open at a time; others lost their end on the network.
            if len(fragments) >= 16:
                fragments.pop(next(iter(fragments)))
            fragments[head["seq"]] = whole
            return
        message = whole
    text = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), message)
    yield Record(
        nanoseconds=int(head["usec"]) * 1000,
        text=text.split(b"\n ")[0],
        from_program=printk.is_of_program(int(head["level"])),
    )


def _from_json(text: bytes, ask: Callable[[], object]) -> list[Record]:
    """Records of `dmesg --json` (also of one that is cut off), or of `journalctl -o json`."""
    if b'"MESSAGE"' in text[:65536]:
        return list(_journal(text, ask))
    records = []
    for at, piece in enumerate(text.split(b"{")[1:]):
        if at % _ASKED == 0:
            ask()
        begin = piece.find(b'"msg"')
        if begin < 0:
            continue
        time = re.search(rb'"time":\s{0,20}"?\[?\s{0,20}(\d{1,10})\.(\d{6})', piece[:begin])
        quote = piece.find(b'"', begin + 5)
        end = re.compile(rb'(?:[^"\\]|\\.)*+"', re.DOTALL).match(piece, quote + 1) if quote >= 0 else None
        if end is not None:
            message = _loaded(piece[quote : end.end()])
            if isinstance(message, str):
                nanoseconds = int(time[1]) * 1_000_000_000 + int(time[2]) * 1000 if time else None
                records.append(Record(nanoseconds=nanoseconds, text=message.encode("utf-8", "replace")))
    return records


def _journal(text: bytes, ask: Callable[[], object]) -> Iterator[Record]:
    for at, line in enumerate(text.split(b"\n")):
        if at % _ASKED == 0:
            ask()
        entry = _loaded(line.strip().rstrip(b",").strip(b"[]")) if line.strip() else None
        if not isinstance(entry, Mapping) or "kernel" not in {entry.get("_TRANSPORT"), entry.get("SYSLOG_IDENTIFIER")}:
            continue
        message = entry.get("MESSAGE")
        if isinstance(message, list) and all(isinstance(one, int) and 0 <= one < 256 for one in message):
            message = bytes(message).decode("utf-8", "replace")
        time = entry.get("_SOURCE_MONOTONIC_TIMESTAMP")
        if isinstance(message, str):
            known = isinstance(time, str) and time.isascii() and time.isdigit() and len(time) <= 16
            yield Record(
                nanoseconds=int(str(time)) * 1000 if known else None,
                text=message.encode("utf-8", "replace"),
                from_program=entry.get("_TRANSPORT") == "kernel" and entry.get("SYSLOG_FACILITY", "0") != "0",
            )


def _exported(text: bytes, ask: Callable[[], object]) -> Iterator[Record]:
    """Records of journalctl -o export and -o verbose. A field of several lines, which has a length, is not read."""
    entry: dict[bytes, bytes] = {}
    for at, line in enumerate([*text.split(b"\n"), b""]):
        if at % _ASKED == 0:
            ask()
        field = _FIELD.fullmatch(line[: 64 << 10])
        if field is not None:
            entry[field[1]] = field[2]
            continue
        if entry.get(b"_TRANSPORT") == b"kernel" and b"MESSAGE" in entry:
            time = entry.get(b"_SOURCE_MONOTONIC_TIMESTAMP", b"")
            known = re.fullmatch(rb"\d{1,16}", time) is not None
            yield Record(
                nanoseconds=int(time) * 1000 if known else None,
                text=entry[b"MESSAGE"],
                from_program=entry.get(b"SYSLOG_FACILITY", b"0") != b"0",
            )
        entry = {}


def _loaded(text: bytes) -> Any:
    import json

    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _apport(text: bytes, ask: Callable[[], object]) -> LogText:
    """The log in a report of apport (problem_report.py): fields, whose further lines are indented by one space."""
    fields = {
        found[1]: found[2].replace(b"\n ", b"\n").strip()
        for found in re.finditer(rb"^([A-Z][\w.-]{0,63}): ?(.*(?:\n .*)*+)", text, re.MULTILINE)
    }
    log = next((fields[name] for name in (b"VmCoreDmesg", b"OopsText") if fields.get(name)), b"")
    uname = fields.get(b"Uname", b"").split()
    known = len(uname) > 1 and uname[0] == b"Linux"
    return LogText(
        records=list(_records(_plain(log, ask), ask)),
        release=uname[1].decode("ascii", "replace") if known else None,
        arch=uname[2].decode("ascii", "replace") if known and len(uname) > 2 else None,
    )
