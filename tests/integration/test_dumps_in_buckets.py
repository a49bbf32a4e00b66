"""Dumps in an object store and on a host with SSH: real servers on loopback, and the credentials that they want."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dump_servers import Bucket, SshHost, bucket, ssh_host
from engines import INFO
from sandbox.case import dumps, views
from sandbox.debuginfo import download
from sandbox.dump import identify
from sandbox.errors import ConfigurationError, DumpNotFound, DumpUnreadable, UsageError
from sandbox.remote import described, schemes
from sandbox.remote.naming import named
from sandbox.remote.source import RemoteSource

DUMP = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
CONTENT = DUMP.read_bytes()


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("ssh")) as host:
        yield host


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "RUNTIME", "STATE"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"VMBOX_{name}_DIR", str(tmp_path / name))
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("AWS_", "SSH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)


@pytest.fixture
def profile(store: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Credentials of a profile, as `aws configure` writes them, and the endpoint there as well."""
    aws = tmp_path / "home" / ".aws"
    aws.mkdir()
    keys = "aws_access_key_id = AKIATESTS\naws_secret_access_key = SECRET\n"
    (aws / "credentials").write_text(f"[crashes]\n{keys}")
    (aws / "config").write_text(f"[profile crashes]\nregion = us-east-1\nendpoint_url = {store.endpoint}\n")
    monkeypatch.setenv("AWS_PROFILE", "crashes")
    return store


@pytest.fixture
def login(ssh: SshHost, tmp_path: Path) -> SshHost:
    """A key in ~/.ssh, named in ~/.ssh/config, and a host that is known."""
    place = tmp_path / "home" / ".ssh"
    (place / "known_hosts").write_text(ssh.host_key)
    (place / "config").write_text(f"Host 127.0.0.1\n  IdentityFile {ssh.key}\n")
    return ssh


@pytest.fixture(params=["s3", "sftp"])
def there(request: pytest.FixtureRequest) -> Bucket | SshHost:
    found: Bucket | SshHost = request.getfixturevalue("profile" if request.param == "s3" else "login")
    return found


def test_it_is_identified_as_the_file_is(there: Bucket | SshHost) -> None:
    url = named(there.put("a/b vmcore" if isinstance(there, Bucket) else "b vmcore", CONTENT))
    here, elsewhere = identify(DUMP), dumps.identify(url)
    for name in ("format", "release", "build_id", "panic", "complete", "size"):
        assert getattr(elsewhere, name) == getattr(here, name), name
    assert list(dumps.read_log(url)) == list(dumps.read_log(DUMP))


def test_only_what_is_needed_is_fetched(there: Bucket | SshHost) -> None:
    whole = CONTENT + os.urandom(8 << 20)
    path = described.local(named(there.put("large", whole)))
    with RemoteSource(path) as source:
        assert source.read_at(4_000_000, 100) == whole[4_000_000:4_000_100]
        assert source.fetched <= 256 << 10
        assert source.read_at(len(whole) - 5, 10) == whole[-5:]
        taken = bytearray()
        source.feed(taken.extend)
        assert bytes(taken) == whole


def test_one_that_is_replaced_is_another_dump_and_never_mixed(there: Bucket | SshHost) -> None:
    url = named(there.put("replaced", CONTENT))
    path = described.local(url)
    with RemoteSource(path) as source:
        assert source.read_at(0, 10) == CONTENT[:10]
        there.put("replaced", CONTENT[:-1] + b"x")
        with pytest.raises(DumpUnreadable, match="replaced while it was read"):
            source._file.read_at(5, 10)
    said: list[str] = []

    class Said:
        def notice(self, line: str) -> None:
            said.append(line)

    described.local(url, Said())  # type: ignore[arg-type]
    assert "another dump" in said[0]


def test_a_missing_one_is_said(there: Bucket | SshHost) -> None:
    url = there.put("x", b"x").removesuffix("x") + "nothing"
    with pytest.raises(DumpNotFound, match="there is no"):
        described.local(named(url))


def test_a_directory_is_said(login: SshHost) -> None:
    with pytest.raises(DumpNotFound, match="is a directory"):
        described.local(named(login.put("x", b"x").rpartition("/")[0]))


def test_a_version_of_an_object_is_read_though_it_is_replaced(profile: Bucket) -> None:
    profile.client.create_bucket(Bucket="versions")
    profile.client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    first = profile.client.put_object(Bucket="versions", Key="vmcore", Body=CONTENT)["VersionId"]
    path = described.local(named("s3://versions/vmcore"))
    profile.client.put_object(Bucket="versions", Key="vmcore", Body=b"another")
    with RemoteSource(path) as source:
        assert source.read_at(0, len(CONTENT)) == CONTENT
    first_one = dumps.identify(named(f"s3://versions/vmcore?versionId={first}"))
    assert first_one.panic == identify(DUMP).panic
    assert first not in described.name(first_one.path)


