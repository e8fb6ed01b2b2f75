"""What is known of objects, whatever order news come in."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.objects import InvalidSpecError, Key
from sluice.engine.index import Change, Index
from tests.unit.engine.engine_fakes import topic, topic_key


def test_a_new_object_is_news() -> None:
    index = Index()
    assert index.put(topic("a")) is Change.OBJECT
    assert index.keys("Topic") == [topic_key("a")]


def test_managed_fields_and_the_last_applied_copy_are_not_kept() -> None:
    index = Index()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{…}", "mine": "kept"}
    index.put(topic("a", managedFields=[{"manager": "x"}], annotations=annotations))
    body = index.get(topic_key("a"))
    assert body is not None
    assert "managedFields" not in body["metadata"]
    assert body["metadata"]["annotations"] == {"mine": "kept"}


def test_an_own_status_write_is_no_reason_to_look_again() -> None:
    index = Index()
    index.put(topic("a", version=1))
    written = {**topic("a", version=2), "status": {"topicId": "x"}}
    assert index.put(written) is Change.STATUS


@pytest.mark.parametrize(
    "meta", [{"annotations": {"a": "b"}}, {"finalizers": ["x"]}, {"deletionTimestamp": "now"}, {"labels": {"a": "b"}}]
)
def test_a_change_of_metadata_that_acts_is_news(meta: dict[str, object]) -> None:
    index = Index()
    index.put(topic("a", version=1))
    assert index.put(topic("a", version=2, **meta)) is Change.OBJECT


def test_older_news_than_what_is_known_is_ignored() -> None:
    index = Index()
    index.put(topic("a", version=12, labels={"new": "yes"}))
    assert index.put(topic("a", version=9)) is Change.NONE
    body = index.get(topic_key("a"))
    assert body is not None
    assert body["metadata"]["labels"] == {"new": "yes"}


def test_the_end_of_a_predecessor_does_not_remove_its_successor() -> None:
    index = Index()
    index.put(topic("a", uid="old", version=1))
    assert index.put(topic("a", uid="new", version=5)) is Change.OBJECT
    assert not index.remove(topic_key("a"), "old")
    assert index.put(topic("a", uid="old", version=3)) is Change.NONE
    assert index.remove(topic_key("a"), "new")
    assert index.get(topic_key("a")) is None


def test_a_resync_finds_what_is_gone_and_what_was_replaced() -> None:
    index = Index()
    for name in "abc":
        index.put(topic(name))
    gone = index.replace("Topic", [topic("a"), topic("b", uid="other", version=9), topic("d")])
    assert gone == {topic_key("c")}
    assert set(index.keys("Topic")) == {topic_key(n) for n in "abd"}


def test_a_resync_of_one_namespace_says_nothing_of_others() -> None:
    index = Index()
    index.put(topic("a"))
    assert index.replace("Topic", [], ["elsewhere"]) == set()
    assert index.replace("Topic", [], ["ns"]) == {topic_key("a")}


def test_objects_of_a_cluster_are_found_across_namespaces() -> None:
    index = Index()
    far = topic("far")
    far["metadata"]["namespace"] = "apps"
    far["spec"]["clusterRef"] = {"name": "demo", "namespace": "ns"}
    index.put(topic("near"))
    index.put(far)
    other = topic("other")
    other["spec"]["clusterRef"] = {"name": "another"}
    index.put(other)
    found = index.of_cluster(Key("MessagingCluster", "ns", "demo"), "Topic")
    assert {b["metadata"]["name"] for b in found} == {"near", "far"}


def test_a_spec_that_cannot_be_read_says_where() -> None:
    index = Index()
    body = topic("a")
    body["spec"]["partitions"] = "many"
    index.put(body)
    with pytest.raises(InvalidSpecError, match=r"spec\.partitions"):
        index.resource(topic_key("a"))


LISTED_AT = 10
"""Version of the collection when it was listed; what happens later isn't in the list."""


def test_an_object_that_was_deleted_while_it_was_listed_stays_gone() -> None:
    index = Index()
    index.put(topic("a", version=4))
    assert index.remove(topic_key("a"), "uid-a")
    assert index.replace("Topic", [topic("a", version=4)], version=LISTED_AT) == set()
    assert index.get(topic_key("a")) is None


def test_a_deletion_is_known_even_if_the_object_was_not() -> None:
    index = Index()
    assert not index.remove(topic_key("a"), "uid-a")
    assert index.put(topic("a", version=4)) is Change.NONE
    assert index.put(topic("a", uid="next", version=12)) is Change.OBJECT


def test_an_object_that_was_made_while_others_were_listed_stays() -> None:
    index = Index()
    index.put(topic("made", version=11))
    index.put(topic("replaced", uid="next", version=12))
    assert index.replace("Topic", [topic("replaced", version=3)], version=LISTED_AT) == set()
    assert index.keys("Topic") == [topic_key("made"), topic_key("replaced")]


def test_an_object_as_old_as_the_list_that_is_not_in_it_is_gone_for_good() -> None:
    index = Index()
    index.put(topic("a", version=LISTED_AT))
    assert index.replace("Topic", [], version=LISTED_AT) == {topic_key("a")}
    assert index.put(topic("a", version=LISTED_AT)) is Change.NONE, "such as a late answer to a PATCH"


def test_the_predecessor_of_a_deleted_object_does_not_come_back_either() -> None:
    index = Index()
    index.put(topic("a", uid="old", version=1))
    index.put(topic("a", uid="new", version=5))
    index.remove(topic_key("a"), "new")
    assert index.put(topic("a", uid="old", version=2)) is Change.NONE


def test_what_is_gone_is_not_remembered_for_ever() -> None:
    now = 0.0
    index = Index(monotonic=lambda: now)
    index.remove(topic_key("a"), "uid-a")
    assert index.put(topic("a")) is Change.NONE
    now = 301.0
    assert index.put(topic("a")) is Change.OBJECT, "a mistake would heal"
    assert index._gone == {}


def test_whoever_brings_news_others_hear_of_them() -> None:
    heard: list[tuple[str, Change, bool, bool]] = []

    def listen(key: Key, change: Change, before: Any, after: Any) -> None:
        heard.append((key.name, change, before is not None, after is not None))

    index = Index()
    index.subscribe(listen)
    index.put(topic("a", version=1))
    index.put(topic("a", version=1))
    index.put({**topic("a", version=2), "status": {"topicId": "x"}})
    index.put(topic("a", version=3, finalizers=["ours"]), quietly=True)
    index.replace("Topic", [topic("b", version=4)], version=LISTED_AT)
    assert heard == [
        ("a", Change.OBJECT, False, True),
        ("a", Change.STATUS, True, True),
        ("b", Change.OBJECT, False, True),
        ("a", Change.OBJECT, True, False),
    ]
