"""What is asked of single records, as it stands in a worker's plan. None of it: whole batches are copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Match:
    """What a key or a header's value must be: exactly one of these, unless it may be anything."""

    exact: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    regex: str | None = None

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Match:
        """From JSON."""
        return cls(tuple(value["exact"]), tuple(value["prefix"]), value["regex"])


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """A header that there must be, with such a value (None: any), or mustn't (``absent``)."""

    name: str
    value: Match | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class RecordRules:
    """Which records are taken, and what is changed in them.

    ``hash_range`` is in per cent of murmur2's range, from (inclusive) and to (exclusive). ``mark`` is the value of the
    header ``sluice-replay-job``; None: records get no marks.
    """

    key: Match | None = None
    hash_range: tuple[int, int] | None = None
    headers: tuple[HeaderRule, ...] = ()
    exclude_replayed: bool = False
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    mark: str | None = None

    def as_json(self) -> dict[str, Any] | None:
        """As it stands in the plan; None if nothing is asked."""
        return None if self == NO_RULES else asdict(self)

    @classmethod
    def read(cls, value: Mapping[str, Any] | None) -> RecordRules:
        """From JSON."""
        if value is None:
            return NO_RULES
        key, share = value["key"], value["hash_range"]
        return cls(
            **{
                **value,
                "key": None if key is None else Match.read(key),
                "hash_range": None if share is None else (share[0], share[1]),
                "headers": tuple(
                    HeaderRule(h["name"], None if h["value"] is None else Match.read(h["value"]), h["absent"])
                    for h in value["headers"]
                ),
                "drop": tuple(value["drop"]),
                "rename": tuple((old, new) for old, new in value["rename"]),
            }
        )


NO_RULES: Final = RecordRules()
