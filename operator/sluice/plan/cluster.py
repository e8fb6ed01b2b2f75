"""Decisions about a MessagingCluster as a whole: version, nodes, addresses of listeners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.api.base import Reason
from sluice.api.broker_config import may_set
from sluice.api.cluster import Listener, ListenerType, MessagingClusterSpec, NodePool
from sluice.manifests import names
from sluice.manifests.node import Node
from sluice.plan.identity import Identity, nodes_of, version_key
from sluice.versions import DEFAULT_KAFKA_VERSION


@dataclass(frozen=True)
class Problem:
    """Something in the spec that isn't done: the rest is, and the condition says this.

    Attributes:
        waiting: it will be done by itself; without it, the user has to change something.
    """

    reason: Reason
    message: str
    waiting: bool = False


def first_version(spec: MessagingClusterSpec) -> str:
    """Kafka version of a cluster that is made now."""
    return spec.version or DEFAULT_KAFKA_VERSION


def target_version(spec: MessagingClusterSpec, identity: Identity) -> tuple[str, Problem | None]:
    """Kafka version that the nodes should run; one that can't read the metadata is refused, and nothing changes."""
    wanted = spec.version or identity.version
    if version_key(wanted) < version_key(identity.format_version):
        return identity.version, Problem(
            Reason.VERSION_NOT_REACHABLE,
            f"Kafka {wanted} can't read metadata formatted by {identity.format_version}, so the nodes stay at "
            f"{identity.version}: put spec.version back, or copy the topics to another cluster",
        )
    return wanted, None


def config_problem(config: Iterable[str]) -> Problem | None:
    """Keys of ``spec.config`` that aren't passed on; the schema refuses them, but may not always have done so."""
    refused = sorted(key for key in config if not may_set(key))
    if not refused:
        return None
    return Problem(
        Reason.INVALID_SPEC,
        f"spec.config has keys that the operator owns, or that aren't names of Kafka configurations, and leaves them "
        f"out: {', '.join(map(repr, refused))}; remove them",
    )


def too_long(cluster: str, nodes: Iterable[Node]) -> Problem | None:
    """Names that Kubernetes wouldn't take."""
    longest = max((node.name for node in nodes), key=len, default="")
    if len(longest) <= names.LONGEST_NODE_NAME:
        return None
    return Problem(
        Reason.INVALID_SPEC,
        f"the name of node {longest} has {len(longest)} characters and may have {names.LONGEST_NODE_NAME}: choose a "
        f"shorter name than {cluster} for the cluster, or shorter names for its pools",
    )


@dataclass(frozen=True)
class Leftover:
    """A broker whose whole pool is gone from the spec, and with it what it is made of: it is left as it is."""

    id: int
    name: str
    pool: str


@dataclass(frozen=True)
class Fleet:
    """Nodes to run.

    Attributes:
        nodes: every node of the spec, and those that the spec no longer has but whose pool it has.
        leftover: the other ones that hold data; controllers can't be among them.
        problem: what of the spec isn't done.
    """

    nodes: Sequence[Node]
    leftover: Sequence[Leftover] = ()
    problem: Problem | None = None


def fleet(
    cluster: str,
    namespace: str,
    pools: Sequence[NodePool],
    firsts: Mapping[str, int],
    existing: Mapping[int, str],
) -> Fleet:
    """Nodes of the spec and those that exist beyond it: taking a broker away would take its partitions along.

    Args:
        cluster: name of the MessagingCluster.
        namespace: its namespace.
        pools: node pools of the spec.
        firsts: first node id of each pool.
        existing: pool by node id of every node that has a volume or a StatefulSet.
    """
    nodes = {node.id: node for node in nodes_of(cluster, namespace, pools, firsts)}
    by_name = {pool.name: pool for pool in pools}
    extra: list[str] = []
    leftover: list[Leftover] = []
    for node_id, pool_name in sorted(existing.items()):
        if node_id in nodes:
            continue
        name = names.node(cluster, pool_name, node_id)
        extra.append(name)
        if pool_name in by_name:
            nodes[node_id] = Node(cluster, namespace, by_name[pool_name], node_id)
        else:
            leftover.append(Leftover(node_id, name, pool_name))
    problem = None
    if extra:
        problem = Problem(
            Reason.SCALE_DOWN_REFUSED,
            f"the spec no longer has {', '.join(extra)}, which may hold the only copies of partitions: they are kept. "
            "Put replicas (or the pool) back; this release doesn't move partitions off a broker",
        )
    return Fleet([nodes[node_id] for node_id in sorted(nodes)], leftover, problem)


