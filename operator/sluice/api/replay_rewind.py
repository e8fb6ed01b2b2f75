"""What a ReplayJob of mode Rewind says: whose positions are moved, and where to; and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from sluice.api.base import Model, Timestamp, cel, rules, worded
from sluice.api.topic import NOT_A_TOPIC_NAME, TOPIC_NAME

RESERVED_GROUPS: Final = "sluice-"
"""How names of groups start that are Sluice's own: with the positions of a copy moved, records would come twice."""
SHOWN: Final = 100
"""Positions that a status shows at most."""


class Edge(StrEnum):
    """Named place in every partition."""

    EARLIEST = "Earliest"
    LATEST = "Latest"


class RewindTo(Model):
    """Where the positions are moved to. What lies outside of what a partition has is brought to its nearer end."""

    model_config = rules(
        cel(
            "[has(self.offset), has(self.time), has(self.at), has(self.shift), has(self.snapshot)]"
            ".filter(x, x).size() == 1",
            "say exactly one of offset, time, at, shift and snapshot",
        ),
    )

    offset: int | None = Field(default=None, ge=0, description="This offset, in every partition.")
    time: Timestamp | None = Field(
        default=None, description="The first record whose timestamp is at or after this time; the end if there is none."
    )
    at: Edge | None = Field(
        default=None, description="`Earliest`: the first record there is. `Latest`: the last stable offset."
    )
    shift: int | None = Field(
        default=None, description="So many offsets forward from where the group is; backward if negative."
    )
    snapshot: str | None = Field(
        default=None,
        min_length=1,
        max_length=320,
        description="The positions as they were before another Rewind of this namespace: the name in its `status.rewind.snapshot`.",
    )


class RewindTopic(Model):
    """Partitions of one topic."""

    topic: str = Field(
        min_length=1,
        max_length=249,
        pattern=TOPIC_NAME,
        json_schema_extra=worded(f"topic {NOT_A_TOPIC_NAME}"),
        description="Name in Kafka of the topic.",
    )
    partitions: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=1000, description="Partitions; all that the group has a position in if empty."
    )


class Rewind(Model):
    """Moves the committed positions of a group, while it has no members."""

    model_config = rules(
        cel(
            f"!self.group.startsWith('{RESERVED_GROUPS}')",
            "group can't start with sluice-: Sluice keeps such groups for itself; choose another group",
        ),
    )

    group: str = Field(min_length=1, max_length=1000, description="Name in Kafka of the consumer group.")
    topics: list[RewindTopic] = Field(
        default_factory=list,
        max_length=100,
        description="Topics whose positions are moved; all that the group has a position in if empty.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["topic"]},
    )
    to: RewindTo = Field(description="Where to.")
    wait_for_inactive_seconds: int = Field(
        default=0,
        ge=0,
        le=604_800,
        description="How long to wait for the group to have no members. With 0 a group with members is refused at once.",
    )


class RewoundPosition(Model):
    """The way of one position."""

    topic: str = Field(description="Topic.")
    partition: int = Field(description="Partition.")
    from_: int | None = Field(
        alias="from", default=None, description="The committed offset before; none if there was none."
    )
    to: int = Field(description="The committed offset afterwards.")


class RewindStatus(Model):
    """The plan of a Rewind. All of it is in the ledger; here are the numbers, and the longest ways."""

    hash: str = Field(description="Hash of this plan.")
    planned_at: Timestamp = Field(description="When it was made.")
    snapshot: str | None = Field(
        default=None, description="Name of the snapshot that has all of the group's positions as they were before."
    )
    moved: int = Field(description="Positions that are moved. The others are where they should be.")
    backward: int = Field(description="Offsets between new and old positions where they go back: consumed again.")
    forward: int = Field(description="Offsets between old and new positions where they go forward: never consumed.")
    positions: list[RewoundPosition] = Field(
        default_factory=list,
        description="The positions that are moved, in order; of more than 100 those with the longest ways.",
    )
    warnings: list[str] = Field(default_factory=list, description="What to know before it is done.")
