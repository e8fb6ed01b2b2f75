"""Configuration of nodes: which keys are dynamic (changed in a running cluster), and ``server.properties`` of the rest.

Whether a key is dynamic is decided by a table and not by asking a broker: the answer must be the same before the first
broker runs and after, or a new cluster would be restarted once it has started. A test compares the table with what
brokers of each version say (``isReadOnly``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sluice.api.broker_config import may_set
from sluice.api.cluster import Listener
from sluice.api.user import AuthenticationType
from sluice.manifests import names
from sluice.manifests.node import Node
from sluice.plan.observed import ConfigValue

CONFIG_FOLDER: Final = "/etc/kafka/config"
TLS_FOLDER: Final = "/etc/kafka/tls"
DATA_FOLDER: Final = "/var/lib/kafka/data"

DYNAMIC_KEYS: Final[frozenset[str]] = frozenset(
    {
        "background.threads",
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.type",
        "compression.zstd.level",
        "follower.fetch.last.tiered.offset.enable",
        "group.consumer.assignment.interval.ms",
        "group.coordinator.cached.buffer.max.bytes",
        "group.share.assignment.interval.ms",
        "group.streams.assignment.interval.ms",
        "log.cleaner.backoff.ms",
        "log.cleaner.dedupe.buffer.size",
        "log.cleaner.delete.retention.ms",
        "log.cleaner.io.buffer.load.factor",
        "log.cleaner.io.buffer.size",
        "log.cleaner.io.max.bytes.per.second",
        "log.cleaner.max.compaction.lag.ms",
        "log.cleaner.min.cleanable.ratio",
        "log.cleaner.min.compaction.lag.ms",
        "log.cleaner.threads",
        "log.cleanup.policy",
        "log.flush.interval.messages",
        "log.flush.interval.ms",
        "log.index.interval.bytes",
        "log.index.size.max.bytes",
        "log.local.retention.bytes",
        "log.local.retention.ms",
        "log.message.timestamp.after.max.ms",
        "log.message.timestamp.before.max.ms",
        "log.message.timestamp.type",
        "log.preallocate",
        "log.retention.bytes",
        "log.retention.ms",
        "log.roll.jitter.ms",
        "log.roll.ms",
        "log.segment.bytes",
        "log.segment.delete.delay.ms",
        "max.connection.creation.rate",
        "max.connections",
        "max.connections.per.ip",
        "max.connections.per.ip.overrides",
        "message.max.bytes",
        "min.insync.replicas",
        "num.io.threads",
        "num.network.threads",
        "num.recovery.threads.per.data.dir",
        "num.replica.fetchers",
        "producer.id.expiration.ms",
        "remote.fetch.max.wait.ms",
        "remote.list.offsets.request.timeout.ms",
        "remote.log.index.file.cache.total.size.bytes",
        "remote.log.manager.copier.thread.pool.size",
        "remote.log.manager.copy.max.bytes.per.second",
        "remote.log.manager.expiration.thread.pool.size",
        "remote.log.manager.fetch.max.bytes.per.second",
        "remote.log.manager.follower.thread.pool.size",
        "remote.log.reader.threads",
        "share.coordinator.cached.buffer.max.bytes",
        "transaction.partition.verification.enable",
        "unclean.leader.election.enable",
    }
)
"""Keys that every version of Kafka that Sluice runs takes as default of all brokers while they run.

Those that only a later version takes so need a restart: what an upgrade does must not depend on where it has got to."""

_NOT_OURS: Final = ("leader.replication.throttled.", "follower.replication.throttled.")
"""Dynamic keys that reassignments set and remove: left alone."""


@dataclass(frozen=True)
class Endpoint:
    """One listener of a node: where it binds, what it advertises, whom it lets in.

    Attributes:
        name: Kafka's name of the listener.
        port: port that it binds at all addresses.
        advertised: ``host:port`` that peers and clients are told.
        authentication: how peers prove themselves; the transport is always TLS.
        truststore: file name of the authorities that sign its peers; None with SCRAM.
    """

    name: str
    port: int
    advertised: str
    authentication: AuthenticationType = AuthenticationType.TLS
    truststore: str | None = "cluster-ca.pem"

    @property
    def protocol(self) -> str:
        """Kafka's security protocol."""
        return "SSL" if self.authentication is AuthenticationType.TLS else "SASL_SSL"