@dataclass(frozen=True)
class ServiceAddress:
    """What Kubernetes has assigned to an outside Service; empty until it has."""

    node_port: int | None = None
    host: str | None = None


@dataclass(frozen=True)
class Addresses:
    """Where clients reach the brokers.

    Attributes:
        advertised: ``host:port`` by node id and name of the listener.
        bootstrap: value for ``bootstrap.servers`` by name of the listener.
        hosts: hosts and addresses that certificates of all brokers are valid for, by node id (outside listeners).
        missing: Services that have no address yet.
        incomplete: brokers that lack one of those: what they advertise, or the hosts of their certificates.
    """

    advertised: Mapping[int, Mapping[str, str]]
    bootstrap: Mapping[str, str]
    hosts: Mapping[int, frozenset[str]]
    missing: Sequence[str] = field(default=())
    incomplete: frozenset[int] = frozenset()


def addresses(
    cluster: str,
    namespace: str,
    brokers: Sequence[Node],
    listeners: Sequence[Listener],
    services: Mapping[str, ServiceAddress],
) -> Addresses:
    """Addresses of all listeners, from what has been assigned to their Services (by name)."""
    advertised: dict[int, dict[str, str]] = {node.id: {} for node in brokers}
    hosts: dict[int, set[str]] = {node.id: set() for node in brokers}
    bootstrap: dict[str, str] = {}
    missing: list[str] = []
    incomplete: set[int] = set()
    for listener in listeners:
        if listener.type is ListenerType.CLUSTER_IP:
            host = names.bootstrap_host(cluster, namespace, listener.name)
            bootstrap[listener.name] = f"{host}:{listener.port}"
            for node in brokers:
                advertised[node.id][listener.name] = f"{node.host}:{listener.port}"
            continue
        found: dict[int, str] = {}
        for node in brokers:
            name = names.broker_service(cluster, listener.name, node.id)
            host_port = _outside(listener, services.get(name, ServiceAddress()), str(node.id))
            if host_port is None:
                missing.append(name)
                incomplete.add(node.id)
                continue
            found[node.id] = advertised[node.id][listener.name] = join_host(*host_port)
            hosts[node.id].add(host_port[0])
        name = names.bootstrap_service(cluster, listener.name)
        if "{nodeId}" in (listener.advertised_host or ""):
            # No host stands for all: clients are given every broker.
            if found:
                bootstrap[listener.name] = ",".join(found.values())
            continue
        host_port = _outside(listener, services.get(name, ServiceAddress()), "")
        if host_port is None:
            missing.append(name)
            incomplete.update(node.id for node in brokers)
            continue
        bootstrap[listener.name] = join_host(*host_port)
        for node in brokers:
            hosts[node.id].add(host_port[0])
    by_node = {node: frozenset(names_) for node, names_ in hosts.items()}
    return Addresses(advertised, bootstrap, by_node, missing, frozenset(incomplete))


def address_problem(missing: Sequence[str], listeners: Iterable[Listener]) -> Problem | None:
    """Addresses that Kubernetes hasn't assigned: brokers must tell clients theirs, so they stay as they are."""
    if not missing:
        return None
    outside = ", ".join(listener.name for listener in listeners if listener.type is not ListenerType.CLUSTER_IP)
    return Problem(
        Reason.WAITING_FOR_ADDRESS,
        f"Kubernetes has assigned no address to Service {', '.join(missing[:5])} yet, and brokers must tell clients "
        f"theirs: those that lack one stay as they are, or aren't made yet; listeners from outside: {outside}",
        waiting=True,
    )


def join_host(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _outside(listener: Listener, service: ServiceAddress, node_id: str) -> tuple[str, int] | None:
    host = listener.advertised_host.replace("{nodeId}", node_id) if listener.advertised_host else service.host
    port = service.node_port if listener.type is ListenerType.NODE_PORT else listener.port
    if listener.type is ListenerType.LOAD_BALANCER and service.host is None:
        return None  # a name of one's own leads nowhere before the load balancer is there
    return (host, port) if host and port else None
