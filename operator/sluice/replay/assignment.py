"""What a worker is told to do: the frozen plan as the JSON file that the Kubernetes Job mounts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sluice.replay.errors import BadPlanError
from sluice.replay.rules import NO_RULES, RecordRules

FORMAT: Final = 1


def transactional_id(prefix: str, shard: int) -> str:
    """The id under which the records and positions of ``shard`` are committed, by one producer at a time."""
    return f"{prefix}-{shard}"


@dataclass(frozen=True, slots=True)
class Access:
    """How a cluster is reached. ``credentials`` is a folder inside the mounted credentials (``""``: that one)."""

    bootstrap_servers: tuple[str, ...]
    tls: bool = False
    sasl_mechanism: str | None = None
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class TopicRoute:
    """A source topic, where its records go, and under which topic's name positions are committed.

    Positions are committed on the target's cluster, where a source topic of another cluster doesn't exist: then
    ``positions`` is the target topic. ``max_batch_bytes`` is the target's ``max.message.bytes``. Ids are as Kafka
    prints them.
    """

    source: str
    source_id: str
    target: str
    target_id: str
    positions: str
    max_batch_bytes: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The range of one partition: offsets ``[start, end)`` of ``topic`` (an index of the routes) and who copies it."""

    topic: int
    partition: int
    start: int
    end: int
    shard: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the worker's work and memory."""

    transaction_bytes: int = 256 * 1024 * 1024
    transaction_ms: int = 1000
    buffer_bytes: int = 48 * 1024 * 1024
    fetch_bytes: int = 8 * 1024 * 1024
    request_bytes: int = 8 * 1024 * 1024
    transaction_timeout_ms: int = 60_000
    stall_seconds: int = 300


@dataclass(frozen=True, slots=True)
class Assignment:
    """A whole replay; a worker does the slices of its shard. Times are Unix milliseconds, ``to_ms`` is exclusive."""

    name: str
    source: Access
    target: Access
    group: str
    transactional_id_prefix: str
    routes: tuple[TopicRoute, ...]
    slices: tuple[Slice, ...]
    from_ms: int | None = None
    to_ms: int | None = None
    limits: Limits = field(default_factory=Limits)
    rules: RecordRules = NO_RULES

    def transactional_id(self, shard: int) -> str:
        """The id that fences earlier workers of ``shard``."""
        return transactional_id(self.transactional_id_prefix, shard)

    def to_json(self) -> str:
        """The plan as JSON; slices are rows of numbers, so that thousands of them fit into a ConfigMap.

        Rules are in it only if there are some: a worker of an earlier release reads it if it can do all of it.
        """
        value = asdict(self) | {
            "format": FORMAT,
            "slices": [[s.topic, s.partition, s.start, s.end, s.shard] for s in self.slices],
        }
        del value["rules"]
        if (rules := self.rules.as_json()) is not None:
            value["rules"] = rules
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """Read a plan.

        Raises:
            BadPlanError: it isn't one, or of another release.
        """
        try:
            value: dict[str, Any] = json.loads(text)
            if value.pop("format") != FORMAT:
                raise BadPlanError("the plan was written by another release of Sluice")
            return cls(
                **(
                    value
                    | {
                        "source": _access(value["source"]),
                        "target": _access(value["target"]),
                        "routes": tuple(TopicRoute(**route) for route in value["routes"]),
                        "slices": tuple(Slice(*row) for row in value["slices"]),
                        "limits": Limits(**value["limits"]),
                        "rules": RecordRules.read(value.get("rules")),
                    }
                )
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadPlanError(f"the plan can't be read: {error!r}") from error

    @classmethod
    def read(cls, path: Path) -> Assignment:
        """Read a plan from its file; errors as in ``from_json``."""
        try:
            return cls.from_json(path.read_text())
        except OSError as error:
            raise BadPlanError(f"the plan can't be read: {error}") from error


def _access(value: Mapping[str, Any]) -> Access:
    return Access(**{**value, "bootstrap_servers": tuple(value["bootstrap_servers"])})
