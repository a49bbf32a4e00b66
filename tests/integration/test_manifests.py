"""The manifests of `vmbox kube`, checked with the Kubernetes client's models of the API, which take seconds to load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from sandbox.dump import identify
from sandbox.report.kubernetes import JobOptions, as_yaml, manifests

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib"


@pytest.mark.parametrize(
    "wanted",
    [
        JobOptions(),
        JobOptions(kind="pod"),
        JobOptions(registry="registry.example:5000/vmbox", namespace="dumps", user=1000),
    ],
)
def test_the_api_knows_every_field(wanted: JobOptions) -> None:
    """A model drops what is not a field of the API."""
    documents = list(yaml.safe_load_all(as_yaml(manifests(identify(DUMP), wanted))))
    assert [document["kind"] for document in documents] == (
        ["Pod"] if wanted.kind == "pod" else ["NetworkPolicy", "Job"]
    )
    api = client.ApiClient()
    for document in documents:
        model = api.deserialize(json.dumps(document), f"V1{document['kind']}", "application/json")
        assert api.sanitize_for_serialization(model) == document
        assert document["metadata"].get("namespace") == wanted.namespace