def test_a_bucket_of_others_is_named_with_what_to_do(profile: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody's")
    with pytest.raises(DumpUnreadable, match="nobody's"):
        described.local(named("s3://dumps/vmcore"))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DumpUnreadable, match="Could not connect"):
        described.local(named("s3://dumps/vmcore"))


def test_a_public_bucket_needs_no_credentials(store: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    assert dumps.identify(named(store.put("public", CONTENT, ACL="public-read"))).panic == identify(DUMP).panic


def test_a_host_that_is_not_known_is_not_believed(login: SshHost, tmp_path: Path) -> None:
    url = named(login.put("vmcore", CONTENT))
    known, config = (tmp_path / "home" / ".ssh" / name for name in ("known_hosts", "config"))
    line = known.read_text()
    for wrong in ("", line.replace("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAAC3NzaC1lZDI1NTE5AAAAIA")[:-2] + "\n"):
        known.write_text(wrong)
        with pytest.raises(DumpUnreadable) as refused:
            described.local(url)
        assert "ost key" in refused.value.message
    known.unlink()
    with pytest.raises(DumpUnreadable, match="ost key"):
        described.local(url)
    more = "StrictHostKeyChecking no\n  UserKnownHostsFile none"
    config.write_text(f"Host 127.0.0.1\n  {more}\n  IdentityFile {login.key}\n")
    with pytest.raises(DumpUnreadable, match=r"ost key|no known hosts"):
        described.local(url)


def test_a_host_with_another_key_than_is_known_is_told_apart(login: SshHost, tmp_path: Path) -> None:
    import asyncssh

    url = named(login.put("vmcore", CONTENT))
    another = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known = tmp_path / "home" / ".ssh" / "known_hosts"
    known.write_text(f"[127.0.0.1]:{login.port} {another}")
    with pytest.raises(DumpUnreadable, match="another than the one that is known") as refused:
        described.local(url)
    assert refused.value.hint.endswith(f"ssh-keygen -R '[127.0.0.1]:{login.port}'")
    known.write_text("")
    with pytest.raises(DumpUnreadable, match="not trusted") as refused:
        described.local(url)
    assert refused.value.hint.endswith(f"ssh -p {login.port} 127.0.0.1 true")


def test_a_user_who_is_not_let_in_is_told_so(login: SshHost, tmp_path: Path) -> None:
    (tmp_path / "home" / ".ssh" / "config").unlink()
    with pytest.raises(DumpUnreadable, match="does not let this user in"):
        described.local(named(login.put("vmcore", CONTENT)))


def test_a_password_in_a_url_is_refused(login: SshHost) -> None:
    with pytest.raises(UsageError) as refused:
        described.local(named("sftp://me:SECRET@127.0.0.1/vmcore"))
    assert "SECRET" not in refused.value.message


def test_a_connection_that_is_lost_is_made_again(login: SshHost) -> None:
    path = described.local(named(login.put("vmcore", CONTENT)))
    with RemoteSource(path) as source:
        assert source.read_at(0, 10) == CONTENT[:10]
        login.loop.call_soon_threadsafe(login.connections[-1].abort)
        assert source._file.read_at(20, 10) == CONTENT[20:30]


@pytest.mark.parametrize(("url", "library"), [("s3://b/k", "botocore"), ("sftp://h/k", "asyncssh")])
def test_without_the_extra_its_name_is_said(url: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setitem(sys.modules, f"{library}.session", None)
    with pytest.raises(ConfigurationError) as missing:
        schemes.open_file(url).size  # noqa: B018 - it asks
    assert "pip install 'vmbox-crash[remote]'" in missing.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount that containers see needs root, or their namespace")
def test_a_case_gets_the_file_and_no_credentials_are_kept(there: Bucket | SshHost, tmp_path: Path) -> None:
    path = described.local(named(there.put("vmcore", CONTENT)))
    server = views.serve(dumps.identify(path), INFO)
    assert server is not None
    assert server.files[0].read_bytes() == CONTENT
    assert [one.name for one in server.files[0].parent.iterdir()] == ["vmcore"]
    secrets = [b"SECRET", b"AKIATESTS"]
    if isinstance(there, SshHost):
        secrets = [there.key.read_bytes().splitlines()[2]]
    command = Path(f"/proc/{(server.place / 'lock').read_text()}/cmdline").read_bytes()
    server.close()
    kept = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file() and "home" not in one.parts]
    assert not [one for one in (command, *kept) if any(secret in one for secret in secrets)]
    assert json.loads(path.read_text())["url"].startswith(("s3://", "sftp://"))


def test_the_command_line_reads_it(there: Bucket | SshHost) -> None:
    url = there.put("vmcore", CONTENT)
    argv = [sys.executable, "-m", "sandbox", "info", url]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert f"DUMPFILE: {url}" in done.stdout
    assert done.stderr == ""
