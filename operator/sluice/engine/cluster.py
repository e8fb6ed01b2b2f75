"""Reconciler of MessagingClusters: identity → keys → nodes → restarts → dynamic configuration → status."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sluice.api.base import Condition, Reason
from sluice.api.cluster import ListenerStatus, MessagingClusterStatus, NodeStatus
from sluice.api.objects import Cluster, Key
from sluice.engine import status
from sluice.engine.cluster_identity import Keys, ensure_identity, record
from sluice.engine.cluster_nodes import Desired, NodeBuilder, delete_unused_files, nodes_present
from sluice.engine.cluster_objects import ClusterObjects
from sluice.engine.cluster_roll import kafka_state, node_states, pod_health, recently_started, restart
from sluice.engine.errors import ChangedError, ClusterNotReadyError, UserError, WaitingError
from sluice.engine.finalizers import fresh
from sluice.engine.reconciler import Context, Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.manifests import names
from sluice.plan import broker_config, identity
from sluice.plan.cluster import Problem, config_problem, fleet, target_version, too_long
from sluice.plan.identity import Identity
from sluice.plan.observed import ClusterDescription, LogDirReplica
from sluice.plan.rollout import Done, Health, NodeState, Restart, Wait, decide

READY_AGAIN: Final = 60.0
"""Seconds between two looks at a cluster that is as it should be (its lag metrics are measured then)."""
PROGRESS_AGAIN: Final = 30.0
"""Seconds until the next look when events of Kubernetes tell of progress anyway."""
ADDRESS_AGAIN: Final = 10.0
"""Seconds until the next look when a Service has no address yet (events tell of it too)."""
KAFKA_AGAIN: Final = 3.0
"""Seconds until the next look when only Kafka can tell of progress."""


class Probing(Protocol):
    """The built-in probe, as far as it has to know which clusters there are."""

    def update(self, cluster: Cluster) -> None:
        """A cluster is reachable, or its spec has changed."""
        ...

    def forget(self, key: Key) -> None:
        """A cluster is gone."""
        ...


@dataclass
class _Look:
    """What one reconciliation has found out, for its status."""

    identity: Identity
    desired: Desired
    states: Sequence[NodeState]
    leftover: Sequence[NodeStatus]
    problems: list[Problem]
    description: ClusterDescription | None = None
    step: Restart | Wait | Done = field(default_factory=Done)
    unreachable: str = ""
    settling: bool = False
    """A node has just become ready: replicas may still be catching up."""

    @property
    def nodes(self) -> list[NodeStatus]:
        """Every node that runs, or is about to."""
        pools = {node.id: node.pool.name for node in self.desired.nodes}
        made = [
            NodeStatus(
                id=state.id,
                name=state.name,
                pool=pools[state.id],
                ready=state.health is Health.READY,
                current=state.why_stale is None and state.id not in self.desired.addresses.incomplete,
            )
            for state in self.states
        ]
        return sorted([*made, *self.leftover], key=lambda node: node.id)

    @property
    def stale(self) -> bool:
        """Whether a node has to be restarted."""
        return any(state.why_stale is not None for state in self.states)


class ClusterReconciler:
    """Brings up clusters, keeps them as their specs say, and reports on external ones."""

    kind = "MessagingCluster"

    def __init__(self, context: Context, probing: Probing | None = None) -> None:
        self._context = context
        self._probing = probing

    def lane(self, key: Key) -> str:
        """Clusters don't wait for each other."""
        return f"{key.namespace}/{key.name}"

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """Look after clusters; a lane has one."""
        return {key: await self._one(key) for key in keys}

    async def _one(self, key: Key) -> Outcome:
        cluster: Cluster | None = self._context.index.resource(key)
        if cluster is None or cluster.deleting:
            # What is owned goes with the object; what is retained has no owner. There is nothing else to undo.
            if self._probing is not None:
                self._probing.forget(key)
            await self._context.clusters.forget(key)
            return Outcome()
        try:
            # A ghost, whose deletion wasn't heard of, would make nodes that nothing owns.
            cluster = await fresh(self._context, cluster)
            return await (self._own(cluster) if cluster.spec.external is None else self._external(cluster))
        except ChangedError as changed:
            # Somebody was faster: that says nothing of the cluster, so its conditions stay.
            return Outcome(requeue_after=changed.retry_after)

    async def _external(self, cluster: Cluster) -> Outcome:
        admin = await self._context.clusters.admin_of(cluster.key)
        try:
            description = await admin.describe_cluster()
        except KafkaUnreachableError as error:
            raise WaitingError(Reason.KAFKA_UNREACHABLE, error.message, retry_after=30.0) from error
        known = cluster.status.cluster_id
        if known is not None and known != description.cluster_id:
            raise UserError(
                Reason.IDENTITY_MISMATCH,
                f"spec.external leads to Kafka cluster {description.cluster_id}, and this was {known}: if the change "
                "is wanted, make another MessagingCluster for it",
            )
        new = MessagingClusterStatus(
            cluster_id=description.cluster_id,
            brokers=len(description.brokers),
            conditions=status.ready(cluster, self._context.clock(), f"{len(description.brokers)} brokers answer"),
        )
        await status.write_status(self._context, cluster, new)
        self._probe(cluster)
        return Outcome(requeue_after=READY_AGAIN)

    async def _own(self, cluster: Cluster) -> Outcome:
        context = self._context
        objects = ClusterObjects(context.kube, cluster)
        await objects.load()
        found = await ensure_identity(context, objects)
        version, problem = target_version(cluster.spec, found)
        if version != found.version:
            found = await record(objects, identity.changed(found, version=version))
        pools = cluster.spec.node_pools or []
        planned = fleet(cluster.name, cluster.namespace, pools, found.pools, nodes_present(objects))
        if (unnamed := too_long(cluster.name, planned.nodes)) is not None:
            raise UserError(unnamed.reason, unnamed.message)
        keys = Keys(context, objects)
        await keys.ensure_authorities()
        desired = await NodeBuilder(context, objects, found, keys).build(planned, version)
        states = node_states(objects, desired.nodes, desired.stateful_sets, context.clock())
        stale = {state.id for state in states if state.why_stale is not None}
        for node_id, stateful_set in desired.stateful_sets.items():
            # New nodes are made at once; what runs as desired gets back whatever of it was deleted or changed.
            if node_id not in stale:
                await objects.ensure(stateful_set)
        problems = [p for p in (config_problem(cluster.spec.config), problem, planned.problem) if p is not None]
        look = _Look(found, desired, states, _leftover(objects, desired, context), [*problems, *desired.problems])
        if [node.name for node in cluster.status.nodes] != [node.name for node in look.nodes]:
            # Whoever connects looks there for addresses.
            cluster = await self._report(cluster, look)
            objects.cluster = cluster
        look.settling = recently_started(objects, desired.nodes, context.clock())
        if any(state.broker and state.health is Health.READY for state in states):
            await self._kafka(cluster, objects, look)
        else:
            look.step = decide(states, None)
        if isinstance(look.step, Restart):
            await self._restart(cluster, objects, look, look.step)
        elif not look.stale:
            await delete_unused_files(objects, desired.stateful_sets.values())
        await self._report(cluster, look)
        return Outcome(requeue_after=_again(look))

    async def _kafka(self, cluster: Cluster, objects: ClusterObjects, look: _Look) -> None:
        """Everything that needs Kafka: the quorum's completion, the gate of restarts, dynamic configuration."""
        try:
            admin = await self._context.clusters.admin_of(cluster.key)
            description, quorum = await asyncio.gather(admin.describe_cluster(), admin.describe_quorum())
            look.description = description
            if not look.identity.bootstrapped and identity.quorum_complete(look.identity, quorum):
                look.identity = await record(objects, identity.changed(look.identity, bootstrapped=True))
            if look.stale:
                seen = await kafka_state(admin, description, quorum)
                look.step = decide(look.states, seen)
            await self._dynamic(cluster, admin, look)
            if not look.stale:
                await self._measure(cluster, admin)
        except (KafkaUnreachableError, ClusterNotReadyError) as error:
            look.unreachable = error.message
            if isinstance(look.step, Done):
                look.step = decide(look.states, None)
        self._probe(cluster)

    async def _dynamic(self, cluster: Cluster, admin: KafkaAdmin, look: _Look) -> None:
        """Dynamic configuration, as default of all brokers: no restart."""
        wanted = broker_config.dynamic(cluster.spec.config, look.desired.brokers)
        changes = broker_config.dynamic_changes(wanted, await admin.describe_broker_defaults())
        for part in broker_config.in_turn(changes, cluster.spec.config):
            try:
                await admin.alter_broker_configs(part)
            except KafkaRefusedError as error:
                look.problems.append(Problem(error.reason, f"Kafka refuses spec.config: {error.message}"))

    async def _measure(self, cluster: Cluster, admin: KafkaAdmin) -> None:
        metrics = self._context.metrics
        replicas = await admin.describe_log_dirs()
        metrics.replace(cluster.key, metrics.follower_lag, _lags(cluster, replicas))

    async def _restart(self, cluster: Cluster, objects: ClusterObjects, look: _Look, step: Restart) -> None:
        node = next(node for node in look.desired.nodes if node.id == step.node.id)
        told = ". ".join([f"{node.name} is restarted: {step.why}", *step.notes])
        self._context.events.publish(cluster, "Normal", Reason.ROLLING, told)
        await restart(objects, node, look.desired.stateful_sets[node.id])

    def _probe(self, cluster: Cluster) -> None:
        if self._probing is not None:
            self._probing.update(cluster)

    async def _report(self, cluster: Cluster, look: _Look) -> Cluster:
        """Write the status; returns the cluster as it is then."""
        new = self._status(cluster, look)
        await status.write_status(self._context, cluster, new)
        written: Cluster | None = self._context.index.resource(cluster.key)
        return written if written is not None and written.uid == cluster.uid else cluster

    def _status(self, cluster: Cluster, look: _Look) -> MessagingClusterStatus:
        nodes = look.nodes
        bootstrap = look.desired.addresses.bootstrap
        return MessagingClusterStatus(
            cluster_id=look.identity.cluster_id,
            version=look.identity.version if all(n.current and n.ready for n in nodes) else cluster.status.version,
            format_version=look.identity.format_version,
            brokers=len(look.description.brokers) if look.description else cluster.status.brokers,
            nodes=nodes,
            listeners=[
                ListenerStatus(name=listener.name, bootstrap_servers=bootstrap[listener.name])
                for listener in cluster.spec.listeners
                if listener.name in bootstrap
            ],
            ca_secret_name=names.ca_cert_secret(cluster.name),
            conditions=self._conditions(cluster, look),
        )

    def _conditions(self, cluster: Cluster, look: _Look) -> list[Condition]:
        now = self._context.clock()
        reason, message = _progress(look)
        if look.problems:
            words = ". ".join(problem.message for problem in look.problems)
            if reason is not None:
                words = f"{words}. Also: {message}"
            final = [problem for problem in look.problems if not problem.waiting]
            if not final:
                return status.reconciling(cluster, now, look.problems[0].reason, words)
            return status.stalled(cluster, now, final[0].reason, words)
        if reason is not None:
            return status.reconciling(cluster, now, reason, message)
        return status.ready(cluster, now, message)


