"""ConsumerGroup: a group's start position and lag objective; clients create the group itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sluice.api.base import ClusterReference, Model, Status, Timestamp, cel, rules, worded
from sluice.api.topic import NOT_A_TOPIC_NAME, TOPIC_NAME


class StartFrom(StrEnum):
    """Where a group without committed offsets starts."""

    EARLIEST = "Earliest"
    LATEST = "Latest"
    TIME = "Time"


class StartPosition(Model):
    """Where the group starts, before its first member connects."""

    model_config = rules(
        cel("(self.from == 'Time') == has(self.time)", "time is needed with from: Time, and only there"),
    )

    from_: StartFrom = Field(alias="from", default=StartFrom.EARLIEST, description="Earliest, Latest, or Time.")
    time: Timestamp | None = Field(
        default=None, description="With `from: Time`: the first record at or after this time."
    )


class LagObjective(Model):
    """How far behind the group may be."""

    max_records: int | None = Field(default=None, ge=0, description="Records behind the end, over all partitions.")
    max_seconds: int | None = Field(
        default=None, ge=0, description="Age of the oldest record not yet consumed, in seconds, in the worst partition."
    )


class ConsumerGroupSpec(Model):
    """What Sluice does for a consumer group."""

    model_config = rules(
        cel("self.clusterRef == oldSelf.clusterRef", "clusterRef can't be changed: make another ConsumerGroup"),
        cel(
            "has(self.groupId) == has(oldSelf.groupId) && (!has(self.groupId) || self.groupId == oldSelf.groupId)",
            "groupId can't be changed: make another ConsumerGroup",
        ),
    )

    cluster_ref: ClusterReference = Field(description="The cluster that the group consumes from.")
    group_id: str | None = Field(
        default=None, min_length=1, max_length=1000, description="Group id, if another than the object's name."
    )
    topics: list[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=249,
                pattern=TOPIC_NAME,
                json_schema_extra=worded(f"the name of a topic {NOT_A_TOPIC_NAME}"),
            ),
        ]
    ] = Field(
        min_length=1,
        max_length=1000,
        description="Names in Kafka of the topics that the group consumes.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    start_position: StartPosition = Field(
        default=StartPosition(),
        description="Committed for each partition that has no committed offset yet, while the"
        " group is empty, so that no client's `auto.offset.reset` decides. Partitions that are added to a topic later"
        " start at their first record, whatever is said here.",
    )
    lag_objective: LagObjective | None = Field(default=None, description="How far behind the group may be.")


class ConsumerGroupStatus(Status):
    """What is known of the group, without its ever-changing numbers (those are metrics)."""

    group_id: str | None = Field(default=None, description="Group id in Kafka.")
    initialized_topics: list[Annotated[str, Field(min_length=1, max_length=249)]] = Field(
        default_factory=list, description="Topics whose every partition has a committed offset."
    )
