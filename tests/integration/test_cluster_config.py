"""The configuration that the operator writes, run by the broker image's entrypoint: a secure cluster that heals."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sluice.api.broker_config import is_owned
from sluice.api.cluster import NodePool, Role, Storage
from sluice.api.user import AuthenticationType
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaError, KafkaRefusedError
from sluice.kube import pki
from sluice.manifests import names
from sluice.manifests.node import Node
from sluice.plan import broker_config, identity
from sluice.plan.broker_config import ClusterConfig, Endpoint, Layout
from sluice.plan.observed import AclBinding, NewTopic, QuorumDescription
from sluice.versions import KAFKA_VERSIONS
from tests.support.kafka import image_folder, kafka_uuid
from tests.support.processes import Process, free_port

TLS_FILES = ("keystore.pem", "cluster-ca.pem", "clients-ca.pem")
POOL = NodePool(name="nodes", roles=[Role.BROKER, Role.CONTROLLER], replicas=3, storage=Storage(size="1Gi"))
LEFT_OUT = frozenset({"config.providers", "cordoned.log.dirs"})
"""Dynamic keys that aren't for all brokers (``cordoned.log.dirs``), or load code (``config.providers``)."""


@dataclass
class RunningNode:
    """A node whose mounts are folders, and whose pod is a process."""

    node: Node
    folder: Path
    image: Path
    ports: dict[str, int]
    process: Process | None = None

    @property
    def data(self) -> Path:
        return self.folder / "volume" / "data"

    def start(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "NODE_ID": str(self.node.id),
            "PROCESS_ROLES": "broker,controller",
            "KAFKA_HEAP_OPTS": "-Xms128m -Xmx320m",
            "KAFKA_JVM_OPTS": "-XX:TieredStopAtLevel=1",  # it won't run for long
            "KAFKA_HOME": str(self.image),
            "KAFKA_PROPERTIES": str(self.folder / "server.properties"),
            "KAFKA_IDENTITY": str(self.folder.parent / "identity"),
        }
        self.process = Process(["sh", str(self.image / "bin" / "entrypoint.sh")], self.folder / "node.log", environment)


@dataclass
class RunningCluster:
    """Three combined nodes on loopback."""

    folder: Path
    version: str
    cluster_ca: pki.KeyPair
    clients_ca: pki.KeyPair
    nodes: dict[int, RunningNode] = field(default_factory=dict)
    admins: list[KafkaAdmin] = field(default_factory=list)

    def connect(self, listener: str, pair: pki.KeyPair | None = None, *, password: str | None = None) -> KafkaAdmin:
        """A client that proves itself with a certificate, or as SCRAM user ``board``."""
        servers = tuple(f"127.0.0.1:{node.ports[listener]}" for node in self.nodes.values())
        admin = KafkaAdmin(
            ConnectionSettings(
                servers,
                tls=True,
                ca_pem=self.cluster_ca.cert_pem,
                cert_pem=pair.cert_pem if pair else None,
                key_pem=pair.key_pem if pair else None,
                sasl_mechanism="SCRAM-SHA-512" if password else None,
                username="board" if password else None,
                password=password,
            )
        )
        self.admins.append(admin)
        return admin

    def operator(self) -> KafkaAdmin:
        """The operator, at the internal listener."""
        return self.connect("REPLICATION", pki.issue(self.cluster_ca, names.OPERATOR_PRINCIPAL, (), datetime.now(UTC)))

    def user(self, name: str) -> pki.KeyPair:
        """A user's certificate."""
        return pki.issue(self.clients_ca, name, (), datetime.now(UTC))


