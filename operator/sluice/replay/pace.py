"""How much is sent to a broker at once, so that a quota slows a replay down instead of breaking it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_IN_FLIGHT: Final = 5
"""Kafka checks the sequence of at most five batches of a partition in flight."""
_FIRST_BYTES: Final = 1024 * 1024
_GROWTH: Final = 4
"""Quick, since each step is a round trip in which nothing else is on its way."""
_SMALLEST_BYTES: Final = 16 * 1024
_TOLERABLE_MS: Final = 1000


@dataclass(slots=True)
class Pace:
    """Requests begin small and alone, and grow while the broker doesn't hold us back.

    A quota of Kafka's lets a request pass and stops reading for as long as it was too much: megabytes against a quota
    of kilobytes are minutes, in which a transaction runs into its timeout, is copied again, and so on for ever.
    """

    limit_bytes: int
    request_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.request_bytes = min(_FIRST_BYTES, self.limit_bytes)

    @property
    def in_flight(self) -> int:
        """How many requests may wait for their answer."""
        return _IN_FLIGHT if self.request_bytes >= self.limit_bytes else 1

    def answered(self, throttle_ms: int) -> None:
        """A request was answered, and the broker doesn't read for ``throttle_ms``."""
        if throttle_ms > _TOLERABLE_MS:
            self.request_bytes = max(min(_SMALLEST_BYTES, self.limit_bytes), self.request_bytes // 2)
        elif not throttle_ms:
            self.request_bytes = min(self.request_bytes * _GROWTH, self.limit_bytes)