@dataclass(frozen=True)
class Layout:
    """Where a node finds its files and serves its metrics; another one than the image's only in tests."""

    tls_folder: str = TLS_FOLDER
    data_folder: str = DATA_FOLDER
    metrics_port: int = names.METRICS_PORT


@dataclass(frozen=True)
class ClusterConfig:
    """What the configurations of all nodes have in common.

    Attributes:
        controllers: ``host:port`` of every controller.
        brokers: number of brokers.
        config: the user's, static keys only are used here.
    """

    controllers: Sequence[str]
    brokers: int
    config: Mapping[str, str] = field(default_factory=dict)


def endpoints(node: Node, listeners: Sequence[Listener], advertised: Mapping[str, str]) -> list[Endpoint]:
    """Listeners of a node.

    Args:
        node: the node.
        listeners: the cluster's client listeners.
        advertised: ``host:port`` of this broker by name of the listener.
    """
    found = []
    if node.is_broker:
        found.append(
            Endpoint(names.REPLICATION_LISTENER, names.REPLICATION_PORT, f"{node.host}:{names.REPLICATION_PORT}")
        )
        found += [
            Endpoint(
                listener.name.upper(),
                listener.port,
                advertised[listener.name],
                listener.authentication,
                "clients-ca.pem" if listener.authentication is AuthenticationType.TLS else None,
            )
            for listener in listeners
        ]
    if node.is_controller:
        found.append(Endpoint(names.CONTROLLER_LISTENER, names.CONTROLLER_PORT, f"{node.host}:{names.CONTROLLER_PORT}"))
    return found


def defaults(brokers: int) -> dict[str, str]:
    """Static keys that Sluice sets unless the user does: as safe as the number of brokers allows."""
    copies = str(min(3, brokers))
    in_sync = str(min_insync(brokers))
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "num.partitions": "3",
        "offsets.topic.replication.factor": copies,
        # Replays pause for weeks, and a group of classic members expires from when it became empty.
        "offsets.retention.minutes": "129600",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def min_insync(brokers: int) -> int:
    """Default of ``min.insync.replicas``: one broker may be down without writes being refused."""
    return 2 if brokers >= 3 else 1


def dynamic(config: Mapping[str, str], brokers: int) -> dict[str, str]:
    """What the default of all brokers should be: the user's dynamic keys and Sluice's own.

    ``min.insync.replicas`` must be one of them, since enabling ELR (KIP-966) deletes it from single brokers.
    """
    ours = {"min.insync.replicas": str(min_insync(brokers)), "unclean.leader.election.enable": "false"}
    return ours | {key: value for key, value in config.items() if key in DYNAMIC_KEYS}


def dynamic_changes(wanted: Mapping[str, str], observed: Mapping[str, ConfigValue]) -> dict[str, str | None]:
    """What has to be altered in the default of all brokers: key → value, or None to remove it.

    Keys that nobody asks for any more are removed, whoever set them (the spec says what is so); throttles of running
    reassignments stay.
    """
    changes: dict[str, str | None] = {
        key: value for key, value in sorted(wanted.items()) if key not in observed or observed[key].value != value
    }
    for key in sorted(observed):
        if key not in wanted and key in DYNAMIC_KEYS and not key.startswith(_NOT_OURS):
            changes[key] = None
    return changes


def in_turn(changes: Mapping[str, str | None], config: Mapping[str, str]) -> list[dict[str, str | None]]:
    """The changes as alterations to be made one after the other, what the user's config says last.

    Kafka makes an alteration as a whole or not at all: a value that it refuses must not keep safe ones from being set.
    """
    ours = {key: value for key, value in changes.items() if key not in config}
    users = {key: value for key, value in changes.items() if key in config}
    return [part for part in (ours, users) if part]


