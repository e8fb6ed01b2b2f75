"""Topic: one Kafka topic, its partitions and configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import Field

from sluice.api.base import CONFIG_KEYS, MAX_CONFIGS, ClusterReference, ConfigValue, Model, Status, cel, rules, worded
from sluice.api.replay_policy import ReplayPolicy

TOPIC_NAME: Final = r"^[a-zA-Z0-9._-]+$"
"""Characters that Kafka allows in the name of a topic."""
NOT_A_TOPIC_NAME: Final = "has a character that Kafka doesn't allow: use letters, digits, ., _ and - only"


class DeletionPolicy(StrEnum):
    """What becomes of the thing in Kafka when its Kubernetes object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class TopicSpec(Model):
    """What a topic should be."""

    model_config = rules(
        cel(
            "has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)",
            "topicName can't be changed: make another Topic",
        ),
        cel("self.clusterRef == oldSelf.clusterRef", "clusterRef can't be changed: make another Topic"),
        cel(
            "!has(self.topicName) || (self.topicName != '.' && self.topicName != '..')",
            "topicName can't be . or .. (Kafka reserves them): choose another name",
        ),
        cel(
            "!has(self.topicName) || (!self.topicName.startsWith('__') && !self.topicName.startsWith('sluice-'))",
            "topicName can't start with __ or sluice-: Kafka and Sluice have such topics for themselves; choose another name",
        ),
        cel(
            "!has(self.config) || !('min.insync.replicas' in self.config) || "
            "!self.config['min.insync.replicas'].matches('^[0-9]{1,5}$') || int(self.config['min.insync.replicas']) <= self.replicas",
            "config min.insync.replicas is above replicas: no more can be in sync than there are (Kafka 4 takes the smaller number, older versions refuse writes with acks=all); lower it, or raise replicas",
            field_path=".config",
        ),
        cel(
            "!has(self.config) || !('min.insync.replicas' in self.config) || self.config['min.insync.replicas'].matches('^[1-9][0-9]{0,4}$')",
            "config min.insync.replicas has to be a whole number from 1",
            field_path=".config",
        ),
    )

    cluster_ref: ClusterReference = Field(description="The cluster that holds the topic.")
    topic_name: str | None = Field(
        default=None,
        description="Name in Kafka, if another than the object's. Letters, digits, `.`, `_` and `-`, at most 249.",
        pattern=TOPIC_NAME,
        json_schema_extra=worded(f"topicName {NOT_A_TOPIC_NAME}"),
        min_length=1,
        max_length=249,
    )
    partitions: int = Field(
        default=1, ge=1, le=10_000, description="Number of partitions. Can be raised, never lowered."
    )
    allow_partition_increase: bool = Field(
        default=False,
        description="Consent to raising `partitions` of a topic that was ever written to: keys will be placed on"
        " other partitions from then on, which breaks the order per key across the change.",
    )
    replicas: int = Field(default=3, ge=1, le=32_767, description="Replicas of each partition.")
    config: dict[str, ConfigValue] = Field(
        default_factory=dict,
        max_length=MAX_CONFIGS,
        description="Topic configuration, as in Kafka's documentation; values are strings.",
        json_schema_extra={"x-kubernetes-validations": [*CONFIG_KEYS]},
    )
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="What becomes of the topic in Kafka, and all its records, when this object is deleted.",
    )
    replay_policy: ReplayPolicy | None = Field(
        default=None,
        description="What replays into this topic need. The cluster's policy holds as well: the stricter one counts.",
    )


class TopicStatus(Status):
    """What a topic is."""

    topic_name: str | None = Field(default=None, description="Name in Kafka.")
    topic_id: str | None = Field(default=None, description="Kafka's id of the topic; a recreated topic has another.")
    partitions: int | None = Field(default=None, description="Number of partitions in Kafka.")
    replicas: int | None = Field(default=None, description="Replicas of a partition in Kafka.")
    config_keys: list[str] = Field(
        default_factory=list,
        description="Configuration keys that Sluice has set: one that leaves the spec is reset to the cluster's default,"
        " all others are left as they are.",
    )
