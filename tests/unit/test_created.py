"""What engines said of containers that they had created, recorded, and compared with what was asked for."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines import INFO
from sandbox.case.container_spec import Limits, container_spec
from sandbox.engine import (
    ContainerSpec,
    created,
    docker_created,
    podman_created,
    podman_seccomp,
    podman_spec,
)
from sandbox.engine.podman_config import containers_conf
from sandbox.errors import EngineFailed

RECORDED = Path(__file__).parents[1] / "fixtures" / "engine"
"""Docker 20.10 and Podman 4.3, of `SPEC`."""
LIMIT = 18957376512
SPEC = container_spec(
    name="vmbox-x",
    image="x",
    files=[Path("/evidence/vmcore")],
    debuginfo=Path("/evidence/debuginfo"),
    runtime=Path("/evidence/runtime"),
    labels={},
    env={"IDLE": "0"},
    limits=Limits(memory=LIMIT, cpus=1.5, pids=512, scratch=LIMIT // 8),
)
PODMAN = ("podman-rootful", "podman-rootless")


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def compare(
    name: str, found: dict[str, Any], *, spec: ContainerSpec = SPEC, seccomp: str = "default", cgroups: bool = False
) -> None:
    if name == "docker":
        made = docker_created.of(found["inspected"], seccomp=seccomp, cgroup_namespaces=cgroups)
        settings = docker_created.SETTINGS
    else:
        made = podman_created.of(
            found["inspected"], found["config"], shadows=["/run/secrets"], cgroup_namespaces=cgroups
        )
        settings = podman_created.SETTINGS
    created.refuse_unless_as_asked(
        made, spec, engine=name, settings=settings, image_environment={}, limits=found["limits"]
    )


@pytest.mark.parametrize("name", ["docker", *PODMAN])
def test_what_was_asked_for_is_accepted(name: str) -> None:
    compare(name, recorded(name))


def test_config_is_read_by_a_container_where_it_cannot_be_read_here(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"process": {}, "linux": {"here": 1}}')
    inspected = {"OCIConfigPath": str(tmp_path / "config.json")}
    asked: list[str] = []

    def elsewhere(path: str) -> bytes:
        asked.append(path)
        return b'{"process": {}, "linux": {"there": 1}}'

    def read(path: str, *, local: bool) -> object:
        return podman_created.runtime_config({"OCIConfigPath": path}, local=local, elsewhere=elsewhere)["linux"]

    assert read(inspected["OCIConfigPath"], local=True) == {"here": 1}
    assert asked == []
    assert read(inspected["OCIConfigPath"], local=False) == {"there": 1}
    assert read("/nowhere/config.json", local=True) == {"there": 1}
    assert asked == [inspected["OCIConfigPath"], "/nowhere/config.json"]


@pytest.mark.parametrize("answer", [b"", b"cat: not found\n", b"[]", b"{}", b'{"process": {}}', b'{"linux": 1}'])
def test_a_container_of_which_nothing_is_said_is_refused(answer: bytes) -> None:
    for inspected in ({}, {"OCIConfigPath": "/nowhere/config.json"}):
        with pytest.raises(EngineFailed, match="does not say how it made") as refused:
            podman_created.runtime_config(inspected, local=False, elsewhere=lambda _: answer)
        assert refused.value.hint


Change = Callable[[dict[str, Any]], object]


def _host(**more: object) -> Change:
    return lambda found: found["inspected"]["HostConfig"].update(more)


BIND = {"Type": "bind", "Source": "/etc", "Destination": "/mnt", "RW": False}
VOLUME = {"Type": "volume", "Name": "v", "Source": "/v", "Destination": "/data", "RW": True}
INSPECTED: dict[str, tuple[Change, str]] = {
    "bind": (lambda found: found["inspected"]["Mounts"].append(BIND), "/mnt is mounted"),
    "volume": (lambda found: found["inspected"]["Mounts"].append(VOLUME), "/data is mounted"),
    "other dump": (lambda found: found["inspected"]["Mounts"][0].update(Source="/etc"), "is /etc"),
    "writable": (lambda found: found["inspected"]["Mounts"][0].update(RW=True), "can be written"),
    "device": (_host(Devices=[{"PathOnHost": "/dev/kmsg"}]), "/dev/kmsg"),
    "pid": (_host(PidMode="host"), "namespaces (pid)"),
    "ipc": (_host(IpcMode="host"), "namespaces (ipc)"),
    "ipc of another": (_host(IpcMode="container:x"), "namespaces (ipc)"),
    "uts": (_host(UTSMode="host"), "namespaces (uts)"),
    "network": (_host(NetworkMode="bridge"), "network is bridge"),
    "privileged": (_host(Privileged=True), "privileged"),
    "seccomp": (_host(SecurityOpt=["no-new-privileges", "seccomp=unconfined"]), "not filtered"),
    "new privileges": (_host(SecurityOpt=[]), "no_new_privs"),
    "root": (_host(ReadonlyRootfs=False), "root file system"),
    "kernel setting": (_host(Sysctls={"kernel.core_pattern": "|/x"}), "kernel.core_pattern"),
    "spared": (_host(OomScoreAdj=-900), "want of memory"),
    "never killed": (_host(OomKillDisable=True), "want of memory"),
}
DOCKER: dict[str, tuple[Change, str]] = {
    "no dump": (lambda found: found["inspected"].update(Mounts=[]), "missing"),
    "tmpfs": (_host(Tmpfs={"/tmp": "rw,size=1"}), "scratch memory"),
    "capability": (_host(CapAdd=["SYS_ADMIN"]), "SYS_ADMIN"),
    "capabilities": (_host(CapDrop=[]), "capabilities"),
    "apparmor": (_host(SecurityOpt=["no-new-privileges", "apparmor=unconfined"]), "confined (apparmor)"),
    "paths": (_host(SecurityOpt=["no-new-privileges", "systempaths=unconfined"]), "confined (systempaths)"),
    "kcore": (_host(MaskedPaths=[]), "kernel's memory"),
    "runtime": (_host(Runtime="nvidia"), "runtime nvidia"),
    "init": (_host(Init=True), "/sbin/docker-init is mounted"),
    "rule": (_host(DeviceCgroupRules=["c *:* rwm"]), "rwm"),
    "gpu": (_host(DeviceRequests=[{"Driver": "nvidia"}]), "nvidia"),
    "priority": (_host(Ulimits=[{"Name": "rtprio", "Soft": 9, "Hard": 9}]), "rtprio"),
    "environment": (lambda found: found["inspected"]["Config"]["Env"].append("SECRET=x"), "SECRET"),
    "memory": (_host(Memory=0), "limit of memory"),
    "processes": (_host(PidsLimit=-1), "limit of processes"),
    "processors": (_host(NanoCpus=0), "limit of processors"),
}
CONFIG: dict[str, tuple[Change, str]] = {
    "subscription": (
        lambda found: found["config"]["mounts"].append(
            {"destination": "/etc/key", "type": "bind", "source": f"/x/{found['inspected']['Id']}/userdata/etc/key"}
        ),
        "/etc/key is mounted",
    ),
    "hosts file of the host": (
        lambda found: found["config"]["mounts"].append(
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts"}
        ),
        "/etc/hosts is mounted",
    ),
    "ipc": (
        lambda found: found["config"]["linux"].update(namespaces=[{"type": "pid"}, {"type": "uts"}]),
        "namespaces (ipc)",
    ),
    "pid of another": (
        lambda found: found["config"]["linux"]["namespaces"][0].update(path="/proc/1/ns/pid"),
        "namespaces (pid)",
    ),
    "seccomp": (lambda found: found["config"]["linux"].update(seccomp=None), "not filtered"),
    "a filter that allows": (
        lambda found: found["config"]["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}),
        "not filtered",
    ),
    "keyrings": (
        lambda found: found["config"]["linux"]["seccomp"].update(
            syscalls=[{"names": ["read", "keyctl", "add_key"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]}]
        ),
        "no debugger needs (add_key, keyctl)",
    ),
    "kcore": (lambda found: found["config"]["linux"].update(maskedPaths=[]), "kernel's memory"),
    "device": (lambda found: found["config"]["linux"].update(devices=[{"path": "/dev/kmsg"}]), "/dev/kmsg"),
    "hook": (lambda found: found["config"].update(hooks={"prestart": [{"path": "/bin/evil"}]}), "/bin/evil"),
    "annotation": (
        lambda found: found["inspected"]["Config"]["Annotations"].update({"run.oci.hooks.stdout": "/x"}),
        "run.oci.hooks.stdout",
    ),
    "capabilities": (
        lambda found: found["config"]["process"].update(capabilities={"bounding": ["CAP_SYS_ADMIN"]}),
        "CAP_SYS_ADMIN",
    ),
    "apparmor": (lambda found: found["inspected"].update(AppArmorProfile="unconfined"), "confined (apparmor)"),
    "apparmor of the process": (
        lambda found: found["config"]["process"].update(apparmorProfile="unconfined"),
        "confined (apparmor)",
    ),
    "kernel setting": (lambda found: found["config"]["linux"].update(sysctl={"vm.overcommit_memory": "1"}), "vm.over"),
    "spared": (lambda found: found["config"]["process"].update(oomScoreAdj=-1), "want of memory"),
    "control group": (
        lambda found: found["inspected"]["HostConfig"].update(CgroupConf={"memory.max": "max"}),
        "memory.max",
    ),
    "unified": (lambda found: found["config"]["linux"].update(resources={"unified": {"pids.max": "max"}}), "pids.max"),
    "environment": (lambda found: found["config"]["process"]["env"].append("LD_PRELOAD=/x"), "LD_PRELOAD"),
    "a value": (lambda found: found["config"]["process"]["env"].append("HOME=/etc"), "HOME"),
    "priority": (
        lambda found: found["config"]["process"]["rlimits"].append({"type": "RLIMIT_NICE", "soft": 40, "hard": 40}),
        "nice",
    ),
}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        *(
            pytest.param(name, *one, id=f"{name}-{what}")
            for name in ("docker", *PODMAN)
            for what, one in INSPECTED.items()
        ),
        *(pytest.param("docker", *one, id=f"docker-{what}") for what, one in DOCKER.items()),
        *(pytest.param(name, *one, id=f"{name}-config-{what}") for name in PODMAN for what, one in CONFIG.items()),
    ],
)
def test_what_is_more_is_refused(name: str, change: Change, said: str) -> None:
    found = copy.deepcopy(recorded(name))
    change(found)
    if "config" in found and said == "not filtered":
        found["config"]["linux"]["seccomp"] = None  # both are written by the same engine
    with pytest.raises(EngineFailed) as refused:
        compare(name, found)
    assert said in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.hint.startswith("it would be less isolated than promised. See ")


def test_a_setting_of_its_own_namespaces_is_accepted() -> None:
    for name in ("docker", *PODMAN):
        found = recorded(name)
        found["inspected"]["HostConfig"]["Sysctls"] = {"net.ipv4.ping_group_range": "0 0"}
        compare(name, found)


@pytest.mark.parametrize("addresses", [None, -1, LIMIT * 2])
def test_without_control_groups_the_limit_of_addresses_is_compared(addresses: int | None) -> None:
    found = recorded("podman-rootless")
    assert not found["limits"]
    limits = found["config"]["process"]["rlimits"]
    limits[:] = [one for one in limits if one["type"] != "RLIMIT_AS"]
    if addresses is not None:
        limits.append({"type": "RLIMIT_AS", "soft": addresses, "hard": addresses})
    with pytest.raises(EngineFailed, match="memory is not limited"):
        compare("podman-rootless", found)


def test_volume_of_the_image_is_accepted() -> None:
    found = recorded("docker")
    found["inspected"]["Mounts"].append(VOLUME)
    found["inspected"]["Config"]["Volumes"] = {"/data": {}}
    compare("docker", found)


def test_secret_of_the_environment_is_not_printed() -> None:
    found = recorded("docker")
    found["inspected"]["Config"]["Env"].append("SECRET=hunter2")
    with pytest.raises(EngineFailed) as refused:
        compare("docker", found)
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint} {refused.value.detail}"


def test_namespace_of_control_groups_is_missed_where_hosts_have_them() -> None:
    with pytest.raises(EngineFailed, match=r"namespaces \(cgroup\)"):
        compare("docker", recorded("docker"), cgroups=True)


@pytest.mark.parametrize("profile", ["unconfined", "/etc/docker/own.json", ""])
def test_docker_without_its_own_filter_is_refused(profile: str) -> None:
    with pytest.raises(EngineFailed, match="not filtered") as refused:
        compare("docker", recorded("docker"), seccomp=profile)
    assert "seccomp-profile in daemon.json" in refused.value.hint


def test_docker_is_asked_for_its_own_filter_by_name() -> None:
    told = ["name=apparmor", "name=seccomp,profile=unconfined", "name=cgroupns"]
    assert docker_created.seccomp_profile(told) == "unconfined"
    assert docker_created.seccomp_profile(["name=seccomp,profile=builtin"]) == "builtin"
    assert docker_created.seccomp_profile(["name=apparmor"]) == ""
    assert docker_created.seccomp_option("unconfined", "28.2.2") == ["seccomp=builtin"]
    assert docker_created.seccomp_option("unconfined", "20.10.24") == []
    assert docker_created.seccomp_option("builtin", "28.2.2") == []


PODMAN_INFO = dataclasses.replace(INFO, name="podman", local=False)


@pytest.mark.parametrize(
    ("engines", "asked"),
    [
        ("", None),  # built in: there is no file, and containers.conf names none
        ("/etc/containers/seccomp.json", "/etc/containers/seccomp.json"),
        ("/usr/share/containers/seccomp.json", "/usr/share/containers/seccomp.json"),
        ("unconfined", "/usr/share/containers/seccomp.json"),
        ("/home/me/allows-all.json", "/usr/share/containers/seccomp.json"),
    ],
)
def test_podman_is_asked_for_its_own_filter(engines: str, asked: str | None) -> None:
    path = podman_seccomp.path_for(engines, reads_ours=False)
    payload = podman_spec.of(SPEC, PODMAN_INFO, auto_remove=True, seccomp=path)
    assert payload.get("seccomp_profile_path") == asked


def test_podmans_filter_refuses_the_keyrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_RUNTIME_DIR", str(tmp_path / "run"))
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "keyctl", "add_key"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["request_key"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bdflush", "request_key"], "action": "SCMP_ACT_ERRNO"},
        ],
    }
    monkeypatch.setattr(podman_seccomp, "_TRUSTED", (str(tmp_path / "theirs.json"),))
    assert podman_seccomp.path_for("unconfined", reads_ours=True) == str(tmp_path / "theirs.json")  # not there
    (tmp_path / "theirs.json").write_text(json.dumps(profile))
    ours = Path(podman_seccomp.path_for("unconfined", reads_ours=True))
    written = json.loads(ours.read_text())
    assert podman_seccomp.allowed(profile) == ("add_key", "keyctl", "request_key")
    assert podman_seccomp.allowed(written) == ()
    assert podman_seccomp.allowed({**profile, "defaultAction": "SCMP_ACT_LOG"}) == tuple(sorted(podman_seccomp.REFUSED))
    assert written["defaultAction"] == "SCMP_ACT_ERRNO"
    assert [rule["names"] for rule in written["syscalls"]] == [["read"], ["bdflush", "request_key"]]
    assert podman_seccomp.path_for("", reads_ours=True) == ""


def test_a_filter_of_the_runtime_becomes_a_profile_without_keyrings() -> None:
    """config.json has more than a profile may have: LinuxSeccomp in the OCI runtime specification."""
    made = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "/run/listener",
        "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW"}, {"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }
    kept = {key: value for key, value in made.items() if key not in {"flags", "listenerPath"}}
    assert json.loads(podman_seccomp.profile(made)) == {**kept, "syscalls": made["syscalls"][1:]}  # type: ignore[index]


def test_podman_is_asked_for_the_environment_of_the_image_and_the_case() -> None:
    payload = podman_spec.of(SPEC, PODMAN_INFO, auto_remove=True, image_environment={"A": "1", "HOME": "/root"})
    assert payload["unsetenvall"]
    assert (payload["env"]["A"], payload["env"]["HOME"]) == ("1", "/scratch")
    assert payload["env"]["PATH"]


def test_subscriptions_are_covered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    conf = tmp_path / "mounts.conf"
    conf.write_text(f"# a comment\n{tmp_path}/gone:/run/secrets\n{tmp_path}/file:/etc/key\n{tmp_path}\n")
    monkeypatch.setattr(podman_spec, "_MOUNTS_CONF", (str(conf), str(tmp_path / "none")))
    local = dataclasses.replace(PODMAN_INFO, local=True)
    found = podman_spec.shadows(local)
    assert found == {"/run/secrets": True, "/etc/key": False, str(tmp_path): True}
    mounts = podman_spec.of(SPEC, local, auto_remove=True, shadows=found)["mounts"]
    by_place = {mount["destination"]: mount for mount in mounts}
    assert by_place["/run/secrets"]["type"] == "tmpfs"
    assert by_place["/etc/key"]["source"] == "/dev/null"
    assert podman_spec.shadows(PODMAN_INFO) == {"/run/secrets": True}  # of another host nothing is read


def test_own_configuration_keeps_places_and_nothing_of_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tomllib

    conf = tmp_path / "containers.conf"
    conf.write_text(
        '[containers]\npidns = "host"\nvolumes = ["/:/mnt"]\n'
        '[engine]\nconmon_path = ["/opt/conmon", {append=true}]\nhooks_dir = ["/evil"]\nevents_logger = "file"\n'
        '[engine.runtimes]\nkata = ["/opt/kata"]\n[network]\nnetwork_backend = "cni"\n'
    )
    over = tmp_path / "over.conf"
    over.write_text(
        '[engine]\nevents_logger = "none"\nconmon_path = ["/over", {append=true}]\n'
        '[containers]\ndevices = ["/dev/kmsg"]\n'
    )
    monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    monkeypatch.setenv("CONTAINERS_CONF_OVERRIDE", str(over))
    found = tomllib.loads(containers_conf(rootless=True))
    assert found["containers"] == {}
    assert found["engine"]["conmon_path"] == ["/opt/conmon", "/over"]
    assert found["engine"]["events_logger"] == "none"
    assert found["engine"]["hooks_dir"] == []
    assert found["engine"]["runtimes"] == {"kata": ["/opt/kata"]}
    assert found["network"] == {"network_backend": "cni"}
    conf.write_text("no [ toml")  # Podman itself will say so
    assert "events_logger" in containers_conf(rootless=True)