def server_properties(
    node: Node, node_endpoints: Sequence[Endpoint], cluster: ClusterConfig, layout: Layout | None = None
) -> str:
    """``server.properties`` of a node."""
    layout = layout or Layout()
    peer = [e for e in node_endpoints if e.name in (names.CONTROLLER_LISTENER, names.REPLICATION_LISTENER)]
    roles = [role for role, has in (("broker", node.is_broker), ("controller", node.is_controller)) if has]
    # A broker is a client of the controllers, so that it needs that listener's keys without having it.
    keyed = list(node_endpoints)
    if not node.is_controller:
        keyed.append(Endpoint(names.CONTROLLER_LISTENER, 0, ""))
    if not node.is_broker:
        keyed.append(Endpoint(names.REPLICATION_LISTENER, 0, ""))
    settings = {
        "process.roles": ",".join(roles),
        "node.id": str(node.id),
        "log.dirs": layout.data_folder,
        "listeners": ",".join(f"{e.name}://:{e.port}" for e in node_endpoints),
        "advertised.listeners": ",".join(f"{e.name}://{e.advertised}" for e in node_endpoints),
        "listener.security.protocol.map": ",".join(f"{e.name}:{e.protocol}" for e in keyed),
        "controller.listener.names": names.CONTROLLER_LISTENER,
        "controller.quorum.bootstrap.servers": ",".join(cluster.controllers),
        "inter.broker.listener.name": names.REPLICATION_LISTENER,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": f"User:{names.NODE_PRINCIPAL};User:{names.OPERATOR_PRINCIPAL}",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "ssl.endpoint.identification.algorithm": "https",
        "sasl.enabled.mechanisms": AuthenticationType.SCRAM_SHA_512.value,
        "auto.include.jmx.reporter": "true",
        "metric.reporters": "io.strimzi.kafka.metrics.KafkaPrometheusMetricsReporter",
        "kafka.metrics.reporters": "io.strimzi.kafka.metrics.YammerPrometheusMetricsReporter",
        "prometheus.metrics.reporter.listener.enable": "true",
        "prometheus.metrics.reporter.listener": f"http://:{layout.metrics_port}",
    }
    if not peer:
        raise ValueError(f"node {node.name} has neither role")
    if node.is_controller:
        # A controller that lost its disk takes its place among the voters again by itself (KIP-853).
        settings["controller.quorum.auto.join.enable"] = "true"
    if node.pool.rack is not None and node.is_broker:
        settings["broker.rack"] = node.pool.rack
    for endpoint in keyed:
        settings |= _security(endpoint, layout)
    settings |= defaults(cluster.brokers)
    settings |= static(cluster.config)
    return "".join(f"{key}={_escape(value)}\n" for key, value in sorted(settings.items()))


def static(config: Mapping[str, str]) -> dict[str, str]:
    """The user's keys that need a restart; those that a schema should have refused are left out."""
    return {key: value for key, value in config.items() if key not in DYNAMIC_KEYS and may_set(key)}


def _security(endpoint: Endpoint, layout: Layout) -> dict[str, str]:
    prefix = f"listener.name.{endpoint.name.lower()}"
    settings = {
        f"{prefix}.ssl.keystore.type": "PEM",
        f"{prefix}.ssl.keystore.location": f"{layout.tls_folder}/keystore.pem",
    }
    if endpoint.truststore is not None:
        settings |= {
            f"{prefix}.ssl.client.auth": "required",
            f"{prefix}.ssl.truststore.type": "PEM",
            f"{prefix}.ssl.truststore.location": f"{layout.tls_folder}/{endpoint.truststore}",
        }
    if endpoint.authentication is AuthenticationType.SCRAM_SHA_512:
        mechanism = endpoint.authentication.value
        settings |= {
            f"{prefix}.sasl.enabled.mechanisms": mechanism,
            f"{prefix}.{mechanism.lower()}.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
        }
    return settings


def _escape(value: str) -> str:
    """A value in the notation of ``java.util.Properties``: one line, backslashes doubled."""
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{text}" if text.startswith((" ", "\t")) else text
