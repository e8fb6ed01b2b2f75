"""What unit tests of replays stand on: a Kafka that remembers what was committed, entered and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from sluice.api.objects import Key
from sluice.engine import replay as engine
from sluice.engine import replay_control, replay_end, replay_trail
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.replay import ReplayJobReconciler
from sluice.kafka.errors import KafkaError
from sluice.plan.observed import AclBinding, ConfigValue, PartitionDescription, TopicDescription, TopicPartition
from sluice.plan.replay import Observed, SourcePartition
from sluice.plan.replay_progress import Committed
from sluice.replay.assignment import Assignment
from sluice.replay.audit import AuditRecord, once
from sluice.replay.ledger import LedgerEntry, LedgerState
from tests.unit.engine.engine_fakes import NOW, FakeKube, make_context

JOB = Key("ReplayJob", "ns", "job")
CLUSTER = Key("MessagingCluster", "kafka", "demo")


class ReplayKube(FakeKube):
    """An API server that also makes and deletes."""

    async def create_if_absent(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        meta = body["metadata"]
        key = Key(body["kind"], meta["namespace"], meta["name"])
        if key in self.objects:
            return self.objects[key], False
        made = dict(body)
        made["metadata"] = {**meta, "uid": f"uid-{meta['name']}"}
        return self.put(made), True

    async def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.put(dict(body))

    async def delete(self, api_version: str, kind: str, namespace: str, name: str, *, uid: str | None = None) -> bool:
        return self.objects.pop(Key(kind, namespace, name), None) is not None

    async def list(self, *_: Any) -> list[dict[str, Any]]:
        return []


@dataclass
class ReplayKafka:
    """Source and target of three partitions with a hundred records each, and what became of a replay of them."""

    ledger: dict[LedgerState, LedgerEntry] = field(default_factory=dict)
    positions: dict[TopicPartition, Committed] = field(default_factory=dict)
    did: list[str] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    audit_refusal: KafkaError | None = None
    acls: set[AclBinding] = field(default_factory=set)
    scram: dict[str, str] = field(default_factory=dict)
    """Mechanism by user."""
    limit: int = 1_000
    refusal: KafkaError | None = None
    """What is answered to whoever asks about or changes passwords and rights."""
    silent: Callable[[], Any] | None = None
    """Awaited before anything is taken back."""

    def at(self, *offsets: int) -> None:
        """Workers have come so far."""
        for number, offset in enumerate(offsets):
            self.positions[TopicPartition("source", number)] = Committed(offset, offset, 10 * offset)

    async def describe_topic_configs(self, keys: Mapping[str, Any]) -> dict[str, dict[str, ConfigValue]]:
        return {name: {"max.message.bytes": ConfigValue(str(self.limit), overridden=True)} for name in keys}

    async def describe_acls(self, _: str) -> set[AclBinding]:
        self._judge()
        return set(self.acls)

    async def create_acls(self, bindings: Sequence[AclBinding]) -> None:
        self._judge()
        self.acls |= set(bindings)

    async def delete_acls(self, bindings: Sequence[AclBinding]) -> None:
        self._judge()
        self.acls -= set(bindings)

    async def delete_acls_of(self, principal: str) -> None:
        if self.silent:
            await self.silent()
        self._judge()
        self.did.append("rights taken")
        self.acls = {acl for acl in self.acls if acl.principal != principal}

    async def describe_scram(self, users: Sequence[str]) -> dict[str, frozenset[str]]:
        self._judge()
        return {user: frozenset({self.scram[user]}) for user in users if user in self.scram}

    async def upsert_scram(self, user: str, _: str, mechanism: str) -> None:
        self._judge()
        self.scram[user] = mechanism

    async def delete_scram(self, user: str, _: Sequence[str]) -> None:
        self._judge()
        del self.scram[user]

    def _judge(self) -> None:
        if self.refusal:
            raise self.refusal


class FakeLedger:
    """The ledger as `ReplayKafka` has it."""

    def __init__(self, kafka: ReplayKafka, _: Callable[[], None]) -> None:
        self._kafka = kafka

    async def read(self, _: str) -> LedgerEntry | None:
        return next((e for state in reversed(LedgerState) if (e := self._kafka.ledger.get(state))), None)

    async def write(self, entry: LedgerEntry) -> None:
        self._kafka.did.append(f"entered {entry.state.value}")
        self._kafka.ledger[entry.state] = entry


class FakeAudit:
    """The audit as `ReplayKafka` has it."""

    def __init__(self, kafka: ReplayKafka, _: Callable[[], None]) -> None:
        self._kafka = kafka

    async def write(self, records: Sequence[AuditRecord]) -> str | None:
        if self._kafka.audit_refusal:
            raise self._kafka.audit_refusal
        self._kafka.audit += records
        return None


@dataclass
class Stage:
    """A ReplayJob in one namespace, its cluster in another."""

    kube: ReplayKube
    kafka: ReplayKafka
    context: Context
    reconciler: ReplayJobReconciler
    now: datetime = NOW

    def restart(self) -> None:
        """Another operator."""
        self.reconciler = ReplayJobReconciler(self.context)

    def topic(self, **spec: Any) -> None:
        """The Topic of the target."""
        body = {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "Topic",
            "metadata": {
                "namespace": CLUSTER.namespace,
                "name": "target",
                "uid": "t",
                "generation": 1,
                "creationTimestamp": "2026-11-23T00:00:00Z",
            },
            "spec": {"clusterRef": {"name": CLUSTER.name}, **spec},
        }
        self.context.index.put(self.kube.put(body))

    def apply(self, uid: str = "1", status: Mapping[str, Any] | None = None, **spec: Any) -> None:
        """The job as a user makes it."""
        body = {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": JOB.kind,
            "metadata": {
                "namespace": JOB.namespace,
                "name": JOB.name,
                "uid": uid,
                "generation": 1,
                "creationTimestamp": "2026-11-23T00:00:00Z",
            },
            "spec": {
                "clusterRef": {"name": CLUSTER.name, "namespace": CLUSTER.namespace},
                **({} if "mode" in spec else {"source": {"topic": "source"}, "target": {"topic": "target"}}),
                **spec,
            },
            "status": dict(status or {}),
        }
        self.context.index.put(self.kube.put(body))

    def annotate(self, **tokens: str) -> None:
        """Somebody asks for something: ``suspend``, ``resume`` or ``cancel``."""
        meta = self.kube.objects[JOB]["metadata"]
        asked = {f"sluice.dev/{act}": token for act, token in tokens.items()}
        meta["annotations"] = {**meta.get("annotations", {}), **asked}
        self.context.index.put(self.kube.put(self.kube.objects[JOB]))

    def mark_deleted(self, key: Key) -> None:
        """Somebody deletes it; finalizers hold it."""
        body = self.kube.objects[key]
        body["metadata"]["deletionTimestamp"] = "2026-11-24T00:00:00Z"
        stored = self.kube.put(body)
        if key.namespace:
            self.context.index.put(stored)

    async def reconcile(self, times: int = 1) -> Outcome:
        """Reconcile, and insist on success."""
        for _ in range(times):
            result = (await self.reconciler.reconcile([JOB]))[JOB]
            assert isinstance(result, Outcome), result
        return result

    async def error(self) -> Exception:
        """Reconcile, and insist on an error."""
        result = (await self.reconciler.reconcile([JOB]))[JOB]
        assert isinstance(result, Exception), result
        return result

    @property
    def status(self) -> dict[str, Any]:
        """Status of the job."""
        return dict(self.kube.objects[JOB].get("status") or {})

    @property
    def finalizers(self) -> list[str]:
        """Finalizers of the job."""
        return list(self.kube.objects[JOB]["metadata"].get("finalizers") or [])

    def workers(self) -> list[Key]:
        """Kubernetes Jobs that are there."""
        return [key for key in self.kube.objects if key.kind == "Job"]

    def plan_of_workers(self) -> Assignment:
        """What the workers are told."""
        (body,) = [body for key, body in self.kube.objects.items() if key.kind == "ConfigMap"]
        return Assignment.from_json(body["data"]["plan.json"])

    def secret(self) -> dict[str, str] | None:
        """Data of the workers' Secret."""
        found = [body for key, body in self.kube.objects.items() if key.kind == "Secret" and key.namespace == "ns"]
        return found[0].get("data", {}) if found else None

    def facts(self) -> list[str]:
        """What a reader of the audit sees, in order."""
        return [fact["fact"] for fact in once(record.to_json().encode() for record in self.kafka.audit)]

    def recorded(self, **annotations: Any) -> None:
        """Admission has recorded something: ``requested_by``, ``approved_by`` or ``glass_broken_by``."""
        named = {name.replace("_", "-"): value for name, value in annotations.items()}
        self.annotate(**{n: v if isinstance(v, str) else json.dumps(v) for n, v in named.items()})

    def cluster(self, external: Mapping[str, Any], **spec: Any) -> None:
        """The cluster is an external one."""
        body = {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": CLUSTER.kind,
            "metadata": {
                "namespace": CLUSTER.namespace,
                "name": CLUSTER.name,
                "uid": "c",
                "generation": 1,
                "creationTimestamp": "2026-11-23T00:00:00Z",
            },
            "spec": {"external": {"bootstrapServers": ["kafka:9092"], **external}, "allowedNamespaces": ["*"], **spec},
        }
        self.context.index.put(self.kube.put(body))


