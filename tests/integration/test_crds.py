"""The CRDs on a real API server: what it lets in, what it refuses, and in which words.

Nothing here needs the operator: these rules hold also while none runs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config, watch

from sluice.api.base import API_VERSION, GROUP, VERSION
from sluice.api.crd import crds
from sluice.api.objects import KINDS

ROOT = Path(__file__).resolve().parents[2]
Spec = dict[str, Any]

POOL: Spec = {
    "name": "kafka",
    "roles": ["controller", "broker"],
    "replicas": 3,
    "storage": {"size": "10Gi"},
}
REF: Spec = {"name": "demo"}
NODE_PORT: Spec = {"name": "a", "port": 9093, "type": "NodePort", "advertisedHost": "192.0.2.1"}
EXTERNAL: Spec = {"external": {"bootstrapServers": ["kafka.example.com:9092"]}}
GOOD: dict[str, Spec] = {
    "MessagingCluster": {"nodePools": [POOL], "config": {"log.retention.ms": "-1"}},
    "Topic": {"clusterRef": REF, "partitions": 6, "config": {"min.insync.replicas": "2"}},
    "ConsumerGroup": {"clusterRef": REF, "topics": ["orders"]},
    "ReplayJob": {
        "clusterRef": REF,
        "source": {
            "topic": "orders",
            "range": {"from": {"time": "2013-01-01T00:00:00Z"}, "to": {"time": "2013-02-01T00:00:00Z"}},
        },
        "target": {"topic": "orders-again"},
    },
    "User": {"clusterRef": REF, "acls": [{"resource": "Topic", "name": "orders", "operations": ["Read"]}]},
}


class RefusedError(Exception):
    """The API server refused a request; its text is the message."""


class Api:
    """Requests as a strict client (kubectl, a GitOps controller) sends them."""

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._objects = client.CustomObjectsApi(api_client)

    def create(self, kind: str, name: str, spec: Any, *, dry_run: bool = True) -> dict[str, Any]:
        """Create an object; by default the API server only says what it would do."""
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        return self._call(
            self._objects.create_namespaced_custom_object,
            kind,
            body=body,
            field_validation="Strict",
            **({"dry_run": "All"} if dry_run else {}),
        )

    def update(self, body: Mapping[str, Any], spec: Mapping[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
        """Replace the spec of an object that is there."""
        return self._call(
            self._objects.replace_namespaced_custom_object,
            body["kind"],
            name=body["metadata"]["name"],
            body={**body, "spec": spec},
            field_validation="Strict",
            **({"dry_run": "All"} if dry_run else {}),
        )

    def status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Write an object's status."""
        return self._call(
            self._objects.replace_namespaced_custom_object_status,
            body["kind"],
            name=body["metadata"]["name"],
            body={**body, "status": status},
        )

    def delete(self, body: Mapping[str, Any]) -> None:
        """Delete an object."""
        self._call(self._objects.delete_namespaced_custom_object, body["kind"], name=body["metadata"]["name"])

    def _call(self, method: Any, kind: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = method(GROUP, VERSION, self.namespace, KINDS[kind].plural, **arguments)
        except client.ApiException as error:
            raise RefusedError(json.loads(error.body)["message"]) from error
        return answer


def wait_until_established(extensions: client.ApiextensionsV1Api) -> None:
    """Wait until the API server serves the CRDs."""
    listed = extensions.list_custom_resource_definition()
    waiting = {body["metadata"]["name"] for body in crds().values()} - {
        d.metadata.name for d in filter(served, listed.items)
    }
    if waiting:
        stream = watch.Watch().stream(
            extensions.list_custom_resource_definition,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=30,
        )
        for event in stream:
            if served(event["object"]):
                waiting.discard(event["object"].metadata.name)
            if not waiting:
                return
    assert not waiting, f"not established: {waiting}"


def served(definition: client.V1CustomResourceDefinition) -> bool:
    """Whether a CRD's objects can be used."""
    return any(c.type == "Established" and c.status == "True" for c in definition.status.conditions or ())


@pytest.fixture(scope="module")
def api_client(kubeconfig: Path) -> Iterator[client.ApiClient]:
    """A client, on an API server that has the CRDs as they are in the models."""
    with config.new_client_from_config(str(kubeconfig)) as api_client:
        extensions = client.ApiextensionsV1Api(api_client)
        for body in crds().values():
            extensions.patch_custom_resource_definition(
                body["metadata"]["name"],
                body,
                field_manager="test",
                force=True,
                _content_type="application/apply-patch+yaml",
            )
        wait_until_established(extensions)
        yield api_client


@pytest.fixture(scope="module")
def api(api_client: client.ApiClient) -> Iterator[Api]:
    """Requests of a strict client, in a namespace of this run."""
    core = client.CoreV1Api(api_client)
    namespace = core.create_namespace({"metadata": {"generateName": "crds-"}}).metadata.name
    yield Api(api_client, namespace)
    core.delete_namespace(namespace)


def changed(spec: Any, path: str, value: Any) -> Any:
    """A copy of ``spec`` with the value at a dotted path replaced; None removes it."""
    copied = copy.deepcopy(spec)
    *parents, last = [int(part) if part.isdigit() else part for part in path.replace("\\.", "\0").split(".")]
    node = copied
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    if isinstance(last, str):
        last = last.replace("\0", ".")
    if value is None:
        del node[last]
    else:
        node[last] = value
    return copied


@pytest.mark.parametrize("kind", GOOD)
def test_good_objects_are_let_in(api: Api, kind: str) -> None:
    assert api.create(kind, "good", GOOD[kind])["kind"] == kind


EXAMPLES = [
    pytest.param(
        body["kind"], body["metadata"]["name"], body["spec"], id=f"{path.parent.name}-{path.stem}-{body['kind']}"
    )
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
    for body in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if body and body.get("apiVersion") == API_VERSION
]


@pytest.mark.parametrize(("kind", "name", "spec"), EXAMPLES)
def test_every_example_is_let_in(api: Api, kind: str, name: str, spec: Spec) -> None:
    api.create(kind, name, spec)


REFUSED: list[tuple[str, str, Any, str]] = [
    ("Topic", "partitons", 3, 'unknown field "spec.partitons"'),
    ("MessagingCluster", "nodePools.0.storage.sise", "1Gi", 'unknown field "spec.nodePools[0].storage.sise"'),
    ("Topic", "topicName", "no spaces", "topicName has a character that Kafka doesn't allow"),
    ("Topic", "topicName", "..", "topicName can't be . or .."),
    ("Topic", "topicName", "a" * 250, "may not be more than 249"),
    ("Topic", "config.min\\.insync\\.replicas", "4", "min.insync.replicas is above replicas"),
    ("Topic", "config.min\\.insync\\.replicas", "two", "has to be a whole number from 1"),
    ("Topic", "config.min\\.insync\\.replicas", "0", "has to be a whole number from 1"),
    ("Topic", "config.", "x", "config has an empty key"),
    ("Topic", "config.retention ms", "1", "config has a key with a character that no Kafka configuration has"),
    ("MessagingCluster", "config.super\\.users ", "User:me", "config has a key with a character"),
    ("MessagingCluster", "config.x\nauthorizer\\.class\\.name", "", "config has a key with a character"),
    ("MessagingCluster", "config.log\\.retention\\.ms\n", "1", "config has a key with a character"),
    ("MessagingCluster", "config.allow\\.everyone\\.if\\.no\\.acl\\.found", "true", "the operator owns"),
    ("Topic", "partitions", 0, "should be greater than or equal to 1"),
    ("Topic", "deletionPolicy", "Keep", 'supported values: "Retain", "Delete"'),
    ("MessagingCluster", "version", "3.9.0", "unknown version: this release of Sluice runs Kafka 4.3.1, 4.4.0"),
    ("MessagingCluster", "config.node\\.id", "7", "config has a key that the operator owns"),
    ("MessagingCluster", "config.ssl\\.keystore\\.location", "/x", "config has a key that the operator owns"),
    ("MessagingCluster", "config.listener\\.name\\.tls\\.ssl\\.key", "/x", "config has a key that the operator owns"),
    ("MessagingCluster", "config.super\\.users", "User:me", "config has a key that the operator owns"),
    ("MessagingCluster", "config.zookeeper\\.connect", "zk:2181", "config has a key that the operator owns"),
    ("MessagingCluster", "nodePools.0.storage.size", "0", "size has to be above zero"),
    ("MessagingCluster", "nodePools.0.storage.size", "-1Gi", "size has to be a Kubernetes quantity"),
    ("MessagingCluster", "nodePools.0.storage.size", "10 GB", "size has to be a Kubernetes quantity"),
    ("MessagingCluster", "nodePools.0.roles", ["broker"], "at least one node pool needs the role controller"),
    ("MessagingCluster", "nodePools.0.roles", ["controller"], "at least one node pool needs the role broker"),
    ("MessagingCluster", "nodePools.0.replicas", 2, "an odd number of controllers is needed"),
    ("MessagingCluster", "nodePools.0.name", "Kafka", "name of a pool may have lower-case letters"),
    ("MessagingCluster", "nodePools.0.jvm", {"heap": "two"}, "heap has to be a number and k, m or g"),
    ("MessagingCluster", "nodePools.0.jvm", {"options": ["-Da=b c"]}, "an option of java is one word"),
    ("MessagingCluster", "nodePools", [POOL, POOL], "Duplicate value"),
    ("MessagingCluster", "external", {"bootstrapServers": ["a:9092"]}, "say either nodePools"),
    ("MessagingCluster", "nodePools", None, "say either nodePools"),
    ("MessagingCluster", "listeners", [{"name": "controller", "port": 9093}], "are the operator's own"),
    (
        "MessagingCluster",
        "listeners",
        [{"name": "a", "port": 9093}, {"name": "b", "port": 9093}],
        "two listeners have the same port",
    ),
    ("MessagingCluster", "listeners", [{"name": "a", "port": 9093, "type": "NodePort"}], "needs advertisedHost"),
    ("MessagingCluster", "listeners", [{"name": "a", "port": 9093, "nodePorts": {"0": 30001}}], "need type NodePort"),
    ("MessagingCluster", "listeners", [{**NODE_PORT, "nodePorts": {"broker-0": 30001}}], "has to be a node id"),
    ("MessagingCluster", "listeners", [{**NODE_PORT, "nodePorts": {"01": 30001}}], "has to be a node id"),
    ("ReplayJob", "source.range", {"from": {"offset": 9}, "to": {"offset": 3}}, "the range ends before it starts"),
    (
        "ReplayJob",
        "source.range.to",
        {"time": "2012-12-31T23:59:59Z"},
        "the range ends before it starts: to.time is before from.time",
    ),
    ("ReplayJob", "source.range.to.time", "yesterday", "must be of type date-time"),
    ("ReplayJob", "source.range.to.offset", 3, "say exactly one of offset, time and at"),
    ("ReplayJob", "target.topic", "orders", "a topic can't be copied onto itself"),
    ("ReplayJob", "select", {}, "select says nothing"),
    ("ReplayJob", "select", {"key": {"exact": ["a"], "regex": "b"}}, "exactly one of exact, prefix, regex"),
    ("ReplayJob", "select", {"key": {"hashRange": {"from": 20, "to": 10}}}, "the range is empty"),
    ("ReplayJob", "select", {"headers": [{"name": "h", "absent": True, "regex": "b"}]}, "at most one of exact"),
    ("ReplayJob", "headers", {"drop": []}, "headers says nothing"),
    ("ReplayJob", "headers", {"drop": ["a"], "rename": {"a": "b"}}, "both dropped and renamed"),
    ("ReplayJob", "headers", {"rename": {"a": "sluice-replay-count"}}, "which replays set themselves"),
    ("ConsumerGroup", "startPosition", {"from": "Time"}, "time is needed with from: Time"),
    ("ConsumerGroup", "topics", ["orders", "orders"], "Duplicate value"),
    ("ConsumerGroup", "topics", [], "should have at least 1 items"),
    ("User", "userName", "sluice-operator", "Sluice keeps those for itself"),
    ("User", "userName", "a,b", "userName has a character that isn't allowed"),
    ("User", "acls.0.name", None, "name is needed for Topic"),
    ("User", "acls.0.operations", ["Peek"], "Unsupported value"),
    ("User", "quotas", {"producerByteRate": 0}, "should be greater than or equal to 1"),
    ("User", "clusterRef", None, "spec.clusterRef: Required value"),
]


@pytest.mark.parametrize(("kind", "path", "value", "sentence"), REFUSED)
def test_bad_input_is_refused_with_a_sentence(api: Api, kind: str, path: str, value: Any, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        api.create(kind, "bad", changed(GOOD[kind], path, value))
    assert sentence in str(refusal.value)


REFUSED_EXTERNAL: list[tuple[str, Any, str]] = [
    ("external.authentication", {"type": "TLS", "secretName": "s"}, "authentication by TLS needs external.tls"),
    ("external.authentication", {"type": "PLAIN", "secretName": "s"}, "PLAIN sends the password as it is"),
    ("version", "4.4.0", "leave out"),
    ("image", "kafka:4", "leave out"),
    ("config", {"log.retention.ms": "1"}, "leave out"),
    ("template", {"labels": {"a": "b"}}, "leave out"),
    ("listeners", [{"name": "tls", "port": 9094}], "leave out"),
    ("networkPolicy", {"enabled": False}, "leave out"),
    ("networkPolicy", {"clientPeers": [{"podSelector": {}}]}, "leave out"),
    ("deletionPolicy", "Delete", "leave out"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), REFUSED_EXTERNAL)
def test_what_an_external_cluster_cannot_have_is_refused(api: Api, path: str, value: Any, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        api.create("MessagingCluster", "bad", changed(EXTERNAL, path, value))
    assert sentence in str(refusal.value)


def test_what_an_external_cluster_can_have_is_let_in(api: Api) -> None:
    login = {"type": "SCRAM-SHA-512", "secretName": "s"}
    api.create("MessagingCluster", "scram-over-plaintext", changed(EXTERNAL, "external.authentication", login))
    secure = {**EXTERNAL["external"], "tls": {}, "authentication": {**login, "type": "PLAIN"}}
    more = {"probe": {"enabled": False}, "allowedNamespaces": ["*"]}
    api.create("MessagingCluster", "plain-over-tls", {"external": secure, **more})


REWIND: dict[str, Any] = {"clusterRef": REF, "mode": "Rewind", "rewind": {"group": "billing", "to": {"at": "Earliest"}}}
REFUSED_REWINDS: list[tuple[str, Any, str]] = [
    ("mode", "Copy", "mode Copy needs source and target"),
    ("rewind", None, "mode Rewind needs rewind"),
    ("source", {"topic": "orders"}, "nothing is copied; leave them out"),
    ("ordering", "AcceptReordering", "nothing is copied; leave them out"),
    ("parallelism", 2, "nothing is copied; leave them out"),
    ("backoffLimit", 1, "nothing is copied; leave them out"),
    ("rewind.group", "sluice-replay-0123456789ab", "Sluice keeps such groups for itself"),
    ("rewind.to.shift", -5, "say exactly one of offset, time, at, shift and snapshot"),
    ("rewind.to", {}, "say exactly one of offset, time, at, shift and snapshot"),
    ("rewind.to.at", "Now", "Unsupported value"),
    ("rewind.topics", [{"topic": "a"}, {"topic": "a", "partitions": [1]}], "Duplicate value"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), REFUSED_REWINDS)
def test_what_a_rewind_cannot_be_is_refused(api: Api, path: str, value: Any, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        api.create("ReplayJob", "bad", changed(REWIND, path, value))
    assert sentence in str(refusal.value)


def test_a_rewind_cannot_be_changed_once_made_but_for_what_steers_its_run(api: Api) -> None:
    body = api.create("ReplayJob", "rewind", REWIND, dry_run=False)
    for path, value in (("rewind.group", "another"), ("rewind.to", {"offset": 5}), ("rewind.topics", [{"topic": "a"}])):
        with pytest.raises(RefusedError, match="a replay can't be changed once made"):
            api.update(body, changed(body["spec"], path, value))
    api.update(body, changed(body["spec"], "ttlSecondsAfterFinished", 60))
    api.delete(body)


NAMES: list[tuple[str, str, str]] = [
    ("Topic", "a" * 250, "say spec.topicName"),
    ("User", "sluice-operator", "metadata.name can't start with sluice-"),
    ("User", "u" * 65, "say spec.userName"),
    ("MessagingCluster", "my.cluster", "lower-case letters, digits and - only"),
    ("MessagingCluster", "c" * 41, "can't be longer than 40 characters"),
]


@pytest.mark.parametrize(("kind", "name", "sentence"), NAMES)
def test_names_that_cannot_work_are_refused(api: Api, kind: str, name: str, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        api.create(kind, name, GOOD[kind])
    assert sentence in str(refusal.value)


def test_a_cluster_and_its_pools_share_the_length_of_a_pods_name(api: Api) -> None:
    api.create("MessagingCluster", "c" * 40, GOOD["MessagingCluster"])
    with pytest.raises(RefusedError, match="together can't be longer than 46"):
        api.create("MessagingCluster", "c" * 40, changed(GOOD["MessagingCluster"], "nodePools.0.name", "kafka-b"))


def test_a_long_object_name_is_fine_where_kafka_gets_another(api: Api) -> None:
    api.create("Topic", "a" * 253, GOOD["Topic"] | {"topicName": "short"})
    api.create("User", "u" * 253, GOOD["User"] | {"userName": "short"})
    api.create("MessagingCluster", "c." * 50 + "d", {"external": {"bootstrapServers": ["kafka:9092"]}})


@pytest.fixture
def stored(api: Api, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A good object of the kind in the test's parameters, really written."""
    kind = request.getfixturevalue("kind")
    body = api.create(kind, "stored", GOOD[kind], dry_run=False)
    yield body
    api.delete(body)


TRANSITIONS: list[tuple[str, str, Any, str]] = [
    ("Topic", "partitions", 5, "partitions can't be lowered"),
    ("Topic", "topicName", "another", "topicName can't be changed"),
    ("Topic", "clusterRef.name", "another", "clusterRef can't be changed"),
    ("MessagingCluster", "nodePools.0.storage.size", "9Gi", "storage can't shrink"),
    ("MessagingCluster", "nodePools.0.storage.size", "10239Mi", "storage can't shrink"),
    ("MessagingCluster", "nodePools.0.storage.storageClassName", "fast", "storageClassName can't be changed"),
    ("MessagingCluster", "nodePools.0.replicas", 5, "controllers can't be added or removed"),
    (
        "MessagingCluster",
        "nodePools.1",
        {**POOL, "name": "more", "replicas": 2},
        "controllers can't be added or removed",
    ),
    ("MessagingCluster", "nodePools.0.roles", ["controller"], "roles of a pool can't be changed"),
    ("ReplayJob", "target.topic", "elsewhere", "a replay can't be changed once made"),
    ("ReplayJob", "runId", "second", "a replay can't be changed once made"),
    ("ReplayJob", "parallelism", 7, "a replay can't be changed once made"),
    ("ReplayJob", "select", {"key": {"exact": ["a"]}}, "can't be changed once made"),
    ("ReplayJob", "headers", {"drop": ["a"]}, "can't be changed once made"),
    ("ReplayJob", "provenance", "Headers", "can't be changed once made"),
    ("ReplayJob", "excludeReplayed", True, "can't be changed once made"),
    ("ConsumerGroup", "groupId", "another", "groupId can't be changed"),
    ("User", "userName", "another", "userName can't be changed"),
]


@pytest.mark.parametrize(("kind", "path", "value", "sentence"), TRANSITIONS)
def test_changes_that_cannot_be_made_are_refused(
    api: Api, stored: dict[str, Any], kind: str, path: str, value: Any, sentence: str
) -> None:
    if path == "nodePools.1":
        spec = {**stored["spec"], "nodePools": [*stored["spec"]["nodePools"], value]}
    else:
        spec = changed(stored["spec"], path, value)
    with pytest.raises(RefusedError) as refusal:
        api.update(stored, spec)
    assert sentence in str(refusal.value)


ALLOWED_TRANSITIONS: list[tuple[str, str, Any]] = [
    ("Topic", "partitions", 12),
    ("Topic", "config", {"retention.ms": "-1"}),
    ("MessagingCluster", "nodePools.0.storage.size", "10240Mi"),
    ("MessagingCluster", "nodePools.0.storage.size", "1Ti"),
    ("MessagingCluster", "nodePools.0.roles", ["broker", "controller"]),
    ("MessagingCluster", "config", {"log.retention.ms": "1"}),
    ("ReplayJob", "activeDeadlineSeconds", 60),
    ("ConsumerGroup", "topics", ["orders", "more"]),
    ("User", "authentication", "SCRAM-SHA-512"),
]


@pytest.mark.parametrize(("kind", "path", "value"), ALLOWED_TRANSITIONS)
def test_other_changes_go_through(api: Api, stored: dict[str, Any], kind: str, path: str, value: Any) -> None:
    api.update(stored, changed(stored["spec"], path, value))


@pytest.mark.parametrize("kind", ["MessagingCluster"])
def test_pools_are_matched_by_name_when_sizes_are_compared(api: Api, stored: dict[str, Any], kind: str) -> None:
    small = {"name": "archive", "roles": ["broker"], "replicas": 1, "storage": {"size": "1Gi"}}
    api.update(stored, {**stored["spec"], "nodePools": [small, *stored["spec"]["nodePools"]]})


@pytest.mark.parametrize("kind", GOOD)
def test_writing_the_same_again_changes_nothing(api: Api, stored: dict[str, Any], kind: str) -> None:
    again = api.update(stored, GOOD[kind], dry_run=False)
    assert again["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]


@pytest.mark.parametrize("kind", ["Topic"])
def test_status_is_a_subresource_and_shown_in_columns(
    api: Api, api_client: client.ApiClient, stored: dict[str, Any], kind: str
) -> None:
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "as asked",
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    }
    body = api.status(stored, {"partitions": 6, "replicas": 3, "conditions": [condition]})
    assert body["metadata"]["generation"] == stored["metadata"]["generation"]
    table = json.loads(
        api_client.call_api(
            *api_client.param_serialize(
                "GET",
                f"/apis/{GROUP}/{VERSION}/namespaces/{api.namespace}/topics",
                header_params={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
                auth_settings=["BearerToken"],
            )
        ).read()
    )
    names = [column["name"] for column in table["columnDefinitions"]]
    shown = dict(zip(names, table["rows"][0]["cells"], strict=True))
    assert (shown["Cluster"], shown["Partitions"], shown["Replicas"], shown["Ready"]) == ("demo", 6, 3, "True")


def test_the_largest_objects_stay_within_the_rules_budget(api: Api) -> None:
    """What CEL rules may cost at run time is limited too."""
    pools = [{**POOL, "name": f"p{n}", "roles": ["broker"] if n else ["controller"], "replicas": 99} for n in range(20)]
    ports = {str(n): 30000 + n for n in range(1000)}
    listeners = [{**NODE_PORT, "name": f"l{n}", "port": 9093 + n, "nodePorts": ports} for n in range(10)]
    settings = {f"log.some.long.configuration.name.{n}": "x" * 100 for n in range(500)}
    api.create("MessagingCluster", "large", {"nodePools": pools, "listeners": listeners, "config": settings})
    acl = {"resource": "Topic", "name": "t", "operations": ["Read"]}
    api.create("User", "large", {"clusterRef": REF, "acls": [acl] * 200})
    api.create("ConsumerGroup", "large", {"clusterRef": REF, "topics": [f"topic-{n}" for n in range(1000)]})
    texts = [f"{n:04}" + "x" * 1020 for n in range(100)]
    headers = [{"name": f"h{n}", "exact": texts} for n in range(20)]
    changes = {"drop": [f"d{n}" for n in range(50)], "rename": {f"o{n}": f"n{n}" for n in range(50)}}
    select = {"key": {"exact": texts}, "headers": headers}
    api.create("ReplayJob", "large", {**GOOD["ReplayJob"], "select": select, "headers": changes})
