"""Commands about clusters: kube."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import Dump, Json
from sandbox.host import config


class Kind(StrEnum):
    """Kind of object to print."""

    job = "job"
    pod = "pod"


@command()
def kube(
    vmcore: Dump,
    claim: Annotated[
        str, typer.Option("--claim", metavar="NAME", help="The volume claim that has the dump; mounted read-only.")
    ] = "vmcores",
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="The dump's path in it; by default its file name.")
    ] = None,
    output_claim: Annotated[
        str, typer.Option("--output-claim", metavar="NAME", help="The volume claim for what crash answers.")
    ] = "vmbox-reports",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", metavar="NAME", show_default=False)] = None,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="HOST[:PORT][/PATH]", help="Where the nodes get the image; see image push."),
    ] = None,
    memory: Annotated[str, typer.Option("--memory", metavar="QUANTITY", help="Most memory.")] = "8Gi",
    cpus: Annotated[str, typer.Option("--cpus", metavar="QUANTITY", help="Most CPUs.")] = "2",
    timeout: Annotated[int, typer.Option("--timeout", metavar="SECONDS", min=1, help="Time limit of the Job.")] = 3600,
    ttl: Annotated[
        int, typer.Option("--ttl", metavar="SECONDS", min=0, help="Keep the finished Job for this long.")
    ] = 86400,
    user: Annotated[int, typer.Option("--user", metavar="UID", min=0, help="A user who may read the dump there.")] = 0,
    kind: Annotated[
        Kind, typer.Option("--kind", help="A Job; or a Pod, because Podman before 4.7 runs no Jobs.")
    ] = Kind.job,
    json: Json = False,
) -> None:
    """Print a Kubernetes Job that runs crash on a dump in a cluster, and leaves a page of its answers on a volume.

    vmbox image push vmcore --registry registry.example/vmbox

    vmbox kube vmcore --registry registry.example/vmbox | kubectl apply -f -

    vmbox report vmcore --answers vmbox-….answers -o report.html
    """
    from sandbox.case.dumps import identify
    from sandbox.report.kubernetes import JobOptions, as_yaml, manifests

    wanted = JobOptions(
        dumps=claim,
        path=path,
        output=output_claim,
        namespace=namespace,
        registry=registry or config.current().registry,
        memory=memory,
        cpus=cpus,
        seconds=timeout,
        keep=ttl,
        user=user,
        kind=kind.value,
    )
    made = manifests(identify(vmcore), wanted)
    if json:
        render.as_json(made)
    else:
        render.line(as_yaml(made), end="")
