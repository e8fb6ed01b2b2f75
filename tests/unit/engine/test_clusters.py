"""The registry of clusters: who may connect, with what, and when a connection is made anew."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sluice.api.base import ClusterReference
from sluice.api.objects import Key
from sluice.engine.clusters import Clusters
from sluice.engine.errors import ClusterNotFoundError, ClusterNotReadyError, ClusterRefusesNamespaceError
from sluice.engine.index import Index
from sluice.kafka.connection import ConnectionSettings

KEY = Key("MessagingCluster", "kafka", "demo")
REF = ClusterReference(name="demo", namespace="kafka")
POOLS = [
    {"name": "ctl", "roles": ["controller"], "replicas": 1, "storage": {"size": "1Gi"}},
    {"name": "brk", "roles": ["broker"], "replicas": 2, "storage": {"size": "1Gi"}},
]
NODES = [
    {"id": 0, "name": "demo-ctl-0", "pool": "ctl", "ready": True, "current": True},
    {"id": 100, "name": "demo-brk-100", "pool": "brk", "ready": True, "current": True},
    {"id": 101, "name": "demo-brk-101", "pool": "brk", "ready": False, "current": True},
]


class Admin:
    """Stands for a KafkaAdmin: knows its settings, and whether it was closed."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A registry over an index, Secrets and a clock."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.reads = 0
        self.now = 0.0
        self.version = 0
        self.index = Index()
        self.made: list[Admin] = []
        kube: Any = self
        self.clusters = Clusters(kube, self.index, self._make, monotonic=lambda: self.now)

    def _make(self, settings: ConnectionSettings) -> Any:
        self.made.append(Admin(settings))
        return self.made[-1]

    async def get(self, _: str, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace) == ("Secret", "kafka")
        self.reads += 1
        data = self.secrets.get(name)
        if data is None:
            return None
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}

    def put(self, spec: dict[str, Any], status: dict[str, Any] | None = None, **meta: Any) -> None:
        self.version += 1
        metadata = {
            "namespace": "kafka",
            "name": "demo",
            "uid": "u",
            "resourceVersion": str(self.version),
            "creationTimestamp": "2026-11-23T00:00:00Z",
            **meta,
        }
        self.index.put({"kind": KEY.kind, "metadata": metadata, "spec": spec, "status": status or {}})

    def own(self, **spec: Any) -> None:
        """A cluster that Sluice runs, with its Secrets."""
        self.put({"nodePools": POOLS, **spec}, {"nodes": NODES})
        self.secrets = {"demo-operator": {"tls.crt": "crt", "tls.key": "key"}, "demo-cluster-ca": {"ca.crt": "ca"}}


async def test_an_own_cluster_is_reached_by_its_brokers_internal_listener() -> None:
    rig = Rig()
    rig.own()
    await rig.clusters.connect(REF, "kafka")
    settings = rig.made[0].settings
    assert settings.bootstrap_servers == (
        "demo-brk-100-0.demo-nodes.kafka.svc:9091",
        "demo-brk-101-0.demo-nodes.kafka.svc:9091",
    )
    assert (settings.tls, settings.ca_pem, settings.cert_pem, settings.key_pem) == (True, "ca", "crt", "key")


async def test_an_external_cluster_is_reached_as_its_spec_says() -> None:
    rig = Rig()
    rig.secrets = {"login": {"username": "me", "password": "hunter2\n"}, "trust": {"pem": "ca"}}
    external = {
        "bootstrapServers": ["k:9092"],
        "tls": {"caSecretRef": {"name": "trust", "key": "pem"}},
        "authentication": {"type": "SCRAM-SHA-512", "secretName": "login"},
    }
    rig.put({"external": external})
    await rig.clusters.connect(REF, "kafka")
    settings = rig.made[0].settings
    assert (settings.sasl_mechanism, settings.username, settings.password) == ("SCRAM-SHA-512", "me", "hunter2")
    assert settings.ca_pem == "ca"
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("mechanism", ["PLAIN", "TLS"])
async def test_no_password_and_no_certificate_goes_over_plain_text(mechanism: str) -> None:
    rig = Rig()
    rig.secrets = {"login": {"username": "me", "password": "p", "tls.crt": "crt", "tls.key": "key"}}
    login = {"type": mechanism, "secretName": "login"}
    rig.put({"external": {"bootstrapServers": ["k:9092"], "authentication": login}})
    with pytest.raises(ClusterNotReadyError, match=r"needs spec\.external\.tls"):
        await rig.clusters.connect(REF, "kafka")


async def test_a_cluster_that_is_not_there_is_waited_for() -> None:
    with pytest.raises(ClusterNotFoundError, match="kafka/demo doesn't exist"):
        await Rig().clusters.connect(REF, "kafka")


async def test_other_namespaces_need_to_be_allowed() -> None:
    rig = Rig()
    rig.own()
    with pytest.raises(ClusterRefusesNamespaceError, match=r"add apps to spec\.allowedNamespaces"):
        await rig.clusters.connect(REF, "apps")
    rig.own(allowedNamespaces=["apps"])
    await rig.clusters.connect(REF, "apps")


async def test_a_cluster_without_a_ready_node_or_its_secrets_is_waited_for() -> None:
    rig = Rig()
    rig.put({"nodePools": POOLS})
    with pytest.raises(ClusterNotReadyError, match="none of its nodes"):
        await rig.clusters.connect(REF, "kafka")
    rig.put({"nodePools": POOLS}, {"nodes": NODES})
    with pytest.raises(ClusterNotReadyError, match="Secret demo-operator doesn't exist"):
        await rig.clusters.connect(REF, "kafka")
    rig.secrets["demo-operator"] = {"tls.crt": "crt"}
    with pytest.raises(ClusterNotReadyError, match=r"has no tls\.key"):
        await rig.clusters.admin_of(KEY)


async def test_one_client_is_shared_and_secrets_are_not_read_all_the_time() -> None:
    rig = Rig()
    rig.own()
    first = await rig.clusters.connect(REF, "kafka")
    reads = rig.reads
    assert await rig.clusters.connect(REF, "kafka") is first
    assert rig.reads == reads
    rig.now = 61
    assert await rig.clusters.connect(REF, "kafka") is first
    assert rig.reads == 2 * reads


async def test_new_credentials_mean_a_new_client_and_the_old_one_is_closed() -> None:
    rig = Rig()
    rig.own()
    await rig.clusters.connect(REF, "kafka")
    rig.secrets["demo-operator"]["tls.crt"] = "renewed"
    rig.clusters.changed(KEY)
    await rig.clusters.connect(REF, "kafka")
    assert [admin.closed for admin in rig.made] == [True, False]
    await rig.clusters.forget(KEY)
    assert rig.made[1].closed


async def test_a_cluster_that_is_being_deleted_takes_nothing_new() -> None:
    rig = Rig()
    rig.own()
    rig.put({"nodePools": POOLS}, {"nodes": NODES}, deletionTimestamp="2026-11-24T00:00:00Z")
    with pytest.raises(ClusterNotReadyError, match="being deleted"):
        await rig.clusters.connect(REF, "kafka")
