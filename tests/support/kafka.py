"""Real Kafka on loopback for integration tests: combined KRaft nodes from the jars of ``broker_image/pom.xml``."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from hack.cache import ROOT, cached_folder
from hack.jars import kafka_jars
from sluice.versions import DEFAULT_KAFKA_VERSION
from tests.support.certificates import CertificateAuthority, KeyPair
from tests.support.processes import Process, free_port, wait_until

BROKER_IMAGE = ROOT / "broker_image"
LOG4J = Path(__file__).parent / "log4j2.properties"
JAVA_OPTIONS = ("-Xms128m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
STARTUP_SECONDS = 180  # a busy machine; an idle one needs three


def kafka_uuid() -> str:
    """A random id as Kafka writes it, for clusters and directories; no leading dash: tools take it for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


@cache
def image_folder(version: str) -> Path:
    """What a broker image has in ``/opt/kafka``: jars, classes as an archive of the JVM, and the script to start it."""

    def fill(folder: Path) -> None:
        (folder / "bin").mkdir()
        for script in ("entrypoint.sh", "archive-classes.sh"):
            shutil.copy(BROKER_IMAGE / script, folder / "bin")
        (folder / "config").mkdir()
        shutil.copy(BROKER_IMAGE / "log4j2.properties", folder / "config")
        (folder / "libs").symlink_to(kafka_jars(version))
        command = [str(folder / "bin" / "archive-classes.sh"), str(folder / "classes.jsa")]
        done = subprocess.run(command, env={**os.environ, "KAFKA_HOME": str(folder)}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` failed ({done.returncode}):\n{done.stderr[-4000:]}")

    digest = hashlib.sha256()
    for file in ("entrypoint.sh", "archive-classes.sh", "log4j2.properties"):
        digest.update((BROKER_IMAGE / file).read_bytes())
    # The JVM leaves an archive alone that another one made, or of jars that have changed since.
    digest.update(subprocess.run([_program(), "-version"], capture_output=True, check=True).stderr)
    digest.update(str((kafka_jars(version) / ".stamp").stat().st_mtime_ns).encode())
    return cached_folder(f"kafka-{version}", digest.hexdigest(), fill)


def java(version: str) -> list[str]:
    """The beginning of a command that runs a class out of Kafka's jars."""
    home = image_folder(version)
    options = [*JAVA_OPTIONS, f"-XX:SharedArchiveFile={home / 'classes.jsa'}", f"-Dlog4j2.configurationFile={LOG4J}"]
    return [_program(), *options, "-cp", f"{home / 'libs'}/*"]


def _program() -> str:
    if (program := shutil.which("java")) is None:
        raise RuntimeError("Kafka needs Java 17, and there is no java: run `make setup`")
    return program


@dataclass
class KafkaServer:
    """One node: controller and broker. Its data outlives its process."""

    id: int
    folder: Path
    version: str
    ports: Mapping[str, int]
    """Port by listener: ``PLAINTEXT``, ``CONTROLLER``, and with TLS ``TLS`` (mTLS) and ``SCRAM`` (SASL_SSL)."""
    directory_id: str = field(default_factory=kafka_uuid)
    process: Process | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    def launch(self) -> None:
        """Start the process without waiting."""
        if self.running:
            raise RuntimeError(f"node {self.id} runs already")
        command = [*java(self.version), "kafka.Kafka", str(self.properties)]
        self.process = Process(command, self.folder / "server.log", {**os.environ, "LOG_DIR": str(self.folder)})

    def sees(self, brokers: set[int]) -> bool:
        """Whether this node answers, and knows ``brokers`` as alive."""
        if self.process is not None and not self.process.running:
            raise RuntimeError(f"node {self.id} ended ({self.process.exit_code}):\n{self.process.tail()}")
        with socket.socket() as plain:  # kafka-python logs each refused connection at length
            if plain.connect_ex(("127.0.0.1", self.ports["PLAINTEXT"])) != 0:
                return False
        try:
            client = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=5000)
        except KafkaError:
            return False
        try:
            known = client.describe_cluster()["brokers"]
            return brokers <= {broker["broker_id"] for broker in known if not broker.get("is_fenced")}
        except KafkaError:
            return False
        finally:
            client.close()


@dataclass
class KafkaCluster:
    """A running cluster; ``with start_cluster(…) as kafka`` stops it at the end."""

    folder: Path
    version: str
    cluster_id: str
    nodes: dict[int, KafkaServer]
    ca: CertificateAuthority | None = None

    @property
    def bootstrap(self) -> str:
        """``bootstrap.servers`` in plain text, without credentials."""
        return self.bootstrap_of("PLAINTEXT")

    def bootstrap_of(self, listener: str) -> str:
        """``bootstrap.servers`` of ``PLAINTEXT``, ``TLS`` or ``SCRAM``."""
        return ",".join(f"127.0.0.1:{node.ports[listener]}" for node in self.nodes.values())

    def certificate(self, common_name: str) -> KeyPair:
        """A client certificate that the listener TLS takes; the principal is ``User:CN=<common_name>``."""
        if self.ca is None:
            raise RuntimeError("the cluster was started without tls=True")
        return self.ca.issue(common_name)

    def kill(self, node: int) -> None:
        """End a node without warning (SIGKILL)."""
        process = self.nodes[node].process
        if process is not None:
            process.kill()

    def start(self, node: int) -> None:
        """Start a stopped node again, and wait until it serves and every running node knows it."""
        self.nodes[node].launch()
        self.wait_ready()

    def wait_ready(self, timeout: float = STARTUP_SECONDS) -> None:
        """Wait until each running node answers and knows all running ones."""
        running = {node.id for node in self.nodes.values() if node.process is not None and node.process.running}
        for node in [self.nodes[id] for id in running]:
            wait_until(lambda node=node: node.sees(running), timeout, f"Kafka node {node.id} (log: {node.folder})")  # type: ignore[misc]

    def stop(self) -> None:
        """End all nodes. At once: nobody waits for their data."""
        for node in self.nodes.values():
            if node.process is not None:
                node.process.kill()

    def __enter__(self) -> KafkaCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_cluster(
    folder: Path,
    brokers: int = 1,
    version: str = DEFAULT_KAFKA_VERSION,
    config: Mapping[str, str] | None = None,
    tls: bool = False,
    scram: Mapping[str, str] | None = None,
    features: Mapping[str, int] | None = None,
) -> KafkaCluster:
    """Format and start ``brokers`` combined nodes (ids from 0) and wait until all of them serve.

    ``config`` goes over the settings below, in every node. ``tls`` adds the listeners TLS and SCRAM with certificates
    of a CA of their own; ``scram`` are users (name → password) that exist from the start. ``features`` are levels other
    than the version's own (``transaction.version``). Without an authorizer in ``config`` everybody may do everything.
    """
    listeners = ["PLAINTEXT", "CONTROLLER", *(["TLS", "SCRAM"] if tls else [])]
    nodes = {
        id: KafkaServer(id, folder / f"node-{id}", version, {name: free_port() for name in listeners})
        for id in range(brokers)
    }
    cluster = KafkaCluster(folder, version, kafka_uuid(), nodes, CertificateAuthority("test CA") if tls else None)
    controllers = ",".join(f"127.0.0.1:{node.ports['CONTROLLER']}" for node in nodes.values())
    formats: list[Process] = []
    voters = ",".join(f"{n.id}@127.0.0.1:{n.ports['CONTROLLER']}:{n.directory_id}" for n in nodes.values())
    for node in nodes.values():
        node.folder.mkdir(parents=True)
        settings = _settings(node, brokers, controllers) | _tls_settings(node, cluster.ca) | dict(config or {})
        node.properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        tool = [*java(version), "kafka.tools.StorageTool", "format", "--config", str(node.properties)]
        tool += ["--cluster-id", cluster.cluster_id, "--initial-controllers", voters]
        for feature, level in (features or {}).items():
            tool += ["--feature", f"{feature}={level}"]
        for name, password in (scram or {}).items():
            tool += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        formats.append(Process(tool, node.folder / "format.log"))
    try:
        for process in formats:
            if process.wait() != 0:
                raise RuntimeError(f"formatting failed:\n{process.tail()}")
        for node in nodes.values():
            node.launch()
        cluster.wait_ready()
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _settings(node: KafkaServer, brokers: int, controllers: str) -> dict[str, str]:
    copies = str(min(3, brokers))
    in_sync = str(min(2, brokers))
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in node.ports.items())
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.id),
        "controller.quorum.bootstrap.servers": controllers,
        "controller.quorum.auto.join.enable": "true",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": addresses,
        "advertised.listeners": addresses,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SCRAM:SASL_SSL",
        "log.dirs": str(node.data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        # Few partitions and copies of the internal topics: they are made at first use, and a test waits for that.
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    }


def _tls_settings(node: KafkaServer, ca: CertificateAuthority | None) -> dict[str, str]:
    if ca is None:
        return {}
    pair = ca.issue(f"node-{node.id}")
    keystore, truststore = node.folder / "keystore.pem", node.folder / "truststore.pem"
    keystore.write_text(pair.key_pem + pair.cert_pem)
    truststore.write_text(ca.ca_pem)
    settings = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.tls.ssl.client.auth": "required",
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    for name in ("tls", "scram"):
        settings[f"listener.name.{name}.ssl.keystore.type"] = "PEM"
        settings[f"listener.name.{name}.ssl.keystore.location"] = str(keystore)
        settings[f"listener.name.{name}.ssl.truststore.type"] = "PEM"
        settings[f"listener.name.{name}.ssl.truststore.location"] = str(truststore)
    return settings
