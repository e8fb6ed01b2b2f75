"""Identity of a cluster: what its volumes belong to. Made once, kept in a Secret that outlives the object.

The entrypoint of the broker image reads it too (``cluster-id``, ``format-version``, ``initial-controllers``,
``bootstrapped``): it decides how an empty disk is formatted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sluice.api.cluster import NodePool
from sluice.manifests import names
from sluice.manifests.node import Node
from sluice.plan.observed import FETCH_TIMEOUT_MS, QuorumDescription
from sluice.versions import KAFKA_VERSIONS

FIRST_IDS_APART = 100
"""Node ids of a pool start at a multiple of it; a pool has at most so many nodes."""


class IdentityError(Exception):
    """The identity can't be read or doesn't fit the volumes; its text says what to do."""


@dataclass(frozen=True)
class Identity:
    """What is recorded of a cluster.

    Attributes:
        cluster_id: Kafka's cluster id.
        pools: first node id of each pool that there ever was; never given to another one.
        directories: directory ids of the first controllers, by node id.
        initial_controllers: value of the storage tool's ``--initial-controllers``; empty for a recovered identity.
        format_version: Kafka version whose features the cluster was formatted with.
        version: Kafka version that was decided on last.
        bootstrapped: the first quorum has been seen complete: from then on nobody makes a new one.
    """

    cluster_id: str
    pools: Mapping[str, int]
    directories: Mapping[int, str]
    initial_controllers: str
    format_version: str
    version: str
    bootstrapped: bool = False

    def data(self) -> dict[str, str]:
        """Values of the Secret."""
        return {
            "cluster-id": self.cluster_id,
            "pools": json.dumps(dict(self.pools), sort_keys=True),
            "directories": json.dumps({str(node): self.directories[node] for node in sorted(self.directories)}),
            "initial-controllers": self.initial_controllers,
            "format-version": self.format_version,
            "version": self.version,
            "bootstrapped": "true" if self.bootstrapped else "false",
        }


def new(
    cluster: str, namespace: str, pools: Sequence[NodePool], version: str, random_id: Callable[[], str]
) -> Identity:
    """Identity of a cluster that has never been.

    Args:
        cluster: name of the MessagingCluster.
        namespace: its namespace.
        pools: its node pools.
        version: Kafka version that it starts with.
        random_id: gives a random UUID in Kafka's notation at each call.
    """
    first_ids = with_pools({}, pools)
    nodes = nodes_of(cluster, namespace, pools, first_ids)
    directories = {node.id: random_id() for node in nodes if node.is_controller}
    literal = ",".join(
        f"{node.id}@{node.host}:{names.CONTROLLER_PORT}:{directories[node.id]}" for node in nodes if node.is_controller
    )
    return Identity(random_id(), first_ids, directories, literal, version, version)


def read(data: Mapping[str, str]) -> Identity:
    """The identity in a Secret's values.

    Raises:
        IdentityError: a value is missing or damaged.
    """
    try:
        identity = Identity(
            cluster_id=data["cluster-id"].strip(),
            pools={str(pool): int(first) for pool, first in json.loads(data["pools"]).items()},
            directories={int(node): str(name) for node, name in json.loads(data["directories"]).items()},
            initial_controllers=data["initial-controllers"].strip(),
            format_version=data["format-version"].strip(),
            version=data.get("version", data["format-version"]).strip(),
            bootstrapped=data["bootstrapped"].strip() == "true",
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise IdentityError(
            f"the identity Secret is damaged ({type(error).__name__}: {error}): restore it from a backup, or delete it "
            "and it is made anew from what is written on the volumes"
        ) from error
    if not identity.cluster_id:
        raise IdentityError("the identity Secret has an empty cluster-id: restore it from a backup, or delete it")
    return identity


@dataclass(frozen=True)
class VolumeRecord:
    """What a node's volume says about the cluster that it belongs to."""

    pool: str
    node_id: int
    cluster_id: str
    format_version: str


def recovered(volumes: Sequence[VolumeRecord], version: str | None) -> Identity:
    """Identity of a cluster whose Secret is lost, from what is written on its volumes.

    It counts as bootstrapped: data may be there, so that no empty disk may ever start a new quorum.

    Raises:
        IdentityError: the volumes are of different clusters.
    """
    ids = {volume.cluster_id for volume in volumes}
    if len(ids) != 1:
        raise IdentityError(
            f"the volumes belong to different Kafka clusters ({', '.join(sorted(ids))}) and the identity Secret is "
            "gone: restore it from a backup, or delete the volumes that don't belong here"
        )
    firsts: dict[str, int] = {}
    for volume in volumes:
        first = volume.node_id - volume.node_id % FIRST_IDS_APART
        firsts[volume.pool] = min(first, firsts.get(volume.pool, first))
    formatted = max((volume.format_version for volume in volumes), key=version_key)
    return Identity(
        cluster_id=ids.pop(),
        pools=firsts,
        directories={},
        initial_controllers="",
        format_version=formatted,
        version=version or max(formatted, KAFKA_VERSIONS[-1], key=version_key),
        bootstrapped=True,
    )


def with_pools(known: Mapping[str, int], pools: Iterable[NodePool]) -> dict[str, int]:
    """First node ids, with the next free hundreds for pools that have none yet."""
    firsts = dict(known)
    for pool in pools:
        if pool.name not in firsts:
            firsts[pool.name] = max((first + FIRST_IDS_APART for first in firsts.values()), default=0)
    return firsts


def nodes_of(cluster: str, namespace: str, pools: Sequence[NodePool], firsts: Mapping[str, int]) -> list[Node]:
    """Every node that the pools ask for."""
    return [
        Node(cluster, namespace, pool, firsts[pool.name] + number) for pool in pools for number in range(pool.replicas)
    ]


def quorum_complete(identity: Identity, quorum: QuorumDescription) -> bool:
    """Whether the first quorum is there as it was planned: a leader that all first controllers follow just now.

    That they are its voters says nothing: they are from the first election on, which needs only most of them. One that
    is formatted later must still be formatted as an initial one, with the directory id that the others know.
    """
    leader = quorum.leader
    if leader is None:
        return False
    heard_of = {
        voter.id: voter.directory_id
        for voter in quorum.voters
        if voter.id == leader.id or voter.last_fetch_ms >= leader.last_fetch_ms - FETCH_TIMEOUT_MS
    }
    return all(heard_of.get(node) == directory for node, directory in identity.directories.items())


def changed(identity: Identity, **values: object) -> Identity:
    """The identity with other values."""
    return dataclasses.replace(identity, **values)  # type: ignore[arg-type]


def version_key(version: str) -> tuple[int, ...]:
    """Kafka versions in order."""
    return tuple(int(part) for part in version.split("."))
