"""Restarts of nodes: what is observed of them, and the one step that the gate allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sluice.engine.cluster_objects import ClusterObjects
from sluice.kafka.admin import KafkaAdmin
from sluice.manifests.metadata import Body
from sluice.manifests.node import Node
from sluice.manifests.statefulset import files_of, revision_of
from sluice.plan.observed import ClusterDescription, QuorumDescription, TopicPartition
from sluice.plan.rollout import Health, KafkaState, NodeState, PartitionState

STUCK_REASONS: Final = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
_CRASHES: Final = 2
"""Restarts of a container that still isn't ready, from which on it counts as crashing again and again, if it ended soon
after its last start, and not long ago."""
_SOON: Final = timedelta(minutes=10)
"""What the kubelet takes for soon, too. A node that ran for longer and then crashed reads its log now; that takes long,
must not be disturbed, and how often it crashed in the months before says nothing."""
_SETTLE: Final = timedelta(seconds=60)
"""How long after a restart followers may be catching up before a blocked roll is called blocked."""


def node_states(
    objects: ClusterObjects, nodes: Sequence[Node], desired: Mapping[int, Body], now: datetime
) -> list[NodeState]:
    """How every node does, and whether it is what is desired (nothing is yet of one that lacks an address)."""
    states = []
    for node in nodes:
        stateful_set = objects.get("StatefulSet", node.name)
        pod = objects.get("Pod", node.pod)
        wanted = desired.get(node.id)
        health, trouble = pod_health(pod, now)
        if wanted is None:
            trouble = "its address isn't known yet"
        states.append(
            NodeState(
                id=node.id,
                name=node.name,
                controller=node.is_controller,
                broker=node.is_broker,
                health=health,
                why_stale=why_stale(pod or (stateful_set or {}).get("spec", {}).get("template"), wanted),
                trouble=trouble,
            )
        )
    return states


def why_stale(pod: Mapping[str, Any] | None, desired: Mapping[str, Any] | None) -> str | None:
    """What differs between a pod (or the template that it will be made of) and what is desired."""
    if pod is None or desired is None or revision_of(pod) == revision_of(desired):
        return None
    template = desired["spec"]["template"]
    images = [(body["spec"].get("containers") or [{}])[0].get("image") for body in (pod, template)]
    if images[0] != images[1]:
        return f"image {images[1]}"
    changed = files_of(template) - files_of(pod)
    if any("-config-" in name for name in changed):
        return "its configuration has changed"
    if changed:
        return "its certificate or the authorities that it trusts have changed"
    return "its pod template has changed"


def pod_health(pod: Mapping[str, Any] | None, now: datetime) -> tuple[Health, str]:
    """How a pod does, and why it isn't ready, in words."""
    if pod is None:
        return Health.STARTING, "its pod is being made"
    if "deletionTimestamp" in pod["metadata"]:
        return Health.STARTING, "its pod is stopping"
    status = pod.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return Health.READY, ""
    if status.get("phase") == "Failed":
        return Health.STUCK, f"its pod has failed: {status.get('message') or status.get('reason') or 'no reason given'}"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Health.STUCK, f"its pod can't be scheduled: {scheduled.get('message', '')}"
    containers = status.get("containerStatuses") or ()
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        ended = (container.get("lastState") or {}).get("terminated") or {}
        how = f"exit code {ended['exitCode']}" if "exitCode" in ended else waiting.get("message", "")
        if waiting.get("reason") in STUCK_REASONS:
            return Health.STUCK, f"{waiting['reason']} ({how}): see the log of its pod {pod['metadata']['name']}"
        often = container.get("restartCount", 0) >= _CRASHES and not container.get("ready")
        if often and _crashed_soon(ended, now):
            return Health.STUCK, f"it has crashed {container['restartCount']} times ({how}): see the log of its pod"
    return Health.STARTING, "it is starting" if containers else "its pod is being made"


def _crashed_soon(ended: Mapping[str, Any], now: datetime) -> bool:
    """Whether a container's last run ended soon after it had begun, and not long ago."""
    if not ended.get("startedAt") or not ended.get("finishedAt"):
        return False
    begun, end = datetime.fromisoformat(ended["startedAt"]), datetime.fromisoformat(ended["finishedAt"])
    return end - begun < _SOON and now - end < _SOON


def recently_started(objects: ClusterObjects, nodes: Sequence[Node], now: datetime) -> bool:
    """Whether a node became ready so shortly ago that replicas may still be catching up."""
    for node in nodes:
        status = (objects.get("Pod", node.pod) or {}).get("status") or {}
        for condition in status.get("conditions") or ():
            since = condition.get("lastTransitionTime")
            if condition["type"] == "Ready" and since and now - datetime.fromisoformat(since) < _SETTLE:
                return True
    return False


async def restart(objects: ClusterObjects, node: Node, stateful_set: Mapping[str, Any]) -> None:
    """Write the new template, then delete the pod: it comes back from the new template, whenever we die in between."""
    await objects.ensure(stateful_set)
    pod = objects.get("Pod", node.pod)
    if pod is not None and revision_of(pod) != revision_of(stateful_set):
        await objects.delete(pod)


async def kafka_state(admin: KafkaAdmin, description: ClusterDescription, quorum: QuorumDescription) -> KafkaState:
    """What the gate needs to know of Kafka: every partition with its in-sync replicas and min ISR."""
    topics = await admin.describe_topics()
    configs = await admin.describe_topic_configs({name: ["min.insync.replicas"] for name in topics})
    moving = await admin.list_reassignments()
    partitions = []
    for name, topic in topics.items():
        least = configs.get(name, {}).get("min.insync.replicas")
        for partition in topic.partitions:
            place = TopicPartition(name, partition.id)
            move = moving.get(place)
            replicas = frozenset(partition.replicas)
            partitions.append(
                PartitionState(
                    name=place,
                    replicas=replicas,
                    isr=frozenset(partition.isr),
                    min_isr=int(least.value) if least is not None and least.value else 1,
                    staying=replicas - frozenset(move.removing if move else ()),
                )
            )
    return KafkaState(frozenset(broker.id for broker in description.active_brokers), quorum, partitions)
