"""One thing's error in a request about many stays its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.protocol.api_message import ApiMessage

from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.plan.observed import (
    GroupDescription,
    OffsetAndTime,
    PartitionDescription,
    TopicDescription,
    TopicPartition,
)

NO_ERROR, INVALID_TOPIC, NOT_ALLOWED, NOT_LEADER, GROUP_NOT_ALLOWED, GROUP_NOT_FOUND = 0, 17, 29, 6, 30, 69


class Canned(KafkaAdmin):
    """Answers each kind of request with what it was given, or with what a function makes of request and broker."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        super().__init__(ConnectionSettings(("a:1",)))
        self.answers = answers
        self.asked: list[tuple[str, int | None]] = []

    async def read(self, request: ApiMessage, what: str, *, node: int | None = None) -> Any:
        name = request.name.removesuffix("Request")
        self.asked.append((name, node))
        answer = self.answers[name]
        answer = answer(request, node) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    write = read

    async def version_of(self, request: type[ApiMessage]) -> int:
        return 9


def thing(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**values)


def described(name: str, error: int = NO_ERROR) -> SimpleNamespace:
    return thing(name=name, error_code=error, topic_id=None, is_internal=False, partitions=[])


def topic(name: str, *leaders: int | None) -> TopicDescription:
    return TopicDescription(
        name, "id", tuple(PartitionDescription(n, leader, 0, (0,), (0,)) for n, leader in enumerate(leaders))
    )


async def test_a_name_that_kafka_refuses_leaves_the_other_topics_described() -> None:
    answer = thing(topics=[described("bad", INVALID_TOPIC), described("hidden", NOT_ALLOWED), described("good")])
    admin = Canned({"Metadata": answer})
    answers = await admin.each_topic(["bad", "hidden", "good"])
    assert list(answers.found) == ["good"]
    assert {name: error.code for name, error in answers.errors.items()} == {
        "bad": "INVALID_TOPIC",
        "hidden": "TOPIC_AUTHORIZATION_FAILED",
    }
    assert all(isinstance(error, KafkaRefusedError) for error in answers.errors.values())
    with pytest.raises(KafkaRefusedError, match="topic bad"):
        await admin.describe_topics(["bad", "good"])


async def test_a_configuration_that_we_may_not_see_leaves_the_others() -> None:
    def result(name: str, error: int) -> SimpleNamespace:
        return thing(resource_name=name, error_code=error, error_message=None, configs=[])

    answers = await Canned(
        {"DescribeConfigs": thing(results=[result("hidden", NOT_ALLOWED), result("good", NO_ERROR)])}
    ).each_topic_config({"hidden": ["a"], "good": ["a"]})
    assert (answers.found, list(answers.errors)) == ({"good": {}}, ["hidden"])


async def test_offsets_are_found_whatever_other_partitions_or_brokers_do() -> None:
    def offsets(request: Any, node: int | None) -> Any:
        if node == 2:
            return KafkaUnreachableError("broker 2 is silent")
        return thing(
            topics=[
                thing(
                    name=asked.name,
                    partitions=[
                        thing(
                            partition_index=part.partition_index,
                            error_code=NOT_LEADER if part.partition_index == 1 else NO_ERROR,
                            offset=7,
                            timestamp=-1,
                        )
                        for part in asked.partitions
                    ],
                )
                for asked in request.topics
            ]
        )

    places = [TopicPartition("a", number) for number in range(5)]
    topics = {"a": topic("a", 1, 1, 2, None)}
    answers = await Canned({"ListOffsets": offsets}).each_offset(dict.fromkeys(places, -1), topics=topics)
    assert answers.found == {places[0]: OffsetAndTime(7, None)}
    assert set(answers.errors) == set(places[1:])
    assert "broker 2 is silent" in str(answers.errors[places[2]])
    assert "has no leader" in str(answers.errors[places[3]])
    assert "doesn't exist" in str(answers.errors[places[4]])


def coordinators(request: Any, _: int | None) -> Any:
    return thing(
        coordinators=[
            thing(key=key, node_id=1, error_code=GROUP_NOT_ALLOWED if key == "secret" else NO_ERROR, error_message=None)
            for key in request.coordinator_keys
        ]
    )


async def test_a_group_that_we_may_not_see_leaves_the_others() -> None:
    def fetched(request: Any, _: int | None) -> Any:
        partition = thing(partition_index=0, error_code=NO_ERROR, committed_offset=5)
        groups = [
            thing(
                group_id=group.group_id,
                error_code=GROUP_NOT_ALLOWED if group.group_id == "half" else NO_ERROR,
                topics=[thing(name="a", partitions=[partition])],
            )
            for group in request.groups
        ]
        return thing(API_VERSION=9, groups=groups)

    admin = Canned({"FindCoordinator": coordinators, "OffsetFetch": fetched})
    answers = await admin.each_group_offsets(dict.fromkeys(["secret", "half", "good"]))
    assert answers.found == {"good": {TopicPartition("a", 0): 5}}
    assert {name: error.code for name, error in answers.errors.items()} == {
        "secret": "GROUP_AUTHORIZATION_FAILED",
        "half": "GROUP_AUTHORIZATION_FAILED",
    }


async def test_a_move_that_we_may_not_ask_for_is_refused_partition_by_partition() -> None:
    admin = Canned({"AlterPartitionReassignments": thing(error_code=31, error_message=None, responses=[])})
    place = TopicPartition("a", 0)
    (error,) = (await admin.reassign({place: [1]})).values()
    assert isinstance(error, KafkaRefusedError)


async def test_groups_of_the_new_protocols_are_not_taken_for_dead() -> None:
    def classic(request: Any, _: int | None) -> Any:
        return thing(groups=[thing(group_id=name, error_code=GROUP_NOT_FOUND) for name in request.groups])

    listed = thing(
        error_code=NO_ERROR,
        groups=[
            thing(group_id="new", group_state="Stable", group_type="consumer"),
            thing(group_id="queue", group_state="Empty", group_type="share"),
        ],
    )
    admin = Canned({"FindCoordinator": coordinators, "DescribeGroups": classic, "ListGroups": listed})
    found = await admin.describe_groups(["new", "queue", "nobody"])
    assert found == {
        "new": GroupDescription("new", "Stable", "consumer", 0),
        "queue": GroupDescription("queue", "Empty", "share", 0),
        "nobody": GroupDescription("nobody", "Dead", "", 0),
    }
    assert not found["new"].empty
