"""Whose the objects are that a cluster finds under its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Cluster, parse
from sluice.engine.cluster_objects import ClusterObjects
from sluice.engine.errors import UserError, WaitingError
from sluice.kube.errors import InvalidError
from sluice.manifests import labels

OURS = labels.of_cluster("demo")
REFUSAL = InvalidError(422, "Invalid", "spec.template.spec.tolerations[0].tollerate: field not declared in schema")


class Api:
    """An API server that has some objects, and refuses contents if it is told to."""

    def __init__(self, *bodies: dict[str, Any], refuses: bool = False) -> None:
        self.bodies = {(body["kind"], body["metadata"]["name"]): body for body in bodies}
        self.refuses = refuses
        self.written: list[str] = []

    async def get(self, _: str, kind: str, __: str, name: str) -> dict[str, Any] | None:
        return self.bodies.get((kind, name))

    async def list(self, _: str, kind: str, __: str, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        found = [body for (of, _), body in self.bodies.items() if of == kind]
        marks = [body["metadata"].get("labels") or {} for body in found]
        return [b for b, m in zip(found, marks, strict=True) if all(v in ("*", m.get(k)) for k, v in wanted.items())]

    async def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._write(body)

    async def create_if_absent(self, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        found = self.bodies.get((body["kind"], body["metadata"]["name"]))
        return (found, False) if found else (self._write(body), True)

    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.refuses:
            raise REFUSAL
        self.written.append(body["metadata"]["name"])
        return body


def made(kind: str, name: str, marks: Mapping[str, str] | None = None, *owners: str) -> dict[str, Any]:
    references = [{"kind": "MessagingCluster", "uid": uid} for uid in owners]
    meta = {"name": name, "namespace": "here", "labels": dict(marks or {}), "ownerReferences": references}
    return {"apiVersion": "v1", "kind": kind, "metadata": meta}


def cluster() -> Cluster:
    meta = {"namespace": "here", "name": "demo", "uid": "u", "creationTimestamp": "2026-11-24T00:00:00Z"}
    pool = {"name": "n", "roles": ["broker", "controller"], "replicas": 1, "storage": {"size": "1Gi"}}
    found: Cluster = parse({"kind": "MessagingCluster", "metadata": meta, "spec": {"nodePools": [pool]}})
    return found


async def loaded(api: Api) -> ClusterObjects:
    kube: Any = api
    objects = ClusterObjects(kube, cluster())
    await objects.load()
    return objects


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("Service", None),
        ("Service", {"app.kubernetes.io/managed-by": "Helm"}),
        ("Service", {**OURS, labels.CLUSTER: "another"}),
        ("PodDisruptionBudget", None),
        # Of a User of this cluster, whose spec chose the name.
        ("Secret", {labels.MANAGED_BY: "sluice", labels.CLUSTER: "demo"}),
    ],
)
async def test_what_is_somebody_elses_is_not_written_over(kind: str, marks: dict[str, str] | None) -> None:
    api = Api(made(kind, "demo-operator", marks))
    objects = await loaded(api)
    for write in (objects.ensure, objects.create):
        with pytest.raises(UserError, match=rf"{kind} demo-operator is there already and isn't this cluster's") as told:
            await write(made(kind, "demo-operator", OURS, "u"))
        assert told.value.reason is Reason.CONFLICT
        assert "label it app.kubernetes.io/name=kafka" in str(told.value)
    assert api.written == []


async def test_what_merely_carries_the_clusters_label_is_not_taken_for_its_own() -> None:
    objects = await loaded(Api(made("Service", "theirs", {labels.CLUSTER: "demo"}), made("Service", "ours", OURS)))
    assert [body["metadata"]["name"] for body in objects.all("Service")] == ["ours"]


async def test_what_lost_its_labels_is_still_its_owners() -> None:
    api = Api(made("Service", "demo-nodes", None, "u"))
    await (await loaded(api)).ensure(made("Service", "demo-nodes", OURS, "u"))
    assert api.written == ["demo-nodes"]


async def test_retained_objects_are_adopted_by_their_labels() -> None:
    api = Api(made("PersistentVolumeClaim", "data-demo-n-0", OURS), made("Secret", "demo-identity", OURS))
    objects = await loaded(api)
    for body in list(api.bodies.values()):
        assert await objects.keep_or_own(body) is body
    stranger = made("Secret", "demo-cluster-ca")
    with pytest.raises(UserError, match="isn't this cluster's"):
        await objects.keep_or_own(stranger)


async def test_what_goes_with_an_earlier_cluster_is_waited_for() -> None:
    objects = await loaded(Api(made("Service", "demo-nodes", OURS, "earlier")))
    with pytest.raises(WaitingError, match="is being deleted"):
        await objects.ensure(made("Service", "demo-nodes", OURS, "u"))


async def test_what_the_api_server_refuses_is_the_users_to_correct() -> None:
    objects = await loaded(Api(refuses=True))
    for write in (objects.ensure, objects.create):
        with pytest.raises(UserError, match="tollerate: field not declared") as told:
            await write(made("PersistentVolumeClaim", "data-demo-n-0", OURS))
        assert told.value.reason is Reason.INVALID_SPEC
