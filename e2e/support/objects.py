"""Objects that scenarios apply, as small as they can be; and the quickstart's own, moved to another namespace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.support.kubectl import Body

API: Final = "sluice.dev/v1alpha1"
QUICKSTART: Final = Path(__file__).parents[2] / "examples" / "quickstart"


def _object(kind: str, name: str, spec: Body) -> Body:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def namespace(name: str) -> Body:
    """A namespace that the suite knows as its own, under the strictest Pod Security Standard."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {"sluice-e2e": "true", "pod-security.kubernetes.io/enforce": "restricted"},
        },
    }


def pool(name: str, *roles: str, replicas: int = 1) -> Body:
    """A pool of small nodes."""
    return {
        "name": name,
        "roles": list(roles),
        "replicas": replicas,
        "storage": {"size": "1Gi"},
        "jvm": {"heap": "256m", "options": ["-XX:TieredStopAtLevel=1"]},  # it won't run for long
        "resources": {"requests": {"cpu": "50m", "memory": "400Mi"}},
    }


def cluster(name: str, *, host: str, nodes: int = 1, config: dict[str, str] | None = None, **spec: Any) -> Body:
    """A small cluster of combined nodes; ``host`` is where a NodePort is reached. ``spec`` goes over all of it."""
    return _object(
        "MessagingCluster",
        name,
        {
            "nodePools": [pool("nodes", "controller", "broker", replicas=nodes)],
            "listeners": [
                {"name": "tls", "port": 9093},
                {"name": "outside", "port": 9095, "type": "NodePort", "advertisedHost": host},
                {
                    "name": "password",
                    "port": 9096,
                    "type": "NodePort",
                    "authentication": "SCRAM-SHA-512",
                    "advertisedHost": host,
                },
            ],
            "config": config or {},
            **spec,
        },
    )


def topic(name: str, reference: Body, *, partitions: int = 1, replicas: int = 1, **spec: Any) -> Body:
    """A Topic that keeps records however old."""
    config = {"retention.ms": "-1", **spec.pop("config", {})}
    return _object(
        "Topic",
        name,
        {"clusterRef": reference, "partitions": partitions, "replicas": replicas, "config": config, **spec},
    )


def user(name: str, reference: Body, *, authentication: str = "TLS", acls: Sequence[Body] | None = None) -> Body:
    """A User who may read and write every topic and group and look at the cluster, unless ``acls`` says otherwise."""
    everything = [
        {"resource": "Cluster", "operations": ["Describe", "DescribeConfigs"]},
        *({"resource": kind, "name": "*", "operations": ["All"]} for kind in ("Topic", "Group", "TransactionalId")),
    ]
    return _object(
        "User",
        name,
        {"clusterRef": reference, "authentication": authentication, "acls": everything if acls is None else list(acls)},
    )


def group(name: str, reference: Body, topics: Sequence[str], **spec: Any) -> Body:
    """A ConsumerGroup that starts at the first record."""
    return _object(
        "ConsumerGroup",
        name,
        {"clusterRef": reference, "topics": list(topics), "startPosition": {"from": "Earliest"}, **spec},
    )


def replay(name: str, reference: Body, source: str, target: str, range_: Body | None = None, **spec: Any) -> Body:
    """A ReplayJob that copies ``source`` (all of it, unless a range is given) to ``target``."""
    return _object(
        "ReplayJob",
        name,
        {
            "clusterRef": reference,
            "source": {"topic": source, **({"range": range_} if range_ else {})},
            "target": {"topic": target},
            **spec,
        },
    )


def quickstart(namespace_name: str, host: str) -> list[Body]:
    """The manifests of ``examples/quickstart`` without their namespace, for another one and for this machine."""
    found: list[Body] = []
    for path in sorted(QUICKSTART.glob("*.yaml")):
        for body in yaml.safe_load_all(path.read_text()):
            if body["kind"] == "Namespace":
                continue
            body["metadata"]["namespace"] = namespace_name
            for listener in body["spec"].get("listeners", []):
                if "advertisedHost" in listener:
                    listener["advertisedHost"] = host
            found.append(body)
    return found
