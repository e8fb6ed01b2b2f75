"""What a client needs to connect: the Secret of a User, with configurations for Java and for librdkafka."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sluice.api.base import GROUP
from sluice.manifests import labels

USER_LABEL: Final = f"{GROUP}/user"
USER_ANNOTATION: Final = f"{GROUP}/user"
"""Namespace and name of the User that a Secret belongs to; also where the name is too long for a label."""
LONGEST_LABEL: Final = 63

_JAVA: Final[dict[str, str]] = {
    # A broker that dies is left at once, and a new leader found within a fraction of a second.
    "reconnect.backoff.ms": "50",
    "reconnect.backoff.max.ms": "1000",
    "retry.backoff.ms": "50",
    "retry.backoff.max.ms": "500",
    "metadata.recovery.strategy": "rebootstrap",
    # Replays write in transactions: this is what makes them exactly once to a reader.
    "isolation.level": "read_committed",
}
_JAVA_PRODUCER: Final[dict[str, str]] = {"acks": "all", "enable.idempotence": "true"}
_LIBRDKAFKA: Final[dict[str, str]] = {
    "reconnect.backoff.ms": "50",
    "reconnect.backoff.max.ms": "1000",
    "retry.backoff.ms": "50",
    "retry.backoff.max.ms": "500",
    "topic.metadata.refresh.fast.interval.ms": "100",
}
_LIBRDKAFKA_PRODUCER: Final[dict[str, str]] = {
    "acks": "all",
    "enable.idempotence": "true",
    # Java's: librdkafka's own default would place the same key on another partition.
    "partitioner": "murmur2_random",
}


@dataclass(frozen=True)
class ClientAccess:
    """How a user connects: where, whom it trusts, and what it proves itself with (a certificate, or a password)."""

    user_name: str
    bootstrap_servers: str
    tls: bool = True
    ca_pem: str | None = None
    cert_pem: str | None = field(default=None, repr=False)
    key_pem: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def security_protocol(self) -> str:
        """Kafka's name of the protocol."""
        transport = "SSL" if self.tls else "PLAINTEXT"
        return f"SASL_{transport}" if self.password else transport


def java_properties(access: ClientAccess, *, producer: bool = False) -> str:
    """``client.properties`` of Java clients; certificates and key inline (PEM, KIP-651)."""
    properties = {"bootstrap.servers": access.bootstrap_servers, "security.protocol": access.security_protocol}
    if access.tls and access.ca_pem:
        properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": access.ca_pem}
    if access.cert_pem and access.key_pem:
        properties |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": access.cert_pem,
            "ssl.keystore.key": access.key_pem,
        }
    if access.password:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        properties |= {
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": f"{module} required"
            f" username={_jaas(access.user_name)} password={_jaas(access.password)};",
        }
    properties |= _JAVA | (_JAVA_PRODUCER if producer else {})
    return "".join(f"{key}={_escape(value)}\n" for key, value in properties.items())


def librdkafka_json(access: ClientAccess, *, producer: bool = False) -> str:
    """Configuration of librdkafka's clients as a JSON object, for ``Consumer(json.load(file))`` and the like."""
    config = {"bootstrap.servers": access.bootstrap_servers, "security.protocol": access.security_protocol}
    optional = {
        "ssl.ca.pem": access.ca_pem if access.tls else None,
        "ssl.certificate.pem": access.cert_pem,
        "ssl.key.pem": access.key_pem,
    }
    config |= {key: value for key, value in optional.items() if value}
    if access.password:
        config |= {
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": access.user_name,
            "sasl.password": access.password,
        }
    config |= _LIBRDKAFKA | (_LIBRDKAFKA_PRODUCER if producer else {})
    return json.dumps(config, indent=2) + "\n"


def secret_data(access: ClientAccess) -> dict[str, str]:
    """Everything that goes into a User's Secret, by key."""
    parts = {
        "ca.crt": access.ca_pem,
        "user.crt": access.cert_pem,
        "user.key": access.key_pem,
        "username": access.user_name,
        "password": access.password,
        "bootstrap.servers": access.bootstrap_servers,
        "client.properties": java_properties(access),
        "producer.properties": java_properties(access, producer=True),
        "librdkafka.json": librdkafka_json(access),
        "librdkafka-producer.json": librdkafka_json(access, producer=True),
    }
    return {key: value for key, value in parts.items() if value}


def user_secret(
    *,
    name: str,
    namespace: str,
    user: str,
    cluster: str,
    data: Mapping[str, str],
    annotations: Mapping[str, str],
    owner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The Secret of a User; without ``owner`` it outlives the object, and is adopted by one of the same name."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "labels": {
            labels.MANAGED_BY: "sluice",
            **_label(labels.CLUSTER, cluster),
            **_label(USER_LABEL, user),
        },
        "annotations": {USER_ANNOTATION: f"{namespace}/{user}", **annotations},
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def belongs_to(secret: Mapping[str, Any], namespace: str, user: str) -> bool:
    """Whether a Secret is the one of this User."""
    annotations = secret["metadata"].get("annotations") or {}
    return bool(annotations.get(USER_ANNOTATION) == f"{namespace}/{user}")


def _label(key: str, value: str) -> dict[str, str]:
    return {key: value} if len(value) <= LONGEST_LABEL else {}


def _escape(value: str) -> str:
    """A value as ``java.util.Properties`` reads it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _jaas(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
