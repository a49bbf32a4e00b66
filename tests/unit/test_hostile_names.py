"""File names with control characters are shown with escapes, in results and in errors."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from sandbox.case import container
from sandbox.dump import identify
from sandbox.dump.source import FileSource
from sandbox.errors import ConfigurationError, VmboxError, pasteable
from sandbox.host import paths
from sandbox.progress import Reporter
from sandbox.render import progress
from sandbox.session.output_files import OutputDirectory

NAMES = [b"\x1b]0;own\x07\x1b[31m", b"two\nlines", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}erocmv".encode()]


@pytest.mark.parametrize(
    ("name", "content"), [(NAMES[0], None), *zip(NAMES, [b"\x7fELF", *[b"none"] * 3], strict=True)]
)
def test_commands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vmbox: Callable[..., CompletedProcess[str]],
    name: bytes,
    content: bytes | None,
) -> None:
    place = bytes(tmp_path) + b"/" + name
    if content is not None:
        with open(place, "wb") as file:  # noqa: PTH123 - a name that is no text
            file.write(content)
    for kind in ("CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"VMBOX_{kind}_DIR", str(tmp_path))
    done = vmbox("info", os.fsdecode(place))
    assert done.returncode in {10, 12, 13}, done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert not {char for char in said if not char.isprintable() and char != "\n"}
    assert not [line for line in said.splitlines() if line.startswith("lines")], "a line that looks like our own"


def test_no_name_adds_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmbox: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.setenv("VMBOX_STATE_DIR", str(tmp_path / "state"))
    dump = tmp_path / "vm\nRELEASE: 9.9"
    dump.write_bytes((Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib").read_bytes())
    assert "\nRELEASE: 9.9" not in vmbox("info", dump).stdout
    hashed = vmbox("verify", dump).stdout
    assert hashed.startswith("\\")
    assert hashed.endswith("/vm\\nRELEASE: 9.9\n")
    (tmp_path / "list").write_text(hashed)
    checked = run(["sha256sum", "-c", "--status", str(tmp_path / "list")], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("reporter", [progress.Plain(), progress.Live()], ids=["plain", "live"])
def test_progress(capsys: pytest.CaptureFixture[str], reporter: Reporter) -> None:
    with reporter.step("Reading \x1b]0;own\x07\nvmbox: own") as step:
        reporter.notice("it is \x1b[31mred\nvmbox: own")
        step.detail("a\nvmbox: own")
    reporter.notice("gone\nvmbox: own")
    said = capsys.readouterr().err
    assert "it is" in said
    assert not [line for line in said.splitlines() if line.startswith("vmbox: own")]
    assert "\x1b]" not in said
    assert "\x1b[31m" not in said


@pytest.mark.parametrize(
    "name",
    [
        "vmcore",
        "a b",
        "x'; id; '",
        "$(id)",
        "`id`",
        "-rf",
        "a\nb",
        "\x1b]0;own\x07",
        "\udcff'",
        "a\u202eb",
        "\\n",
        "~",
        "*",
    ],
)
def test_a_name_in_a_hint_is_one_word_to_a_shell(name: str) -> None:
    pasted = pasteable(name)
    assert pasted.isprintable()
    done = run(["bash", "-c", f"printf '%s\\0' {pasted}"], capture_output=True, check=True)
    assert done.stdout in {os.fsencode(name) + b"\0", b"./" + os.fsencode(name) + b"\0"}
    assert not done.stdout.startswith(b"-")


def test_hints_quote_names(tmp_path: Path) -> None:
    directory = tmp_path / "$(id) x"
    directory.mkdir()
    file = directory / "vm core"
    file.write_bytes(b"Rar!\x1a\x07\x00" + bytes(5000))
    vmlinux = directory / "vm linux"
    vmlinux.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0\1" + bytes(200))
    whole = {str(vmlinux), str(file), file.name, str(file.parent / "vmcore"), str(directory), f"{directory}-2"}
    for error in (
        _raised(lambda: FileSource(directory)),
        _raised(lambda: identify(file)),
        _raised(lambda: OutputDirectory(directory)),
        _raised(lambda: identify(vmlinux)),
    ):
        assert whole & set(shlex.split(error.hint.replace(",", " "))), error.hint


def _raised(call: Callable[[], object]) -> VmboxError:
    with pytest.raises(VmboxError) as caught:
        call()
    return caught.value


def test_the_engine_gets_another_name_for_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.vmcore")
    odd.write_bytes(b"KDUMP")
    named = container._named_in_utf8(odd, tmp_path)
    str(named).encode()
    assert named.parent == tmp_path
    assert named.read_bytes() == b"KDUMP"
    plain = tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}.vmcore"
    assert container._named_in_utf8(plain, tmp_path) == plain


@pytest.mark.parametrize("kind", ["cache", "state", "runtime"])
def test_a_place_of_vmbox_that_is_not_utf_8_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VMBOX_{kind.upper()}_DIR", os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        getattr(paths, f"{kind}_dir")()
