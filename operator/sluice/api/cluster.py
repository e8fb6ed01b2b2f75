"""MessagingCluster: Kafka nodes run by Sluice, or a Kafka that already exists."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from sluice.api.base import (
    CONFIG_KEYS,
    MAX_CONFIGS,
    ConfigValue,
    FreeForm,
    Model,
    SecretKeyReference,
    Status,
    cel,
    rules,
    worded,
)
from sluice.api.broker_config import OWNED_MESSAGE, owned_rule
from sluice.api.replay_policy import ReplayPolicy
from sluice.api.topic import DeletionPolicy
from sluice.api.user import AuthenticationType
from sluice.versions import KAFKA_VERSIONS


class Role(StrEnum):
    """KRaft process roles."""

    CONTROLLER = "controller"
    BROKER = "broker"


class Storage(Model):
    """A node's volume."""

    model_config = rules(
        cel(
            "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "storageClassName can't be changed: Kubernetes has no way to move a volume; add a pool with the other class",
        ),
    )

    size: str = Field(
        pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
        max_length=30,
        json_schema_extra={
            **worded("size has to be a Kubernetes quantity such as 100Gi, without a sign"),
            "x-kubernetes-validations": [
                cel("!isQuantity(self) || quantity(self).isGreaterThan(quantity('0'))", "size has to be above zero"),
                cel(
                    "!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0",
                    "storage can't shrink: Kubernetes has no way to make a volume smaller; add a pool with smaller volumes",
                ),
            ],
        },
        description="Size, as a Kubernetes quantity. Can be raised where the storage class allows it.",
    )
    storage_class_name: str | None = Field(
        default=None, min_length=1, max_length=253, description="Storage class; the cluster's default unless said."
    )


class Jvm(Model):
    """The Java virtual machine of a node."""

    heap: str | None = Field(
        default=None,
        pattern=r"^[1-9][0-9]{0,9}[kKmMgG]$",
        max_length=11,
        json_schema_extra=worded("heap has to be a number and k, m or g, such as 2g"),
        description="Heap size (-Xms and -Xmx), such as `2g`. Half of the memory limit unless said, at most 6 GiB.",
    )
    options: list[
        Annotated[
            str,
            Field(
                pattern=r"^[^ \t\r\n]+$",
                max_length=1000,
                json_schema_extra=worded("an option of java is one word, without spaces or line breaks"),
            ),
        ]
    ] = Field(default_factory=list, max_length=50, description="Further options of `java`, one word each.")


class PodTemplate(Model):
    """What users add to the pods of nodes; what the operator needs stays its own."""

    labels: dict[str, str] = Field(default_factory=dict, description="Further labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Further annotations.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a Kubernetes node must have.")
    tolerations: list[FreeForm] = Field(default_factory=list, description="Tolerations.")
    affinity: FreeForm | None = Field(
        default=None, description="Affinity; replaces the default that spreads nodes over hosts."
    )
    topology_spread_constraints: list[FreeForm] = Field(
        default_factory=list, description="Topology spread constraints."
    )
    image_pull_secrets: list[str] = Field(default_factory=list, description="Names of Secrets for pulling the image.")
    priority_class_name: str | None = Field(default=None, description="Priority class.")