def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Everything in its place; the cluster is external and in plain text."""
    kube, kafka = ReplayKube(), ReplayKafka()
    context = make_context(kube)
    context.clusters._make = lambda _: kafka  # type: ignore[assignment,return-value]
    made = Stage(kube, kafka, context, ReplayJobReconciler(context))
    context.clock = lambda: made.now
    for namespace in (JOB.namespace, CLUSTER.namespace):
        kube.put({"kind": "Namespace", "metadata": {"name": namespace}})
    made.cluster({})
    for module, name, fake in (
        (engine, "Ledger", FakeLedger),
        (engine, "observe", _observe),
        (replay_end, "Ledger", FakeLedger),
        (replay_trail, "Audit", FakeAudit),
        (replay_control, "read_positions", _read_positions),
        (engine, "commit_starts", _commit_starts),
        (replay_control, "recommit", _recommit),
        (replay_control, "keep_positions", _keep_positions),
        (replay_control, "end_transactions", _end_transactions),
        (replay_end, "end_transactions", _end_transactions),
    ):
        monkeypatch.setattr(module, name, fake)
    made.restart()
    return made


async def _observe(_: ReplayKafka, job: Any, notes: Sequence[str], now: datetime) -> Observed:
    def topic(name: str) -> TopicDescription:
        return TopicDescription(name, f"id-{name}", tuple(PartitionDescription(n, 0, 0, (0,), (0,)) for n in range(3)))

    kept = SourcePartition(0, 100, 100)
    return Observed(topic("source"), topic("target"), dict.fromkeys(range(3), kept), {}, notes=tuple(notes))


async def _read_positions(kafka: ReplayKafka, _: str) -> dict[TopicPartition, Committed]:
    return dict(kafka.positions)


async def _commit_starts(kafka: ReplayKafka, _: Any, run: str, shards: Mapping[int, Any]) -> None:
    kafka.did.append("starts committed")
    for starts in shards.values():
        for place, start in starts.items():
            kafka.positions.setdefault(place, Committed(start, 0, 0))


async def _recommit(kafka: ReplayKafka, _: str, positions: Mapping[TopicPartition, Committed]) -> None:
    assert all(kafka.positions[place] == position for place, position in positions.items())
    kafka.did.append(f"recommitted {sorted(place.partition for place in positions)}")


async def _keep_positions(kafka: ReplayKafka, _: Any, run: str, shards: Mapping[int, Any]) -> None:
    kafka.did.append(f"kept {sorted(place.partition for places in shards.values() for place in places)}")


async def _end_transactions(kafka: ReplayKafka, _: Any, run: str, shards: int) -> None:
    kafka.did.append(f"transactions of {shards} ended")
