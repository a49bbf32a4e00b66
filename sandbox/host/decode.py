"""Decodes JSON and TOML into dataclasses, and checks the input of files and other processes before it is used.

A field's annotation says what its value must be, and `sandbox.model.key_of` which key it has. Types are strict: a bool
is no int, NaN is no number. Every failure is a `DecodeError`, which is a ValueError; its text is made to stand behind
the name of the file, e.g. "crash.version must be a string".

A warm run reads a case with this, so it imports little.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sandbox.model import key_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T", bound="DataclassInstance")

Keys = Literal["any", "known", "all"]
"""Which keys a table may have: "any", of which unknown ones are ignored; "known" ones only; or exactly "all" of them,
also those of fields that have a default."""

_LONGEST: Final = 16 << 20
"""Most bytes of a file, or characters of a text, that are read."""
_INT_BITS: Final = 64
"""No file needs longer numbers, and Python refuses to print those of more than 4300 digits."""


class DecodeError(ValueError):
    """The input does not fit; the text names the key."""


class UnknownKey(DecodeError):
    """A key that no field has."""

    def __init__(self, table: str, key: str, known: tuple[str, ...]) -> None:
        self.table = table
        """Its path; empty for the top level."""
        self.key = key
        self.known = known
        """The keys that the table may have."""
        super().__init__(f"unknown key {_join(table, key)}")


def decode(kind: type[_T], value: object, *, keys: Keys = "known", given: Mapping[str, object] | None = None) -> _T:
    """A `kind` made of the table `value`, as JSON or TOML has it; tables inside it become dataclasses, too.

    `given` are fields whose value the caller knows; the file cannot set them. Raises `DecodeError`.
    """
    return _decode(kind, value, "", keys, given or {})


def from_json(kind: type[_T], text: str | bytes, *, keys: Keys = "known") -> _T:
    """The same of a JSON text. Raises `DecodeError`."""
    return decode(kind, parse_json(text), keys=keys)


def read_json(kind: type[_T], path: Path, *, keys: Keys = "known") -> _T:
    """The same of a JSON file. Raises OSError and `DecodeError`."""
    return from_json(kind, _read(path), keys=keys)


def parse_json(text: str | bytes) -> object:
    """Parses a JSON text. Raises `DecodeError`, also for NaN and for nesting too deep for Python."""
    import json

    if len(text) > _LONGEST:
        raise DecodeError(f"more than {_LONGEST >> 20} MiB")
    try:
        value: object = json.loads(text, parse_constant=_not_finite)
    except RecursionError:
        raise DecodeError("nested too deeply") from None
    except (json.JSONDecodeError, UnicodeDecodeError, DecodeError) as error:
        raise DecodeError(str(error)) from error
    except ValueError:
        raise DecodeError("a number has too many digits") from None
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """The table that a TOML file holds. Raises OSError and `DecodeError`, also for numbers of more than 64 bits."""
    # Only who has a file of settings pays for the parser.
    import tomllib

    try:
        table = tomllib.loads(_read(path).decode())
        _check_numbers(table)
    except RecursionError:
        raise DecodeError("nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, DecodeError) as error:
        raise DecodeError(str(error)) from error
    except ValueError:
        raise DecodeError("a number has too many digits") from None
    return table


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise DecodeError(f"more than {_LONGEST >> 20} MiB")
    return data


def _not_finite(word: str) -> object:
    raise DecodeError(f"{word} is no number")


def _check_numbers(value: object) -> None:
    match value:
        case dict():
            for item in value.values():
                _check_numbers(item)
        case list():
            for item in value:
                _check_numbers(item)
        case int() if value.bit_length() > _INT_BITS:
            raise DecodeError("a number has too many digits")
        case float() if not math.isfinite(value):
            _not_finite(str(value))


class _Unfit(Exception):
    """A value of another type than was wanted; its field says so."""


_Read = Callable[[object, str, Keys], object]
"""(value, path of its key, which keys) -> value. Raises `_Unfit`, or `DecodeError` where more is known."""


# These two are no dataclasses, whose making takes longer than all the rest that a warm run does here.
class _Reader:
    """What reads values of one annotation. `one` is in words what a value must be, and `several` are many of them."""

    __slots__ = ("one", "read", "several", "table")

    def __init__(self, one: str, several: str, read: _Read, *, table: bool = False) -> None:
        self.one = one
        self.several = several
        self.read = read
        self.table = table
        """It makes a dataclass."""


class _Field:
    __slots__ = ("key", "name", "reader", "required")

    def __init__(self, item: Field[Any], reader: _Reader) -> None:
        self.name = item.name
        self.key = key_of(item)
        self.reader = reader
        self.required = item.default is MISSING and item.default_factory is MISSING


@cache
def _fields(kind: type[DataclassInstance]) -> Mapping[str, _Field]:
    """By key."""
    hints = get_type_hints(kind)
    return {key_of(item): _Field(item, _reader(hints[item.name])) for item in fields(kind)}


def _decode(kind: type[_T], value: object, table: str, keys: Keys, given: Mapping[str, object]) -> _T:
    if not isinstance(value, dict):
        raise DecodeError(f"{table or 'top level'} is not a table")
    known = {key: item for key, item in _fields(kind).items() if item.name not in given}
    values: dict[str, Any] = dict(given)
    for key, content in value.items():
        item = known.get(key)
        if item is None:
            if keys == "any":
                continue
            raise UnknownKey(table, str(key)[:80], tuple(known))
        path = _join(table, item.key)
        if item.required and item.reader.table and not isinstance(content, dict):
            raise DecodeError(f"needs a table [{path}]")
        try:
            values[item.name] = item.reader.read(content, path, keys)
        except _Unfit:
            raise DecodeError(f"{path} must be {item.reader.one}") from None
    missing = [item for item in known.values() if item.name not in values and (item.required or keys == "all")]
    for item in missing:
        if item.reader.table:
            raise DecodeError(f"needs a table [{_join(table, item.key)}]")
    if missing:
        raise DecodeError(f"[{table or 'top level'}] lacks {', '.join(item.key for item in missing)}")
    return kind(**values)


def _join(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


@cache
def _reader(hint: Any) -> _Reader:
    """What reads values of an annotation. Raises TypeError for one that is not known here: a mistake of ours."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType} and len(inner) == 2 and type(None) in inner:
        return _optional(_reader(inner[inner[0] is type(None)]))
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _list(_reader(inner[0]))
    if origin is Mapping and inner[0] is str:
        return _mapping(_reader(inner[1]))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _choice(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        read: _Read = lambda value, path, keys: _decode(hint, value, path, keys, {})  # noqa: E731 - as the others are
        return _Reader("a table", "tables", read, table=True)
    raise TypeError(f"no value of {hint} can be read from a file")


def _optional(inner: _Reader) -> _Reader:
    def read(value: object, path: str, keys: Keys) -> object:
        return None if value is None else inner.read(value, path, keys)

    return _Reader(inner.one, inner.several, read)


def _list(inner: _Reader) -> _Reader:
    def read(value: object, path: str, keys: Keys) -> object:
        if not isinstance(value, list):
            raise _Unfit
        return tuple(inner.read(item, path, keys) for item in value)

    return _Reader(f"a list of {inner.several}", f"lists of {inner.several}", read)


def _mapping(inner: _Reader) -> _Reader:
    def read(value: object, path: str, keys: Keys) -> object:
        if not isinstance(value, dict):
            raise _Unfit
        return {key: inner.read(item, f"{path}.{key[:80]}", keys) for key, item in value.items()}

    return _Reader(f"a table of {inner.several}", f"tables of {inner.several}", read)


def _choice(kind: type[StrEnum]) -> _Reader:
    def read(value: object) -> object:
        if not isinstance(value, str) or value not in kind._value2member_map_:
            raise _Unfit
        return kind(value)

    return _simple("one of " + ", ".join(kind), f"words of {', '.join(kind)}", read)


def _simple(one: str, several: str, read: Callable[[object], object]) -> _Reader:
    return _Reader(one, several, lambda value, _path, _keys: read(value))


def _exactly(kind: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        # bool is an int to Python.
        if type(value) is not kind:
            raise _Unfit
        return value

    return read


def _int(value: object) -> int:
    if type(value) is not int or value.bit_length() > _INT_BITS:
        raise _Unfit
    return value


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unfit
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit from None
    if not math.isfinite(number):
        raise _Unfit
    return number


def _path(value: object) -> Path:
    if not isinstance(value, str):
        raise _Unfit
    try:
        name = os.fsencode(value)
    except UnicodeEncodeError:
        raise _Unfit from None
    if b"\0" in name:
        raise _Unfit
    return Path(value)


def _datetime(value: object) -> datetime:
    """In UTC. One without a zone is refused: it cannot be compared with others."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(moment, datetime) or moment.tzinfo is None:
            raise _Unfit
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Unfit from None


_SIMPLE: Final[Mapping[Any, _Reader]] = {
    str: _simple("a string", "strings", _exactly(str)),
    bool: _simple("true or false", "true and false", _exactly(bool)),
    int: _simple("a whole number", "whole numbers", _int),
    float: _simple("a number", "numbers", _float),
    Path: _simple("a path", "paths", _path),
    datetime: _simple("a date and time with its zone", "dates and times with their zones", _datetime),
}
