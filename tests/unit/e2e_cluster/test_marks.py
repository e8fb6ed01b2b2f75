"""In a Kubernetes that is shared with others, only what has our mark is ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import marks
from e2e.cluster.marks import SYSTEM_NAMESPACE
from e2e.cluster.state import ClusterError

CRDS = ["customresourcedefinition.apiextensions.k8s.io/topics.sluice.dev"]
OTHER_CRD = "customresourcedefinition.apiextensions.k8s.io/certificates.cert-manager.io"


class Cluster:
    """kubectl's answers for a cluster with namespaces (labels by name), CRDs, and objects of Sluice."""

    def __init__(self, namespaces: dict[str, dict[str, str]], crds: list[str] | None = None, objects: str = "") -> None:
        self.namespaces = namespaces
        self.crds = [OTHER_CRD, *(crds or [])]
        self.objects = objects
        self.written: list[str] = []

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        match arguments:
            case ("get", "namespace", name, *_):
                labels = self.namespaces.get(name)
                return "" if labels is None else json.dumps({"metadata": {"name": name, "labels": labels}})
            case ("get", "namespaces", "-l", label, *_):
                wanted, _, value = label.partition("=")
                found = [name for name, labels in self.namespaces.items() if labels.get(wanted) == value]
                return "".join(f"namespace/{name}\n" for name in found)
            case ("get", "crd", *_):
                return "".join(f"{name}\n" for name in self.crds)
            case ("get", *_):
                return self.objects
            case ("create", *_):
                body: dict[str, Any] = json.loads(stdin)
                self.namespaces[body["metadata"]["name"]] = body["metadata"]["labels"]
        self.written.append(" ".join(word for word in arguments if not word.startswith("-")))
        return ""


def test_a_namespace_is_made_with_a_mark_and_known_again() -> None:
    cluster = Cluster({"default": {}})
    marks.claim(cluster, SYSTEM_NAMESPACE, shared=True)
    cluster.crds += CRDS  # which the chart brings
    marks.claim(cluster, SYSTEM_NAMESPACE, shared=True)
    marks.claim(cluster, "sluice-demo", shared=True)
    assert len(cluster.written) == 2


@pytest.mark.parametrize("name", [SYSTEM_NAMESPACE, "sluice-demo"])
def test_somebody_elses_namespace_is_refused(name: str) -> None:
    cluster = Cluster({name: {"team": "payments"}}, CRDS)
    with pytest.raises(ClusterError, match=f"the namespace {name} exists .* wasn't made by the demo"):
        marks.claim(cluster, name, shared=True)
    assert cluster.written == []


def test_no_second_operator_is_installed_beside_somebody_elses() -> None:
    with pytest.raises(ClusterError, match="has a Sluice already"):
        marks.claim(Cluster({"kafka": {}}, CRDS), SYSTEM_NAMESPACE, shared=True)


def test_in_a_cluster_of_our_own_everything_is_ours() -> None:
    cluster = Cluster({SYSTEM_NAMESPACE: {}}, CRDS)
    marks.claim(cluster, SYSTEM_NAMESPACE, shared=False)
    assert cluster.written == []


OURS = {marks.LABEL: marks.MAKER}


def test_exactly_what_is_marked_is_removed_and_the_operator_after_what_it_cleans_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(
        {"shop": {}, "sluice-demo": OURS, "e2e-solo-1": {"sluice-e2e": "true"}, SYSTEM_NAMESPACE: OURS}, CRDS
    )
    monkeypatch.setattr(marks, "_uninstall", lambda *_: cluster.written.append("helm uninstall"))
    marks.remove(cluster, Path("helm"), Path("kubeconfig"))
    assert cluster.written == [
        "delete namespace e2e-solo-1 sluice-demo",
        "helm uninstall",
        "delete crd topics.sluice.dev",
        f"delete namespace {SYSTEM_NAMESPACE}",
    ]


def test_a_release_that_isnt_ours_stays() -> None:
    cluster = Cluster({SYSTEM_NAMESPACE: {}, "shop": {}}, CRDS)
    marks.remove(cluster, Path("helm"), Path("kubeconfig"))
    assert cluster.written == []


def test_the_operator_stays_while_it_looks_after_somebody_elses_objects() -> None:
    cluster = Cluster({SYSTEM_NAMESPACE: OURS}, CRDS, objects="topic.sluice.dev/orders\n")
    with pytest.raises(ClusterError, match=r"topic.sluice.dev/orders.*delete these objects first"):
        marks.remove(cluster, Path("helm"), Path("kubeconfig"))
    assert cluster.written == []
