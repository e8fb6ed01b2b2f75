"""Bad input is refused by `kubectl apply`, with a sentence that says what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from e2e.support import objects
from e2e.support.cluster import KafkaCluster
from e2e.support.kubectl import Body, Kubectl, documents

HOST = "127.0.0.1"
OWN = {"name": "own"}


def refusal(space: Kubectl, body: Body) -> str:
    """What kubectl says of an object that must not be let in (nothing is stored either way)."""
    done = space.attempt("apply", "--dry-run=server", "-f", "-", stdin=documents(body))
    assert done.returncode != 0, f"it was let in: {body}"
    return done.stderr


def spec(change: Callable[[Body], None], body: Body) -> Body:
    changed = copy.deepcopy(body)
    change(changed["spec"])
    return changed


CLUSTER = objects.cluster("own", host=HOST)
TOPIC = objects.topic("orders", OWN)
MONTH = {"from": {"time": "2013-02-01T00:00:00Z"}, "to": {"time": "2013-03-01T00:00:00Z"}}
REPLAY = objects.replay("again", OWN, "orders", "orders-again", MONTH)

CASES: list[tuple[str, Body, str]] = [
    ("an unknown field", spec(lambda s: s.update(partition=3), TOPIC), 'unknown field "spec.partition"'),
    ("a bad topic name", spec(lambda s: s.update(topicName="my orders"), TOPIC), "topicName"),
    (
        "min ISR above replicas",
        spec(lambda s: s.update(config={"min.insync.replicas": "2"}), TOPIC),
        "config min.insync.replicas is above replicas",
    ),
    ("an unknown version", spec(lambda s: s.update(version="3.9.0"), CLUSTER), "this release of Sluice runs Kafka"),
    (
        "a configuration that the operator owns",
        spec(lambda s: s.update(config={"node.id": "7"}), CLUSTER),
        "config has a key that the operator owns",
    ),
    (
        "an even number of controllers",
        spec(lambda s: s["nodePools"][0].update(replicas=2), CLUSTER),
        "an odd number of controllers is needed",
    ),
    (
        "a NodePort listener without a host",
        spec(lambda s: s["listeners"][1].pop("advertisedHost"), CLUSTER),
        "a NodePort listener needs advertisedHost",
    ),
    (
        "a range by time that ends before it starts",
        spec(lambda s: s["source"]["range"]["to"].update(time="2013-01-01T00:00:00Z"), REPLAY),
        "the range ends before it starts",
    ),
    (
        "a range by offset that ends before it starts",
        spec(lambda s: s["source"].update(range={"from": {"offset": 5}, "to": {"offset": 4}}), REPLAY),
        "the range ends before it starts",
    ),
    (
        "a copy onto itself",
        spec(lambda s: s["target"].update(topic="orders"), REPLAY),
        "a topic can't be copied onto itself",
    ),
    (
        "a user with a name of Sluice's own",
        spec(lambda s: s.update(userName="sluice-operator"), objects.user("eve", OWN)),
        "Sluice keeps those for itself",
    ),
]


@pytest.mark.parametrize(("story", "body", "sentence"), CASES, ids=[case[0] for case in CASES])
def test_it_is_refused_with_a_sentence(story: str, body: Body, sentence: str, refusals: Kubectl) -> None:
    assert sentence in refusal(refusals, body)


@pytest.fixture(scope="module")
def refusals(solo: KafkaCluster) -> Kubectl:
    """Any namespace will do, since nothing is stored."""
    return solo.space


def test_more_replicas_than_brokers_are_refused(solo: KafkaCluster, space: Kubectl) -> None:
    said = refusal(space, objects.topic("orders", solo.reference, replicas=3))
    assert "above the 1 brokers" in said


def test_partitions_are_never_lowered(solo: KafkaCluster, space: Kubectl) -> None:
    space.apply(objects.topic("orders", solo.reference, partitions=4))
    said = refusal(space, objects.topic("orders", solo.reference, partitions=2))
    assert "partitions can't be lowered" in said
    assert "make a new topic and copy into it" in said


def test_storage_is_never_shrunk(solo: KafkaCluster) -> None:
    smaller = objects.cluster(
        "solo", host=solo.body()["spec"]["listeners"][1]["advertisedHost"], allowedNamespaces=["*"]
    )
    smaller["spec"]["nodePools"][0]["storage"]["size"] = "512Mi"
    said = refusal(solo.space, smaller)
    assert "storage can't shrink" in said


def test_a_cluster_says_who_may_refer_to_it(space: Kubectl, trio: KafkaCluster) -> None:
    # The quickstart's cluster allows no other namespace.
    said = refusal(space, objects.topic("orders", trio.reference))
    assert "spec.allowedNamespaces" in said
