"""What every kind shares: naming, references, conditions, and how a CEL rule is attached to a model."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

GROUP: Final = "sluice.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FIELD_MANAGER: Final = "sluice"
"""Field manager of everything that the operator applies."""
CLI_FIELD_MANAGER: Final = "sluice-cli"
"""Field manager of what a human asks for through the CLI; GitOps tools don't own these fields."""
PAUSED_ANNOTATION: Final = f"{GROUP}/paused"
"""``"true"`` on any object suspends its reconciliation."""


class Model(BaseModel):
    """Base of every part of a spec or status: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def manifest(self) -> dict[str, Any]:
        """This part as it stands in YAML: camelCase, JSON types, unset optionals left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def problems(error: ValidationError) -> list[str]:
    """What is wrong with a spec, field by field."""
    return [
        f"{'.'.join(map(str, ('spec', *found['loc'])))}: {found['msg'].removeprefix('Value error, ')}"
        for found in error.errors()
    ]


def cel(rule: str, message: str, *, field_path: str | None = None) -> JsonDict:
    """One CEL validation rule of a CRD schema (KEP-2876): the API server evaluates it at admission.

    ``rule`` sees the part as ``self`` and, in a transition rule, its former state as ``oldSelf``; ``message`` says
    what to do.
    """
    validation: JsonDict = {"rule": rule, "message": message}
    if field_path:
        validation["fieldPath"] = field_path
    return validation


def rules(*validations: JsonDict) -> ConfigDict:
    """Model configuration that attaches ``validations`` to the generated schema of a model."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": list(validations)})


PATTERN_MESSAGE: Final = "x-sluice-pattern-message"
"""Keyword for the sentence that a value gets which doesn't match its field's ``pattern``; `crd.py` resolves it."""


def worded(message: str) -> JsonDict:
    """Extra of a field with a ``pattern``: ``message`` is what users read instead of the expression."""
    return {PATTERN_MESSAGE: message}


FreeForm = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A part that Kubernetes itself defines (a toleration, say) and that is passed on as it is."""

Timestamp = datetime.datetime
"""RFC 3339 in YAML, aware in Python."""


ConfigValue = Annotated[str, Field(max_length=32_768)]
"""Value of a Kafka configuration."""
MAX_CONFIGS: Final = 500
"""Entries in a map of Kafka configurations; without a limit the API server can't bound what CEL rules cost."""
CONFIG_KEY: Final = r"[a-zA-Z0-9._-]+"
"""Name of a Kafka configuration. Anything else could stand for another key, or for a line of its own, in a file."""
CONFIG_KEYS: Final[tuple[JsonDict, ...]] = (
    cel("!('' in self)", "config has an empty key: give it the name of a Kafka configuration"),
    cel(
        f"self.all(k, k == '' || k.matches('^{CONFIG_KEY}$'))",
        "config has a key with a character that no Kafka configuration has: use letters, digits, ., _ and - only",
    ),
)
"""Rules on a map of Kafka configurations."""


class ClusterReference(Model):
    """Which MessagingCluster an object belongs to."""

    name: str = Field(description="Name of the MessagingCluster.", min_length=1, max_length=253)
    namespace: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="Namespace of the MessagingCluster, if another than the object's own. The cluster must allow it"
        " in `spec.allowedNamespaces`.",
    )


class SecretKeyReference(Model):
    """One key of a Secret in the same namespace."""

    name: str = Field(description="Name of the Secret.", min_length=1, max_length=253)
    key: str = Field(description="Key in the Secret's data.", min_length=1, max_length=253)


class ConditionType(StrEnum):
    """Conditions in use: ``Ready``, kstatus's ``Reconciling`` and ``Stalled``, and some of a kind's own."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    LAG_WITHIN_OBJECTIVE = "LagWithinObjective"
    PLANNED = "Planned"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """The closed set of reasons that conditions and Events give."""

    # every kind
    READY = "Ready"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    INVALID_SPEC = "InvalidSpec"
    CLUSTER_NOT_FOUND = "ClusterNotFound"
    CLUSTER_NOT_READY = "ClusterNotReady"
    CLUSTER_REFUSES_NAMESPACE = "ClusterRefusesNamespace"
    KAFKA_UNREACHABLE = "KafkaUnreachable"
    KAFKA_REFUSED = "KafkaRefused"
    CONFLICT = "Conflict"
    INTERNAL_ERROR = "InternalError"
    # MessagingCluster
    CREATING_NODES = "CreatingNodes"
    WAITING_FOR_NODES = "WaitingForNodes"
    WAITING_FOR_ADDRESS = "WaitingForAddress"
    ROLLING = "Rolling"
    ROLL_BLOCKED = "RollBlocked"
    IDENTITY_MISMATCH = "IdentityMismatch"
    VERSION_NOT_REACHABLE = "VersionNotReachable"
    SCALE_DOWN_REFUSED = "ScaleDownRefused"
    # Topic
    PARTITION_DECREASE = "PartitionDecrease"
    PARTITION_INCREASE_REFUSED = "PartitionIncreaseRefused"
    TOO_FEW_BROKERS = "TooFewBrokers"
    REASSIGNING = "Reassigning"
    # ConsumerGroup
    WITHIN_OBJECTIVE = "WithinObjective"
    LAGGING = "Lagging"
    LAG_UNKNOWN = "LagUnknown"
    POSITION_OUT_OF_RANGE = "PositionOutOfRange"
    TOPIC_NOT_FOUND = "TopicNotFound"
    # ReplayJob
    PLANNED = "Planned"
    AWAITING_APPROVAL = "AwaitingApproval"
    APPROVED = "Approved"
    GLASS_BROKEN = "GlassBroken"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    CANCELLED = "Cancelled"
    COMPLETED = "Completed"
    ALREADY_COMPLETED = "AlreadyCompleted"
    REFUSED = "Refused"
    WORKER_FAILED = "WorkerFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    POSITION_LOST = "PositionLost"
    RANGE_LOST = "RangeLost"
    GROUP_ACTIVE = "GroupActive"
    UNDONE = "Undone"


class Condition(Model):
    """A condition in the shape of ``metav1.Condition``."""

    type: str = Field(description="What the condition is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="One word for why, from a closed set.")
    message: str = Field(default="", description="A sentence: what is so, why, and what to do about it.")
    observed_generation: int | None = Field(
        default=None,
        description="The generation of the spec that this condition speaks of.",
        alias="observedGeneration",
    )
    last_transition_time: str = Field(description="When `status` last changed.", alias="lastTransitionTime")


class Status(Model):
    """What every kind's status starts with."""

    observed_generation: int | None = Field(
        default=None, description="The generation of the spec that this status speaks of."
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Conditions, one of each type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