def _lay_out(folder: Path, version: str) -> RunningCluster:
    now = datetime.now(UTC)
    cluster = RunningCluster(
        folder, version, pki.make_authority("cluster CA", now), pki.make_authority("clients CA", now)
    )
    made = identity.new("demo", "here", [POOL], version, kafka_uuid)
    nodes = identity.nodes_of("demo", "here", [POOL], made.pools)
    ports = {
        node.id: {name: free_port() for name in ("CONTROLLER", "REPLICATION", "TLS", "SCRAM", "metrics")}
        for node in nodes
    }
    voters = ",".join(f"{i}@127.0.0.1:{ports[i]['CONTROLLER']}:{name}" for i, name in made.directories.items())
    (folder / "identity").mkdir()
    for key, value in identity.changed(made, initial_controllers=voters).data().items():
        (folder / "identity" / key).write_text(value)
    shared = ClusterConfig(
        controllers=[f"127.0.0.1:{ports[node.id]['CONTROLLER']}" for node in nodes],
        brokers=3,
        config={"num.network.threads": "2", "offsets.topic.num.partitions": "4"},
    )
    for node in nodes:
        home = folder / str(node.id)
        (home / "volume").mkdir(parents=True)
        pair = pki.issue(cluster.cluster_ca, names.NODE_PRINCIPAL, ("127.0.0.1", "localhost"), now)
        (home / "tls").mkdir()
        contents = (pair.key_pem + pair.cert_pem, cluster.cluster_ca.cert_pem, cluster.clients_ca.cert_pem)
        for name, content in zip(TLS_FILES, contents, strict=True):
            (home / "tls" / name).write_text(content)
        endpoints = [
            _endpoint("REPLICATION", ports[node.id]),
            _endpoint("TLS", ports[node.id], truststore="clients-ca.pem"),
            _endpoint("SCRAM", ports[node.id], AuthenticationType.SCRAM_SHA_512, None),
            _endpoint("CONTROLLER", ports[node.id]),
        ]
        layout = Layout(str(home / "tls"), str(home / "volume" / "data"), ports[node.id]["metrics"])
        properties = broker_config.server_properties(node, endpoints, shared, layout)
        (home / "server.properties").write_text(properties)
        cluster.nodes[node.id] = RunningNode(node, home, image_folder(version), ports[node.id])
    return cluster


def _endpoint(
    name: str,
    ports: dict[str, int],
    authentication: AuthenticationType = AuthenticationType.TLS,
    truststore: str | None = "cluster-ca.pem",
) -> Endpoint:
    return Endpoint(name, ports[name], f"127.0.0.1:{ports[name]}", authentication, truststore)


async def _until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 60) -> None:
    end = asyncio.get_running_loop().time() + seconds
    last = ""
    while asyncio.get_running_loop().time() < end:
        try:
            if await holds():
                return
        except KafkaError as error:
            last = str(error)
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {seconds:g} s: {what}. {last}")


@pytest.fixture(params=KAFKA_VERSIONS)
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningCluster]:
    """Three nodes of each version."""
    made = _lay_out(tmp_path, request.param)
    try:
        for node in made.nodes.values():
            node.start()
        yield made
    finally:
        for admin in made.admins:
            await admin.close()
        for node in made.nodes.values():
            if node.process is not None:
                node.process.kill()


async def test_a_new_cluster_forms_its_quorum_lets_nobody_in_unasked_and_replaces_a_lost_disk(
    cluster: RunningCluster,
) -> None:
    admin = cluster.operator()
    recorded = identity.read({file.name: file.read_text() for file in (cluster.folder / "identity").iterdir()})

    async def complete() -> bool:
        brokers = (await admin.describe_cluster()).active_brokers
        return len(brokers) == 3 and identity.quorum_complete(recorded, await admin.describe_quorum())

    await _until(complete, "three brokers, three voters")
    assert (await admin.describe_cluster()).cluster_id == recorded.cluster_id
    assert {v.directory_id for v in (await admin.describe_quorum()).voters} == set(recorded.directories.values())

    await _nobody_in_unasked(cluster, admin)
    await _dynamic_keys_are_as_the_table_says(cluster.version, admin)
    await _a_lost_disk_is_replaced(cluster, admin)


