"""Which broker configurations are the operator's own: it computes them, so nobody else may set them."""

from __future__ import annotations

import re
from typing import Final

from sluice.api.base import CONFIG_KEY

OWNED_KEYS: Final[tuple[str, ...]] = (
    "advertised.listeners",
    "allow.everyone.if.no.acl.found",
    "authorizer.class.name",
    "auto.include.jmx.reporter",
    "broker.id",
    "broker.rack",
    "cluster.id",
    "early.start.listeners",
    "kafka.metrics.reporters",
    "listeners",
    "log.dir",
    "log.dirs",
    "metadata.log.dir",
    "metric.reporters",
    "node.id",
    "principal.builder.class",
    "process.roles",
    "security.inter.broker.protocol",
    "security.providers",
    "super.users",
)
OWNED_PREFIXES: Final[tuple[str, ...]] = (
    "controller.",
    "inter.broker.",
    "listener.",
    "prometheus.metrics.reporter.",
    "sasl.",
    "ssl.",
    "zookeeper.",
)

OWNED_MESSAGE: Final = (
    "config has a key that the operator owns: leave out "
    + ", ".join(OWNED_KEYS)
    + " and whatever starts with "
    + ", ".join(OWNED_PREFIXES)
    + " (listeners, storage, racks and authentication have fields of their own)"
)


def is_owned(key: str) -> bool:
    """Whether the operator alone sets this broker configuration."""
    return key in OWNED_KEYS or key.startswith(OWNED_PREFIXES)


def may_set(key: str) -> bool:
    """Whether a user may set this broker configuration: it is the name of one, and not the operator's."""
    return re.fullmatch(CONFIG_KEY, key) is not None and not is_owned(key)


def owned_rule() -> str:
    """What :func:`is_owned` says as a CEL rule on the map of configurations."""
    keys = ", ".join(f"'{key}'" for key in OWNED_KEYS)
    prefixes = " && ".join(f"!k.startsWith('{prefix}')" for prefix in OWNED_PREFIXES)
    return f"self.all(k, !(k in [{keys}]) && {prefixes})"