class NodePool(Model):
    """Nodes that are alike: same roles, storage, rack and resources."""

    model_config = rules(
        cel("self.roles == oldSelf.roles", "roles of a pool can't be changed: add another pool"),
    )

    name: str = Field(
        pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$",
        max_length=20,
        json_schema_extra=worded(
            "name of a pool may have lower-case letters, digits and - only, starts with a letter and doesn't end with -"
        ),
        description="Name of the pool; part of the names of its nodes.",
    )
    roles: list[Role] = Field(
        min_length=1,
        max_length=2,
        description="`controller`, `broker` or both.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    replicas: int = Field(ge=1, le=100, description="Number of nodes.")
    storage: Storage = Field(description="Each node's volume.")
    rack: str | None = Field(
        default=None,
        min_length=1,
        description="Rack (zone) of these nodes: told to Kafka as `broker.rack`, and the pods are scheduled only to Kubernetes nodes whose label `rackTopologyKey` has this value.",
    )
    rack_topology_key: str = Field(
        default="topology.kubernetes.io/zone", description="Label of Kubernetes nodes that names the rack."
    )
    resources: FreeForm | None = Field(default=None, description="Requests and limits of the Kafka container.")
    jvm: Jvm = Field(default=Jvm(), description="The Java virtual machine.")
    template: PodTemplate | None = Field(default=None, description="Replaces `spec.template` for this pool.")


class ListenerType(StrEnum):
    """How clients reach a listener."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class Listener(Model):
    """An address at which clients reach the brokers; always encrypted."""

    model_config = rules(
        cel(
            "self.type != 'NodePort' || has(self.advertisedHost)",
            "a NodePort listener needs advertisedHost: the name or address at which clients reach the Kubernetes nodes",
        ),
        cel(
            "self.type != 'ClusterIP' || !has(self.advertisedHost)",
            "a ClusterIP listener is advertised by the brokers' own names: leave advertisedHost out",
        ),
        cel("!has(self.nodePorts) || self.type == 'NodePort'", "nodePorts need type NodePort: leave them out"),
    )

    name: str = Field(
        pattern=r"^[a-z][a-z0-9]{0,10}$",
        max_length=11,
        json_schema_extra=worded(
            "name of a listener may have lower-case letters and digits only, and starts with a letter"
        ),
        description="Name of the listener.",
    )
    port: int = Field(ge=9092, le=65535, description="Port in the pods; 9090 and 9091 are the operator's.")
    type: ListenerType = Field(
        default=ListenerType.CLUSTER_IP,
        description="Inside the cluster, or from outside by NodePort or LoadBalancer (a Service for each broker).",
    )
    authentication: AuthenticationType = Field(
        default=AuthenticationType.TLS,
        description="How clients authenticate: by certificate (mTLS) or by password (SCRAM over TLS).",
    )
    advertised_host: str | None = Field(
        default=None,
        min_length=1,
        description="Host that clients are sent to; `{nodeId}` stands for the broker's id. A LoadBalancer's own address unless said.",
    )
    node_ports: dict[str, Annotated[int, Field(ge=1, le=65535)]] = Field(
        default_factory=dict,
        max_length=1000,
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "self.all(k, k == 'bootstrap' || k.matches('^(0|[1-9][0-9]*)$'))",
                    "a key of nodePorts has to be a node id, or bootstrap",
                )
            ]
        },
        description="With NodePort: fixed ports by node id, and `bootstrap`; Kubernetes chooses the others.",
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Annotations of the listener's Services (for load balancers)."
    )


class ExternalTls(Model):
    """Encryption to an external cluster."""

    ca_secret_ref: SecretKeyReference | None = Field(
        default=None, description="PEM certificates to trust; the system's unless said."
    )


class ExternalAuthenticationType(StrEnum):
    """How Sluice authenticates at an external cluster."""

    TLS = "TLS"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    PLAIN = "PLAIN"


class ExternalAuthentication(Model):
    """Credentials at an external cluster."""

    type: ExternalAuthenticationType = Field(description="Mechanism.")
    secret_name: str = Field(
        min_length=1, description="Secret with `username` and `password`, or with `tls.crt` and `tls.key` for TLS."
    )


class ExternalCluster(Model):
    """A Kafka that already exists and that Sluice doesn't run."""

    model_config = rules(
        cel(
            "!has(self.authentication) || self.authentication.type != 'TLS' || has(self.tls)",
            "authentication by TLS needs external.tls: a certificate can't be shown over plain text (tls: {} trusts the system's authorities)",
        ),
        cel(
            "!has(self.authentication) || self.authentication.type != 'PLAIN' || has(self.tls)",
            "PLAIN sends the password as it is: say external.tls too (tls: {} trusts the system's authorities), or use SCRAM",
        ),
    )

    bootstrap_servers: list[Annotated[str, Field(min_length=1, max_length=300)]] = Field(
        min_length=1, max_length=50, description="`host:port` of some brokers."
    )
    tls: ExternalTls | None = Field(default=None, description="Encrypt; plain text if left out.")
    authentication: ExternalAuthentication | None = Field(default=None, description="Credentials; none if left out.")


class Probe(Model):
    """The built-in probe: a topic with a partition led by each broker, written to and read all the time."""

    enabled: bool = Field(default=True, description="Whether the probe runs.")
    interval_seconds: int = Field(default=5, ge=1, le=3600, description="Seconds between two rounds.")


class NetworkPolicy(Model):
    """Who may connect to client listeners on the network level."""

    enabled: bool = Field(
        default=True,
        description="Whether NetworkPolicies are made: nodes and operator may reach the internal ports, clients the listeners.",
    )
    client_peers: list[FreeForm] = Field(
        default_factory=list, description="NetworkPolicyPeers that may reach the listeners; any if empty."
    )


class MessagingClusterSpec(Model):
    """What a cluster should be: nodes run by Sluice, or an external cluster."""

    model_config = rules(
        cel(
            "has(self.external) != has(self.nodePools)",
            "say either nodePools (Sluice runs Kafka) or external (it exists already)",
        ),
        cel(
            "has(self.external) == has(oldSelf.external)",
            "a cluster can't change between nodePools and external: make another one",
        ),
        cel(
            "!has(self.nodePools) || self.nodePools.exists(p, 'controller' in p.roles)",
            "at least one node pool needs the role controller",
        ),
        cel(
            "!has(self.nodePools) || self.nodePools.exists(p, 'broker' in p.roles)",
            "at least one node pool needs the role broker",
        ),
        cel(
            "!has(self.version) || self.version in [" + ", ".join(f"'{v}'" for v in KAFKA_VERSIONS) + "]",
            "unknown version: this release of Sluice runs Kafka " + ", ".join(KAFKA_VERSIONS),
            field_path=".version",
        ),
        # Fields with defaults are there even if nobody said them: what differs from the default was said.
        cel(
            "!has(self.external) || !(has(self.version) || has(self.image) || has(self.config) || has(self.template))",
            "an external cluster isn't Sluice's to set up: leave out version, image, config and template",
        ),
        cel(
            "!has(self.external) || self.listeners.all(l, l.name == 'tls' && l.port == 9093 && l.type == 'ClusterIP' && l.authentication == 'TLS')",
            "an external cluster has its own listeners: leave out listeners; external.bootstrapServers says where it is",
        ),
        cel(
            "!has(self.external) || (self.networkPolicy.enabled && !has(self.networkPolicy.clientPeers) && self.deletionPolicy == 'Retain')",
            "nothing of an external cluster is made or deleted by Sluice: leave out networkPolicy and deletionPolicy",
        ),
        cel(
            "!has(oldSelf.nodePools) || !has(self.nodePools) || (oldSelf.nodePools.filter(p, 'controller' in p.roles).all(p, self.nodePools.exists(q, q.name == p.name && q.replicas == p.replicas)) && self.nodePools.filter(p, 'controller' in p.roles).all(p, oldSelf.nodePools.exists(q, q.name == p.name)))",
            "controllers can't be added or removed: the number of controllers is decided when the cluster is made",
        ),
        cel(
            "!has(self.nodePools) || self.nodePools.filter(p, 'controller' in p.roles).map(p, p.replicas).sum() % 2 == 1",
            "an odd number of controllers is needed: with an even number one more failure isn't survived",
        ),
        cel(
            "self.listeners.all(a, self.listeners.filter(b, a.port == b.port).size() == 1)",
            "two listeners have the same port",
        ),
        cel(
            "self.listeners.all(a, !(a.name in ['controller', 'replication']))",
            "the listener names controller and replication are the operator's own",
        ),
    )

    version: str | None = Field(
        default=None,
        description=f"Kafka version: {', '.join(KAFKA_VERSIONS)}; the newest unless said (fixed in status when the cluster is made).",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        description="Broker image, if another than the operator's for this version. `version` has to be the Kafka version in it.",
    )
    node_pools: list[NodePool] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="Nodes that Sluice runs.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    external: ExternalCluster | None = Field(default=None, description="A Kafka that already exists.")
    config: dict[str, ConfigValue] = Field(
        default_factory=dict,
        max_length=MAX_CONFIGS,
        json_schema_extra={"x-kubernetes-validations": [*CONFIG_KEYS, cel(owned_rule(), OWNED_MESSAGE)]},
        description="Broker configuration as in Kafka's documentation; values are strings. Dynamic ones are changed without a restart, others by a rolling one.",
    )
    listeners: list[Listener] = Field(
        default=[Listener(name="tls", port=9093)],
        min_length=1,
        max_length=10,
        description="Where clients connect.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    template: PodTemplate = Field(default=PodTemplate(), description="What is added to every node's pod.")
    network_policy: NetworkPolicy = Field(default=NetworkPolicy(), description="Network policies.")
    probe: Probe = Field(default=Probe(), description="The built-in probe.")
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description="What becomes of volumes, keys and identity when this object is deleted. Retained ones are adopted by a cluster of the same name: same data, same cluster id, same credentials.",
    )
    replay_policy: ReplayPolicy | None = Field(default=None, description="What replays on this cluster need.")
    allowed_namespaces: list[Annotated[str, Field(min_length=1, max_length=63)]] = Field(
        default_factory=list,
        max_length=1000,
        description="Other namespaces whose objects may refer to this cluster; `*` is all.",
    )


class NodeStatus(Model):
    """One Kafka node."""

    id: int = Field(description="Kafka's node id.")
    name: str = Field(description="Name of the StatefulSet and the PersistentVolumeClaim.")
    pool: str = Field(description="Node pool.")
    ready: bool = Field(description="Whether the pod is ready.")
    current: bool = Field(description="Whether the pod runs what the spec asks for.")


class ListenerStatus(Model):
    """Where clients connect."""

    name: str = Field(description="Name of the listener.")
    bootstrap_servers: str = Field(description="Value for `bootstrap.servers`.")


class MessagingClusterStatus(Status):
    """What a cluster is."""

    cluster_id: str | None = Field(default=None, description="Kafka's cluster id.")
    version: str | None = Field(default=None, description="Kafka version that every node runs.")
    format_version: str | None = Field(
        default=None, description="Version the cluster was formatted with; no lower one can read its metadata."
    )
    brokers: int | None = Field(default=None, description="Number of brokers.")
    nodes: list[NodeStatus] = Field(default_factory=list, description="Kafka nodes that Sluice runs.")
    listeners: list[ListenerStatus] = Field(default_factory=list, description="Where clients connect.")
    ca_secret_name: str | None = Field(default=None, description="Secret whose `ca.crt` clients trust.")