async def _nobody_in_unasked(cluster: RunningCluster, admin: KafkaAdmin) -> None:
    assert await admin.create_topics([NewTopic("orders", 1, 3)]) == {"orders": None}
    alice = cluster.user("alice")
    listener = cluster.connect("TLS", alice)
    with pytest.raises(KafkaRefusedError):
        await listener.describe_topics(["orders"])
    await admin.create_acls([AclBinding("Topic", "orders", "Literal", "User:alice", "*", "Describe", "Allow")])

    async def allowed() -> bool:
        return "orders" in await listener.describe_topics(["orders"])

    await _until(allowed, "the new rule holds")
    # A user's certificate isn't a node's, whatever it says.
    assert await _hangs_up(cluster.connect("REPLICATION", cluster.user(names.NODE_PRINCIPAL)))
    assert await _hangs_up(cluster.connect("CONTROLLER", cluster.user(names.NODE_PRINCIPAL)))
    assert await _hangs_up(cluster.connect("TLS"))
    assert not await _hangs_up(listener)
    await admin.upsert_scram("board", "a password")

    async def password_works() -> bool:
        return bool((await cluster.connect("SCRAM", password="a password").describe_cluster()).cluster_id)

    await _until(password_works, "the password is known to every broker")


async def _hangs_up(client: KafkaAdmin) -> bool:
    """Whether a broker ends the connection at the TLS handshake, which under TLS 1.3 a client sees when it reads."""
    host, _, port = client.settings.bootstrap_servers[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=client.settings.ssl_context())
    try:
        async with asyncio.timeout(1):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except (ssl.SSLError, ConnectionError):
        return True
    finally:
        writer.close()


async def _dynamic_keys_are_as_the_table_says(version: str, admin: KafkaAdmin) -> None:
    values = (await admin.describe_broker_configs([0]))[0]
    changeable = {key for key, value in values.items() if not value.read_only and not is_owned(key)}
    assert broker_config.DYNAMIC_KEYS - changeable == set(), "in the table, but not dynamic in this version"
    missed = changeable - broker_config.DYNAMIC_KEYS - LEFT_OUT
    assert not missed or version != KAFKA_VERSIONS[0], f"dynamic, but not in the table: {sorted(missed)}"
    wanted = broker_config.dynamic({"log.cleaner.threads": "2"}, 3)
    changes = broker_config.dynamic_changes(wanted, await admin.describe_broker_defaults())
    assert changes["log.cleaner.threads"] == "2"
    await admin.alter_broker_configs(changes)

    async def settled() -> bool:
        return broker_config.dynamic_changes(wanted, await admin.describe_broker_defaults()) == {}

    await _until(settled, "nothing is left to change")
    assert (await admin.describe_topic_configs({"orders": None}))["orders"]["min.insync.replicas"].value == "2"


async def _a_lost_disk_is_replaced(cluster: RunningCluster, admin: KafkaAdmin) -> None:
    (cluster.folder / "identity" / "bootstrapped").write_text("true")
    before = await admin.describe_quorum()
    lost = cluster.nodes[before.leader_id]
    assert lost.process is not None
    lost.process.stop()
    shutil.rmtree(lost.data)
    lost.start()

    async def whole_again() -> bool:
        quorum = await admin.describe_quorum()
        return {v.id for v in quorum.voters} == {0, 1, 2} and _directory(quorum, lost.node.id) not in (
            None,
            _directory(before, lost.node.id),
        )

    await _until(whole_again, f"node {lost.node.id} votes with its new disk")

    async def in_sync() -> bool:
        topic = (await admin.describe_topics(["orders"]))["orders"]
        return all(len(partition.isr) == 3 for partition in topic.partitions)

    await _until(in_sync, "its replicas are in sync")


def _directory(quorum: QuorumDescription, node: int) -> str | None:
    found = [voter.directory_id for voter in quorum.voters if voter.id == node]
    return found[0] if len(found) == 1 else None
