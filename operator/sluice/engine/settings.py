"""Settings of the operator, from its environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice import __version__

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Settings:
    """What the chart, or a developer, sets.

    Attributes:
        namespace: the operator's own namespace.
        watch_namespaces: namespaces that are looked after; empty: all.
        identity: this replica's name in the Lease.
        lease: name of the Lease, in the operator's own namespace, by which one replica leads.
        service: name of the webhook's Service.
        webhook_secret: Secret that holds the webhook's certificate.
        webhook_configuration: name of the Validating- and MutatingWebhookConfiguration of the chart; empty: none.
        operator_image: image of the operator, which replay workers run too.
        image_pull_secrets: names of Secrets for pulling the operator's image, for pods of replays, in their namespaces.
        broker_image: image of brokers; ``{version}`` stands for Kafka's version.
        resync_seconds: seconds between two comparisons of everything known with the API server.
        concurrency: lanes that are reconciled side by side.
        queue_limit: keys waiting above which event handlers are slowed.
        lease_seconds: seconds after which a silent leader is followed by another.
    """

    namespace: str
    identity: str
    watch_namespaces: tuple[str, ...] = ()
    lease: str = "sluice-operator"
    service: str = "sluice-webhook"
    webhook_secret: str = "sluice-webhook"  # noqa: S105 - a name
    webhook_configuration: str = ""
    metrics_port: int = 8080
    webhook_port: int = 8443
    operator_image: str = f"localhost/sluice/operator:{__version__}"
    image_pull_secrets: tuple[str, ...] = ()
    broker_image: str = f"localhost/sluice/broker:{__version__}-kafka-{{version}}"
    log_level: str = "INFO"
    resync_seconds: float = 600.0
    concurrency: int = 16
    queue_limit: int = 10_000
    lease_seconds: float = 15.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Raises:
            ValueError: one of them can't be read; the text says which.
        """
        env = os.environ if environment is None else environment
        service = env.get("SLUICE_SERVICE", cls.service)
        return cls(
            namespace=env.get("SLUICE_NAMESPACE") or _own_namespace(),
            identity=env.get("SLUICE_POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
            watch_namespaces=_names(env, "SLUICE_WATCH_NAMESPACES"),
            lease=env.get("SLUICE_LEASE", cls.lease),
            service=service,
            webhook_secret=env.get("SLUICE_WEBHOOK_SECRET") or service,
            webhook_configuration=env.get("SLUICE_WEBHOOK_CONFIGURATION", ""),
            metrics_port=_integer(env, "SLUICE_METRICS_PORT", cls.metrics_port),
            webhook_port=_integer(env, "SLUICE_WEBHOOK_PORT", cls.webhook_port),
            operator_image=env.get("SLUICE_OPERATOR_IMAGE", cls.operator_image),
            image_pull_secrets=_names(env, "SLUICE_IMAGE_PULL_SECRETS"),
            broker_image=env.get("SLUICE_BROKER_IMAGE", cls.broker_image),
            log_level=env.get("SLUICE_LOG_LEVEL", cls.log_level).upper(),
            resync_seconds=float(_integer(env, "SLUICE_RESYNC_SECONDS", int(cls.resync_seconds))),
            concurrency=_integer(env, "SLUICE_CONCURRENCY", cls.concurrency),
            lease_seconds=float(_integer(env, "SLUICE_LEASE_SECONDS", int(cls.lease_seconds))),
        )

    def broker_image_for(self, version: str) -> str:
        """Image of a broker of this Kafka version."""
        return self.broker_image.replace("{version}", version)


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def _names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in env.get(name, "").split(",") if text.strip())


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name}={text!r}: a whole number above 0 is needed")
    return int(text)
