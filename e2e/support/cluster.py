"""A Kafka cluster under test: its objects in one namespace, and clients that reach it from outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from e2e.support import kafka
from e2e.support.kubectl import Body, Kubectl


@dataclass(frozen=True)
class KafkaCluster:
    """MessagingCluster ``name`` in the namespace of ``space``; ``user`` may do everything with topics and groups."""

    space: Kubectl
    name: str
    user: str

    @property
    def reference(self) -> dict[str, str]:
        """A clusterRef that works from any namespace."""
        return {"name": self.name, "namespace": self.space.namespace}

    def body(self) -> Body:
        """The MessagingCluster as it is now."""
        found = self.space.get("messagingcluster", self.name)
        assert found is not None, f"MessagingCluster {self.name} is gone"
        return found

    def client(
        self, user: str | None = None, *, listener: str = "outside", space: Kubectl | None = None
    ) -> kafka.Config:
        """Configuration of a client of a User (of this cluster's namespace, unless ``space`` is another)."""
        servers = kafka.bootstrap_servers(self.body(), listener)
        return kafka.client_config(space or self.space, f"{user or self.user}-kafka", servers)

    def produce(self, topic: str, records: Iterable[kafka.Write]) -> int:
        """Produce from outside and wait for every acknowledgement."""
        return kafka.produce(self.client(), topic, records)

    def read(self, topic: str) -> list[kafka.Read]:
        """All that is committed in a topic."""
        return kafka.read_topic(self.client(), topic)

    def pods(self) -> list[Body]:
        """Pods of the Kafka nodes, by name."""
        return sorted(
            self.space.list("pods", labels={"sluice.dev/cluster": self.name, "app.kubernetes.io/name": "kafka"}),
            key=lambda pod: str(pod["metadata"]["name"]),
        )

    def pod_uids(self) -> dict[str, str]:
        """uid of each pod by its name: the same uids mean that nothing was restarted by being replaced."""
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in self.pods()}

    def patch(self, spec: Any) -> None:
        """Change the spec (JSON merge patch)."""
        self.space.run("patch", "messagingcluster", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def wait_ready(self, timeout: float = 300, seen: Callable[[Body | None], None] | None = None) -> Body:
        """Wait until the cluster is ready for its present generation."""
        return self.space.wait_ready("messagingcluster", self.name, timeout=timeout, seen=seen)


def numbered(count: int, *, keys: int = 20, start: int = 0, timestamp: int | None = None) -> list[kafka.Write]:
    """Records that can be told apart and put in order: values count up, keys go round, each with a header."""
    return [
        kafka.Write(
            key=b"key-%d" % (number % keys),
            value=b"%d" % number,
            timestamp=None if timestamp is None else timestamp + number,
            headers=(("number", b"%d" % number),),
        )
        for number in range(start, start + count)
    ]
