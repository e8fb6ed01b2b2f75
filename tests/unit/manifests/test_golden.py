"""Objects of a cluster, compared with YAML that people have read. `UPDATE_GOLDEN=1 pytest …` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.api.cluster import Jvm, Listener, ListenerType, NodePool, PodTemplate, Role, Storage
from sluice.api.user import AuthenticationType
from sluice.manifests import names, node_files, protection, services, statefulset
from sluice.manifests.metadata import Body
from sluice.manifests.node import Node
from sluice.manifests.statefulset import Files
from sluice.manifests.volume import volume_claim
from sluice.plan.broker_config import ClusterConfig, endpoints, server_properties

GOLDEN = Path(__file__).parent / "golden"
OWNER = {"apiVersion": "sluice.dev/v1alpha1", "kind": "MessagingCluster", "name": "demo", "uid": "u-1"}
LISTENERS = [
    Listener(name="tls", port=9093),
    Listener(name="scram", port=9094, authentication=AuthenticationType.SCRAM_SHA_512),
    Listener(
        name="outside",
        port=9095,
        type=ListenerType.NODE_PORT,
        advertised_host="host.example",
        node_ports={"bootstrap": 31000, "0": 31001},
        annotations={"example.com/zone": "public"},
    ),
]
ADVERTISED = {"tls": "pod.example:9093", "scram": "pod.example:9094", "outside": "host.example:31001"}
COMBINED = Node(
    "demo",
    "here",
    NodePool(
        name="nodes",
        roles=[Role.CONTROLLER, Role.BROKER],
        replicas=3,
        storage=Storage(size="10Gi", storage_class_name="fast"),
        rack="zone-a",
        resources={"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        jvm=Jvm(options=["-XX:+AlwaysPreTouch"]),
    ),
    0,
)
CONTROLLER = Node(
    "demo",
    "here",
    NodePool(name="c", roles=[Role.CONTROLLER], replicas=3, storage=Storage(size="1Gi"), jvm=Jvm(heap="400m")),
    100,
)
TEMPLATE = PodTemplate(
    labels={"team": "data", "sluice.dev/cluster": "not-yours"},
    annotations={"example.com/scrape": "true"},
    node_selector={"disk": "ssd"},
    tolerations=[{"key": "dedicated", "operator": "Exists"}],
    topology_spread_constraints=[
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    image_pull_secrets=["registry"],
    priority_class_name="high",
)


def stateful_set(node: Node, template: PodTemplate) -> Body:
    return statefulset.node_stateful_set(
        node,
        image="localhost/sluice/broker:1-kafka-4.4.0",
        files=Files(f"{node.name}-config-0", f"{node.name}-tls-0", "demo-identity"),
        template=template,
        client_ports={listener.name: listener.port for listener in LISTENERS},
        memory_limit=2 * 2**30 if node is COMBINED else None,
        owner=OWNER,
    )


def configuration(node: Node) -> Body:
    found = endpoints(node, LISTENERS, ADVERTISED)
    controllers = [f"{n.host}:{names.CONTROLLER_PORT}" for n in (COMBINED, CONTROLLER)]
    text = server_properties(node, found, ClusterConfig(controllers, 3, {"num.partitions": "6"}))
    return node_files.config_map(node, text, OWNER)


def policy(peers: list[dict[str, Any]]) -> Body:
    return protection.network_policy(
        "demo", "here", operator_namespace="sluice-system", listeners=LISTENERS, client_peers=peers, owner=OWNER
    )


CASES: dict[str, list[Body]] = {
    "node-combined": [stateful_set(COMBINED, TEMPLATE), configuration(COMBINED)],
    "node-controller": [stateful_set(CONTROLLER, PodTemplate()), configuration(CONTROLLER)],
    "volumes": [
        volume_claim(COMBINED, cluster_id="abc", format_version="4.4.0", owner=None),
        volume_claim(CONTROLLER, cluster_id="abc", format_version="4.4.0", owner=OWNER),
    ],
    "services": [
        services.nodes_service("demo", "here", LISTENERS, OWNER),
        *services.listener_services("demo", "here", LISTENERS, [COMBINED], OWNER),
    ],
    "protection": [
        protection.disruption_budget("demo", "here", OWNER),
        policy([]),
        policy([{"podSelector": {"matchLabels": {"app": "shop"}}}]),
    ],
}


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Readable.add_representer(str, _text)


@pytest.mark.parametrize("name", CASES)
def test_objects_are_as_in_the_golden_file(name: str) -> None:
    text = yaml.dump_all(CASES[name], Dumper=_Readable, sort_keys=True, width=1000)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs: read what has changed; UPDATE_GOLDEN=1 writes it anew"


def test_a_user_s_affinity_stays_and_the_rack_is_added_to_each_of_its_terms() -> None:
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    required = {"nodeSelectorTerms": [term, {}]}
    mine = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    pod = stateful_set(COMBINED, PodTemplate(affinity=mine))["spec"]["template"]["spec"]
    [first, second] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    rack = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-a"]}
    assert first["matchExpressions"] == [term["matchExpressions"][0], rack]
    assert second["matchExpressions"] == [rack]
    assert required == {"nodeSelectorTerms": [term, {}]}, "the spec itself isn't changed"
    assert "podAntiAffinity" not in pod["affinity"]


def test_controllers_outlive_the_brokers_when_all_are_told_to_stop() -> None:
    controller, broker = (
        stateful_set(node, PodTemplate())["spec"]["template"]["spec"]["containers"][0]
        for node in (CONTROLLER, COMBINED)
    )
    assert controller["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]
    assert "lifecycle" not in broker, "a broker hands its leaderships over at once"


def test_the_revision_changes_with_the_pod_and_with_nothing_else() -> None:
    one, same = stateful_set(COMBINED, PodTemplate()), stateful_set(COMBINED, PodTemplate())
    other = stateful_set(COMBINED, PodTemplate(labels={"a": "b"}))
    assert statefulset.revision_of(one) == statefulset.revision_of(same)
    assert statefulset.revision_of(one) != statefulset.revision_of(other)
    assert statefulset.revision_of(one) == statefulset.revision_of(one["spec"]["template"])


def test_secrets_of_nodes_are_named_by_what_is_in_them() -> None:
    def made(key: str) -> Body:
        return node_files.tls_secret(
            COMBINED, cert_pem="c", key_pem=key, cluster_ca_pem="a", clients_ca_pem="b", owner=OWNER
        )

    assert made("k")["metadata"]["name"] == made("k")["metadata"]["name"]
    assert made("k")["metadata"]["name"] != made("l")["metadata"]["name"]
    assert made("k")["immutable"] is True


def test_heap_is_half_of_the_memory_and_at_most_six_gibibytes() -> None:
    assert statefulset.heap(COMBINED, 2 * 2**30) == "1024m"
    assert statefulset.heap(COMBINED, 64 * 2**30) == "6144m"
    assert statefulset.heap(COMBINED, None) == "512m"
    assert statefulset.heap(CONTROLLER, 2**30) == "400m"


def test_the_longest_names_still_fit_a_label() -> None:
    assert len(names.config_map("n" * names.LONGEST_NODE_NAME, "0" * 10)) <= 253
    assert len(names.content_hash({"a": 1})) == 10
    assert names.replay_principal("0123abcd-4567-89ab-cdef-000000000000") == "sluice-replay-0123abcd4567"
