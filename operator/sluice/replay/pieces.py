"""What comes out of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NOTHING: Final = memoryview(b"")


@dataclass(slots=True)
class Piece:
    """A batch to be written, or ``NOTHING`` for a mere step; ``next_offset`` is the position after it.

    ``filtered``: records that rules left out on the way to that position.
    """

    view: memoryview
    records: int
    next_offset: int
    filtered: int = 0
