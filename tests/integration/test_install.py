"""Wheel and source distribution: built, installed into a new environment, and used.

These tests use the network only for the packages, from the index in pip's configuration.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sandbox

CHECKOUT = Path(__file__).parents[2]
FIXTURE = CHECKOUT / "tests" / "fixtures" / "dumps" / "x86_64-6.1-zlib"


def _pythons() -> dict[str, str]:
    """The interpreters of 3.11 to 3.14 that this machine has, by version."""
    found: dict[str, str] = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for version in ("3.11", "3.12", "3.13", "3.14"):
        candidates = [shutil.which(f"python{version}") or ""]
        candidates += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            # pyenv has shims also for versions that are not installed.
            probe = [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                found.setdefault(version, candidate)
    return found


def _run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
    return done


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel made from that sdist."""
    directory = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--outdir", directory, CHECKOUT)
    return directory


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


def test_the_sdist_contains_the_sources_of_the_wheel(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "images/debian-12.toml",
        "docs/architecture.md",
        "LICENSE",
    } <= names
    assert not [name for name in names if name.startswith((".cache", ".venv", "dist"))]


def test_the_wheel_contains_profiles_types_and_the_manual(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for source in ("images", "Containerfile.d"):
            for path in (CHECKOUT / source).rglob("*"):
                # Unit tests import what drgn loads in a case.
                if path.is_file() and path.parent.name != "__pycache__":
                    assert f"sandbox/_data/{path.relative_to(CHECKOUT)}" in names
        assert "sandbox/py.typed" in names
        (license_file,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(license_file) == (CHECKOUT / "LICENSE").read_bytes()
        metadata = archive.read(license_file.replace("licenses/LICENSE", "METADATA")).decode().splitlines()
        assert {"Name: vmbox-crash", "License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(metadata)
        (manual,) = (name for name in names if name.endswith("share/man/man1/vmbox.1"))
        text = archive.read(manual).decode()
    assert "vmbox shell" in text
    assert "VMBOX\\_CACHE\\_DIR" in text or "VMBOX_CACHE_DIR" in text


@pytest.mark.parametrize("python", _pythons().values(), ids=_pythons().keys())
def test_installed_and_used(wheel: Path, tmp_path: Path, python: str) -> None:
    """As with `pipx install`: a separate environment, with nothing of this checkout or of this environment."""
    _run(python, "-m", "venv", tmp_path / "venv")
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Compiling all that is installed takes longer than installing it.
    _run(*pip, "install", "--no-compile", wheel)
    vmbox = tmp_path / "venv" / "bin" / "vmbox"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VMBOX"))}
    env |= {f"VMBOX_{kind}_DIR": str(tmp_path / kind) for kind in ("CACHE", "CONFIG", "RUNTIME", "STATE")}
    assert _run(vmbox, "--version", env=env, cwd=tmp_path).stdout == f"vmbox {sandbox.__version__}\n"
    info = json.loads(_run(vmbox, "info", FIXTURE, "--json", env=env, cwd=tmp_path).stdout)
    assert info["profile"] == "latest"
    assert "sysrq" in info["panic"]
    assert "Run crash commands" in _run(vmbox, "run", "--help", env=env, cwd=tmp_path).stdout
    doctor = subprocess.run([vmbox, "doctor", "--json"], env=env, cwd=tmp_path, capture_output=True, check=False)
    assert doctor.returncode in {0, 1}
    assert {"profiles", "cache"} <= {finding["subject"] for finding in json.loads(doctor.stdout)}
    code = "import sandbox, sys; print(sandbox.identify(sys.argv[1]).release)"
    python = tmp_path / "venv" / "bin" / "python"
    assert _run(python, "-c", code, FIXTURE, env=env, cwd=tmp_path).stdout == info["release"] + "\n"
    with gzip.open(FIXTURE.parent / "x86_64-6.1.dmesg.gz", "rt", errors="replace") as expected:
        assert next(iter(expected)) == _run(vmbox, "dmesg", FIXTURE, env=env, cwd=tmp_path).stdout.splitlines(True)[0]


def test_completion_installs_itself(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "SHELL": "/bin/bash",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    vmbox = Path(sys.executable).parent / "vmbox"
    done = _run(vmbox, "--install-completion", "bash", env=env)
    assert "installed" in done.stdout
    script = next(path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith("vmbox"))
    typed = "COMP_WORDS=(vmbox run vmcore -- b); COMP_CWORD=4; _vmbox_completion vmbox"
    asked = f"source {script}; {typed}; echo ${{COMPREPLY[@]}}"
    shell = _run("bash", "--norc", "-c", asked, env={**env, "PATH": f"{vmbox.parent}:{os.environ['PATH']}"})
    assert shell.stdout.split() == ["bpf", "bt", "btop"]
