"""What is observed of Kafka: plain values that the clients return and that plans decide on."""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import Final, NamedTuple


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


def kafka_id(value: uuid.UUID) -> str:
    """A UUID as Kafka prints it: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Broker:
    """A registered broker; ``fenced`` ones are registered but don't serve (not told by brokers before 4.0)."""

    id: int
    host: str
    port: int
    rack: str | None = None
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """A cluster's identity and brokers. In KRaft ``controller_id`` is only a broker that forwards to the controller."""

    cluster_id: str
    controller_id: int | None
    brokers: tuple[Broker, ...]

    @property
    def active_brokers(self) -> tuple[Broker, ...]:
        """Brokers that serve."""
        return tuple(broker for broker in self.brokers if not broker.fenced)


FETCH_TIMEOUT_MS: Final = 2_000
"""``controller.quorum.fetch.timeout.ms``: a follower that hears nothing from the leader for longer starts an election.
One that works fetches at least every 0.5 s, also when there is nothing new, and its times only advance then."""


@dataclass(frozen=True, slots=True)
class QuorumReplica:
    """A controller (voter) or an observer of the metadata log. Times are Unix milliseconds, -1 if unknown."""

    id: int
    directory_id: str
    log_end_offset: int
    last_fetch_ms: int
    last_caught_up_ms: int


@dataclass(frozen=True, slots=True)
class QuorumDescription:
    """The KRaft quorum as its leader sees it."""

    leader_id: int
    leader_epoch: int
    high_watermark: int
    voters: tuple[QuorumReplica, ...]
    observers: tuple[QuorumReplica, ...]

    @property
    def leader(self) -> QuorumReplica | None:
        """The active controller as a voter: its times are its clock when it answered."""
        return next((voter for voter in self.voters if voter.id == self.leader_id), None)

    def lag(self, replica: QuorumReplica) -> int:
        """Records of the metadata log that ``replica`` is behind the leader."""
        end = self.leader.log_end_offset if self.leader is not None else self.high_watermark
        return max(0, end - replica.log_end_offset)


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """A partition's placement; ``leader`` is None while there is none."""

    id: int
    leader: int | None
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    offline: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic and its partitions, in order of their numbers; ``id`` is empty before Kafka 2.8."""

    name: str
    id: str
    partitions: tuple[PartitionDescription, ...]
    internal: bool = False

    @property
    def replication_factor(self) -> int:
        """Replicas of the partition that has most."""
        return max((len(partition.replicas) for partition in self.partitions), default=0)


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """A configuration value. ``value`` is None where Kafka keeps it secret; ``overridden``: set on the thing itself."""

    value: str | None
    overridden: bool
    read_only: bool = False
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to be made; Kafka places the replicas, spread over racks."""

    name: str
    partitions: int
    replicas: int
    config: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reassignment:
    """A running reassignment of a partition."""

    replicas: tuple[int, ...]
    adding: tuple[int, ...]
    removing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogDirReplica:
    """A replica on a broker's disk. ``offset_lag`` is records behind the high watermark (0 on the leader)."""

    broker: int
    topic: str
    partition: int
    size_bytes: int
    offset_lag: int


SHARE: Final = "share"
"""`protocol_type` of share groups, which have no committed offsets."""
STREAMS: Final = "streams"
"""`protocol_type` of groups of Kafka Streams' newer protocol."""


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group as its coordinator sees it. A group that doesn't exist is ``Dead`` without members."""

    group_id: str
    state: str
    protocol_type: str
    members: int

    @property
    def empty(self) -> bool:
        """Whether no client is a member: only then can offsets be altered."""
        return self.members == 0 and self.state in ("Empty", "Dead")


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A client in a group; ``host`` is its address as the coordinator saw it."""

    member_id: str
    client_id: str
    host: str


@dataclass(frozen=True, slots=True)
class OffsetAndTime:
    """An offset found by time: ``offset`` is None if no record is that late; ``timestamp_ms`` is the record's own."""

    offset: int | None
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class ProducerState:
    """An active producer of a partition; ``transaction_start`` is None when no transaction is open."""

    producer_id: int
    producer_epoch: int
    last_timestamp_ms: int
    coordinator_epoch: int
    transaction_start: int | None


@dataclass(frozen=True, slots=True)
class TransactionListing:
    """A transactional id known to a coordinator, and the state of its last transaction."""

    transactional_id: str
    producer_id: int
    state: str


class AclBinding(NamedTuple):
    """One ACL, with the names that the User kind uses (``Topic``, ``Literal``, ``Read``, ``Allow``)."""

    resource: str
    name: str
    pattern: str
    principal: str
    host: str
    operation: str
    permission: str
