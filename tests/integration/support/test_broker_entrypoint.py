"""What the broker image's entrypoint does with each disk it may find, with Kafka's own tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from sluice.versions import DEFAULT_KAFKA_VERSION, KAFKA_VERSIONS
from tests.support.kafka import BROKER_IMAGE, image_folder, kafka_uuid
from tests.support.processes import Process, free_port, wait_until

METRICS = {
    "metric.reporters": "io.strimzi.kafka.metrics.KafkaPrometheusMetricsReporter",
    "kafka.metrics.reporters": "io.strimzi.kafka.metrics.YammerPrometheusMetricsReporter",
    "prometheus.metrics.reporter.listener.enable": "true",
    "prometheus.metrics.reporter.allowlist": "kafka_.*,jvm_.*,process_.*",
}


@dataclass
class Node:
    """A node as Kubernetes would mount it: image, configuration, identity and volume in folders."""

    folder: Path
    id: int
    version: str
    voters: str
    """``id@host:port:directoryId,…``"""
    broker: int
    controller: int
    metrics: int
    roles: str = "broker,controller"

    @property
    def data(self) -> Path:
        return self.folder / "volume" / "data"

    def prepare(self, cluster_id: str) -> None:
        config = self.folder / "config"
        config.mkdir(parents=True)
        self.data.parent.mkdir()
        settings = {
            "process.roles": self.roles,
            "node.id": str(self.id),
            "log.dirs": str(self.data),
            "controller.quorum.bootstrap.servers": ",".join(
                voter.split("@")[1].rpartition(":")[0] for voter in self.voters.split(",")
            ),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "offsets.topic.replication.factor": "1",
            "prometheus.metrics.reporter.listener": f"http://127.0.0.1:{self.metrics}",
            **METRICS,
        }
        listeners = f"PLAINTEXT://127.0.0.1:{self.broker}"
        if "controller" in self.roles:
            settings["controller.quorum.auto.join.enable"] = "true"
            listeners += f",CONTROLLER://127.0.0.1:{self.controller}"
        settings["listeners"] = listeners
        (config / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self.identify(cluster_id)

    def identify(self, cluster_id: str, *, bootstrapped: bool = False) -> None:
        identity = self.folder / "identity"
        identity.mkdir(exist_ok=True)
        (identity / "cluster-id").write_text(cluster_id)
        (identity / "initial-controllers").write_text(self.voters)
        (identity / "bootstrapped").write_text("true" if bootstrapped else "false")
        (identity / "format-version").write_text(self.version)

    def environment(self, path: str) -> dict[str, str]:
        return {
            "PATH": path,
            "NODE_ID": str(self.id),
            "PROCESS_ROLES": self.roles,
            "KAFKA_HEAP_OPTS": "-Xms128m -Xmx320m",
            "KAFKA_JVM_OPTS": "-XX:TieredStopAtLevel=1",  # it won't run for long
            "KAFKA_HOME": str(image_folder(self.version)),
            "KAFKA_PROPERTIES": str(self.folder / "config" / "server.properties"),
            "KAFKA_IDENTITY": str(self.folder / "identity"),
        }

    def start(self) -> Process:
        entry = str(BROKER_IMAGE / "entrypoint.sh")
        return Process(["sh", entry], self.folder / "node.log", self.environment(os.environ["PATH"]))

    def judge(self) -> subprocess.CompletedProcess[str]:
        """Run the entrypoint up to the start of the broker, in whose place stands a word."""
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        java = programs / "java"
        real = shutil.which("java")
        java.write_text(f'#!/bin/sh\ncase " $* " in *" kafka.Kafka "*) echo started ;; *) exec {real} "$@" ;; esac\n')
        java.chmod(0o755)
        environment = self.environment(f"{programs}:{os.environ['PATH']}")
        entry = str(BROKER_IMAGE / "entrypoint.sh")
        return subprocess.run(["sh", entry], env=environment, capture_output=True, text=True, timeout=60)

    def meta(self) -> dict[str, str]:
        lines = (self.data / "meta.properties").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def nodes(folder: Path, count: int, cluster_id: str, version: str = DEFAULT_KAFKA_VERSION) -> list[Node]:
    ports = [free_port() for _ in range(count)]
    directories = [kafka_uuid() for _ in range(count)]
    voters = ",".join(f"{i}@127.0.0.1:{ports[i]}:{directories[i]}" for i in range(count))
    made = [Node(folder / str(i), i, version, voters, free_port(), ports[i], free_port()) for i in range(count)]
    for node in made:
        node.prepare(cluster_id)
    return made


@pytest.fixture
def cluster_id() -> str:
    return kafka_uuid()


@pytest.fixture
def node(tmp_path: Path, cluster_id: str) -> Node:
    return nodes(tmp_path, 1, cluster_id)[0]


def test_an_initial_controller_of_a_new_cluster_is_formatted_with_its_recorded_directory_id(
    node: Node, cluster_id: str
) -> None:
    done = node.judge()
    assert done.returncode == 0, done.stderr
    assert "started" in done.stdout
    assert node.meta()["cluster.id"] == cluster_id
    assert node.meta()["directory.id"] == node.voters.rpartition(":")[2]


def test_a_formatted_disk_is_not_formatted_again(node: Node) -> None:
    node.judge()
    before = (node.data / "meta.properties").stat().st_mtime_ns
    done = node.judge()
    assert "started" in done.stdout
    assert "formatting" not in done.stdout
    assert (node.data / "meta.properties").stat().st_mtime_ns == before


def test_a_disk_of_another_cluster_is_refused_and_left_alone(node: Node, cluster_id: str) -> None:
    node.judge()
    before = (node.data / "meta.properties").read_bytes()
    other = kafka_uuid()
    node.identify(other)
    done = node.judge()
    assert done.returncode == 1
    assert "started" not in done.stdout
    assert f"belongs to the Kafka cluster {cluster_id}, and this node to {other}" in done.stderr
    assert (node.data / "meta.properties").read_bytes() == before


def test_a_disk_of_another_node_is_refused(node: Node) -> None:
    node.judge()
    properties = node.folder / "config" / "server.properties"
    properties.write_text(properties.read_text().replace("node.id=0", "node.id=7"))
    node.id = 7
    done = node.judge()
    assert done.returncode == 1
    assert "belongs to node 0 of this cluster, and this is node 7" in done.stderr


def test_records_without_an_identity_are_refused_and_left_alone(node: Node) -> None:
    segment = node.data / "orders-0" / "00000000000000000000.log"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"records")
    done = node.judge()
    assert done.returncode == 1
    assert "has no meta.properties but isn't empty" in done.stderr
    assert str(segment) in done.stderr
    assert segment.read_bytes() == b"records"


def test_a_format_that_was_killed_is_done_again(node: Node) -> None:
    node.judge()
    (node.data / "meta.properties").rename(node.data / "meta.properties.tmp")
    done = node.judge()
    assert done.returncode == 0, done.stderr
    assert node.meta()["directory.id"] == node.voters.rpartition(":")[2]
    assert not (node.data / "meta.properties.tmp").exists()


def test_an_empty_disk_never_bootstraps_a_cluster_that_has_worked_before(node: Node, cluster_id: str) -> None:
    node.identify(cluster_id, bootstrapped=True)
    done = node.judge()
    assert done.returncode == 0, done.stderr
    assert "joins the cluster" in done.stdout
    assert node.meta()["directory.id"] != node.voters.rpartition(":")[2]


def test_a_broker_that_is_no_initial_controller_joins(node: Node, tmp_path: Path, cluster_id: str) -> None:
    joining = Node(tmp_path / "j", 5, node.version, node.voters, free_port(), 0, free_port(), roles="broker")
    joining.prepare(cluster_id)
    done = joining.judge()
    assert done.returncode == 0, done.stderr
    assert "joins the cluster" in done.stdout


def test_a_node_without_its_identity_says_so(node: Node) -> None:
    (node.folder / "identity" / "cluster-id").unlink()
    done = node.judge()
    assert done.returncode == 1
    assert "identity Secret isn't mounted" in done.stderr


@pytest.mark.parametrize("version", KAFKA_VERSIONS)
def test_a_node_serves_metrics_and_hands_over_when_it_is_asked_to_stop(
    version: str, tmp_path: Path, cluster_id: str
) -> None:
    (node,) = nodes(tmp_path, 1, cluster_id, version)
    process = node.start()
    try:
        wait_until(lambda: "Kafka Server started" in process.tail(100_000), 180, "the broker's start", every=0.2)
        text = urllib3.request("GET", f"http://127.0.0.1:{node.metrics}/metrics").data.decode()
        for name in (
            "kafka_server_replicamanager_underreplicatedpartitions",
            "kafka_controller_kafkacontroller_activecontrollercount",
            "kafka_server_kafkarequesthandlerpool_requesthandleravgidle",
            "jvm_memory_used_bytes",
        ):
            assert name in text
        process.stop()
        assert process.exit_code == 143  # by SIGTERM, after its shutdown hook
        assert "shut down completed" in process.tail(100_000)
    finally:
        process.kill()


def test_a_controller_that_lost_its_disk_comes_back_as_a_voter(tmp_path: Path, cluster_id: str) -> None:
    three = nodes(tmp_path, 3, cluster_id)
    processes = [node.start() for node in three]
    try:

        def voters() -> dict[int, str]:
            try:
                admin = KafkaAdminClient(bootstrap_servers=[f"127.0.0.1:{three[1].broker}"], bootstrap_timeout_ms=2000)
            except KafkaError:
                return {}
            try:
                quorum = admin.describe_metadata_quorum()
                partition = quorum["topics"][0]["partitions"][0]
                return {v["replica_id"]: str(v["replica_directory_id"]) for v in partition["current_voters"]}
            except KafkaError:
                return {}
            finally:
                admin.close()

        wait_until(lambda: voters().keys() == {0, 1, 2}, 180, "a quorum of three", every=0.5)
        before = voters()
        processes[0].kill()
        shutil.rmtree(three[0].data)
        for node in three:
            node.identify(cluster_id, bootstrapped=True)
        processes[0] = three[0].start()
        wait_until(
            lambda: (now := voters()).keys() == {0, 1, 2} and now[0] != before[0], 180, "the new directory", every=0.5
        )
    finally:
        for process in processes:
            process.kill()
