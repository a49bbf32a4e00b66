"""The wheels of drgn that go into images."""

from __future__ import annotations

import hashlib
import io
import runpy
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from sandbox import profiles
from sandbox.host import config, paths
from sandbox.image import containerfile
from sandbox.profiles import wheels

INSTALL = paths.data_dir() / "Containerfile.d" / "files" / "install-drgn.py"


def test_each_python_has_one_wheel_which_says_so() -> None:
    found = wheels.load()
    assert len({(one.python, one.arch) for one in found.wheel}) == len(found.wheel)
    for one in found.wheel:
        tag = one.python.replace(".", "")
        assert f"/drgn-{found.version}-cp{tag}-cp{tag}-manylinux_" in one.url
        assert one.url.endswith(f"_{one.arch}.whl")
        assert len(one.sha256) == 64


def test_an_image_is_of_its_wheels_and_of_the_sites_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profiles.by_name("debian-12")
    recipe = containerfile.of_profile(profile)
    assert "drgn-wheel" in recipe.fragments
    if not recipe.args["DRGN_WHEELS"]:
        pytest.skip("there are no wheels of this machine")
    before = containerfile.context(recipe)
    config.override(["mirrors=https://files.pythonhosted.org=http://pypi.example/files"])
    try:
        after = containerfile.of_profile(profile)
    finally:
        config.replace_overrides([])
    assert "http://pypi.example/files/packages/" in after.args["DRGN_WHEELS"]
    assert containerfile.context(after) != before
    # Where there is no wheel, the image is made without.
    assert wheels.arguments("s390x") == {"DRGN_WHEELS": ""}


def test_emulation_goes_without_drgn() -> None:
    left = profiles.by_name("debian-12").image.emulated()
    assert "drgn-wheel" not in left.fragments
    assert "DRGN" not in left.args


def _install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> Path:
    place = tmp_path / "drgn"
    code = INSTALL.read_text().replace("/usr/lib/vmbox/drgn", str(place)).replace("/usr/bin/drgn", f"{tmp_path}/run")
    script = tmp_path / "install-drgn.py"
    script.write_text(code)
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    runpy.run_path(str(script), run_name="__main__")
    return place


def test_only_the_wheel_of_this_hash_and_this_python_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("drgn/cli.py", "_main = lambda: print('it runs')")
    data = wheel.getvalue()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(data))
    own = "{}.{}".format(*sys.version_info)
    right, wrong = hashlib.sha256(data).hexdigest(), "0" * 64
    with pytest.raises(SystemExit, match="is not the wheel"):
        _install(monkeypatch, tmp_path, f"{own},https://pypi.example/drgn.whl,{wrong}")
    with pytest.raises(SystemExit, match="no wheel of drgn for Python"):
        _install(monkeypatch, tmp_path, f"2.7,https://pypi.example/drgn.whl,{right}")
    assert not (tmp_path / "run").exists()
    place = _install(monkeypatch, tmp_path, f"{own},https://pypi.example/drgn.whl,{right}")
    assert (place / "drgn" / "cli.py").is_file()
    assert (tmp_path / "run").stat().st_mode & 0o111