def _leftover(objects: ClusterObjects, desired: Desired, context: Context) -> list[NodeStatus]:
    """Brokers that run though the spec no longer asks for them: nothing is done to them, so nothing is to be done."""
    return [
        NodeStatus(
            id=one.id,
            name=one.name,
            pool=one.pool,
            ready=pod_health(objects.get("Pod", names.pod(one.name)), context.clock())[0] is Health.READY,
            current=True,
        )
        for one in desired.leftover
    ]


def _progress(look: _Look) -> tuple[Reason | None, str]:
    """What is still to come, or None and a word on what there is."""
    match look.step:
        case Restart(node=node, why=why):
            return Reason.ROLLING, f"{node.name} is restarted: {why}"
        case Wait(why=why, blocked=blocked):
            reason = Reason.ROLL_BLOCKED if blocked and not look.settling else Reason.ROLLING
            return reason, f"{_left(look)}; waiting: {'; '.join(why)}"
    unready = [f"{state.name}: {state.trouble}" for state in look.states if state.health is not Health.READY]
    if unready:
        reason = Reason.WAITING_FOR_NODES if look.identity.bootstrapped else Reason.CREATING_NODES
        return reason, "; ".join(unready)
    if look.unreachable:
        return Reason.KAFKA_UNREACHABLE, look.unreachable
    if not look.identity.bootstrapped:
        return Reason.CREATING_NODES, "the nodes run, and their first quorum isn't complete yet"
    return None, f"{len(look.states)} nodes run Kafka {look.identity.version}"


def _left(look: _Look) -> str:
    stale = [state.name for state in look.states if state.why_stale is not None]
    return f"{len(stale)} of {len(look.states)} nodes are still to be restarted"


def _again(look: _Look) -> float:
    """Seconds until the next look."""
    if look.stale or look.unreachable:
        return KAFKA_AGAIN
    if look.desired.addresses.missing:
        return ADDRESS_AGAIN
    if any(state.health is not Health.READY for state in look.states):
        return PROGRESS_AGAIN
    return READY_AGAIN if look.identity.bootstrapped else KAFKA_AGAIN


def _lags(cluster: Cluster, replicas: Iterable[LogDirReplica]) -> dict[tuple[str, ...], float]:
    """The largest lag over the partitions of a topic, by follower."""
    worst: dict[tuple[str, ...], float] = {}
    for replica in replicas:
        labels = (cluster.namespace, cluster.name, str(replica.broker), replica.topic)
        worst[labels] = max(worst.get(labels, 0.0), float(replica.offset_lag))
    return worst
