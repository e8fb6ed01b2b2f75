"""A watched object, read once into types: metadata that Sluice uses, the spec, and the last status."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from sluice.api.base import API_VERSION, PAUSED_ANNOTATION, ClusterReference, Model, Status, problems
from sluice.api.cluster import MessagingClusterSpec, MessagingClusterStatus
from sluice.api.group import ConsumerGroupSpec, ConsumerGroupStatus
from sluice.api.replay import ReplayJobSpec, ReplayJobStatus
from sluice.api.topic import TopicSpec, TopicStatus
from sluice.api.user import UserSpec, UserStatus


class Key(NamedTuple):
    """Which object: what queues and indexes are keyed by."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Kind:
    """A kind of this API: its names, and the models of its spec and status."""

    kind: str
    plural: str
    short: str
    spec: type[Model]
    status: type[Status]


KINDS: Final[dict[str, Kind]] = {
    kind.kind: kind
    for kind in (
        Kind("MessagingCluster", "messagingclusters", "smc", MessagingClusterSpec, MessagingClusterStatus),
        Kind("Topic", "topics", "stp", TopicSpec, TopicStatus),
        Kind("ConsumerGroup", "consumergroups", "scg", ConsumerGroupSpec, ConsumerGroupStatus),
        Kind("ReplayJob", "replayjobs", "srj", ReplayJobSpec, ReplayJobStatus),
        Kind("User", "users", "sus", UserSpec, UserStatus),
    )
}

SpecT = TypeVar("SpecT", bound=Model)
StatusT = TypeVar("StatusT", bound=Status)


class InvalidSpecError(Exception):
    """The stored spec can't be read; its text says which fields and why. Not retried until the object changes."""


@dataclass(frozen=True)
class Resource(Generic[SpecT, StatusT]):
    """One object of a kind of this API."""

    key: Key
    uid: str
    generation: int
    resource_version: str
    created: datetime.datetime
    spec: SpecT
    status: StatusT
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.key.name

    @property
    def namespace(self) -> str:
        """Namespace of the object."""
        return self.key.namespace

    @property
    def paused(self) -> bool:
        """Whether a human has suspended its reconciliation."""
        return self.annotations.get(PAUSED_ANNOTATION) == "true"

    def owner_reference(self) -> dict[str, Any]:
        """Reference that makes Kubernetes delete a dependent object with this one."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.key.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


Cluster = Resource[MessagingClusterSpec, MessagingClusterStatus]
Topic = Resource[TopicSpec, TopicStatus]
ConsumerGroup = Resource[ConsumerGroupSpec, ConsumerGroupStatus]
ReplayJob = Resource[ReplayJobSpec, ReplayJobStatus]
User = Resource[UserSpec, UserStatus]


def key_of(body: Mapping[str, Any]) -> Key:
    """Key of an object as it comes from the API server."""
    metadata = body["metadata"]
    return Key(body["kind"], metadata["namespace"], metadata["name"])


def cluster_key(reference: ClusterReference, namespace: str) -> Key:
    """Key of the MessagingCluster that an object in ``namespace`` refers to."""
    return Key("MessagingCluster", reference.namespace or namespace, reference.name)


def parse(body: Mapping[str, Any]) -> Resource[Any, Any]:
    """Read an object as it comes from the API server.

    Raises:
        InvalidSpecError: the spec doesn't fit the model, as an object stored under another version's CRD may not.
    """
    key = key_of(body)
    kind = KINDS[key.kind]
    metadata = body["metadata"]
    try:
        spec = kind.spec.model_validate(body.get("spec", {}))
    except ValidationError as error:
        raise InvalidSpecError("; ".join(problems(error))) from error
    try:
        status = kind.status.model_validate(body.get("status") or {})
    except ValidationError:
        # A status is only a report: one that another version wrote is observed and written anew.
        status = kind.status()
    return Resource(
        key=key,
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        resource_version=metadata.get("resourceVersion", ""),
        created=datetime.datetime.fromisoformat(metadata["creationTimestamp"]),
        spec=spec,
        status=status,
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers", ())),
        annotations=metadata.get("annotations") or {},
        labels=metadata.get("labels") or {},
    )
