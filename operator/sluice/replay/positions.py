"""What a replay commits with each position: the counts so far, in the offset's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_COUNTS: Final = re.compile(r"r=(\d+);b=(\d+)(?:;f=(\d+))?")


@dataclass(frozen=True, slots=True)
class Counts:
    """Records and bytes (of batches) that have been written to the target for one partition.

    ``filtered`` are the records in the range that the replay's rules left out.
    """

    records: int = 0
    bytes: int = 0
    filtered: int = 0

    def metadata(self) -> str:
        """As it stands in a committed offset."""
        return f"r={self.records};b={self.bytes}" + (f";f={self.filtered}" if self.filtered else "")

    @classmethod
    def parse(cls, metadata: str | None) -> Counts:
        """Read from a committed offset; other metadata counts as nothing written."""
        match = _COUNTS.fullmatch(metadata or "")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0)) if match else cls()

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.records + other.records, self.bytes + other.bytes, self.filtered + other.filtered)
