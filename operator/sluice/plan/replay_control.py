"""What people have asked of a replay by annotations: which of it is new, and what is wanted of the replay from then on.

The answer is recorded before anything is done about it, and carried out by what can be seen: whoever comes after an
operator that died in between finds what is wanted, and does it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sluice.api.base import GROUP
from sluice.api.replay import ReplayControl, Wanted

REMEMBERED: Final = 32
"""Tokens that are known as acted on; those that annotations still hold are never forgotten."""
_DIGITS: Final = 12
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


class Act(StrEnum):
    """What can be asked of a replay, each time by another token."""

    SUSPEND = "suspend"
    RESUME = "resume"
    CANCEL = "cancel"
    UNDO = "undo"

    @property
    def annotation(self) -> str:
        """The annotation that holds the token."""
        return f"{GROUP}/{self.value}"


STEERING: Final = (Act.SUSPEND, Act.RESUME, Act.CANCEL)
"""What can be asked of a replay before its end; to be undone can only what has completed."""


def token(now: datetime, salt: str) -> str:
    """A token for an annotation: a time, so that later acts are told from earlier ones, and ``salt`` to make it one."""
    return f"{now.astimezone(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')}-{salt}"


def heed(
    annotations: Mapping[str, str], before: ReplayControl | None, acts: Sequence[Act] = STEERING
) -> ReplayControl | None:
    """What is wanted now, with every token of ``acts`` handled that annotations hold; ``before`` if none is new."""
    present = {act: found for act in Act if (found := annotations.get(act.annotation))}
    handled = before.handled if before else []
    new = {act: present[act] for act in acts if act in present and _digest(act, present[act]) not in handled}
    if not new:
        return before
    held = {_digest(act, found) for act, found in present.items()}
    known = [*handled, *(_digest(act, found) for act, found in new.items())]
    return ReplayControl(wanted=_wanted(new, wanted(before)), handled=_remember(known, held))


def wanted(control: ReplayControl | None) -> Wanted:
    """What is wanted of a replay; to run, if nobody ever said anything."""
    return control.wanted if control else Wanted.RUN


def _wanted(new: Mapping[Act, str], before: Wanted) -> Wanted:
    """Cancel wins over all, and there is no way back from it."""
    if before is Wanted.CANCEL or Act.CANCEL in new:
        return Wanted.CANCEL
    if Act.UNDO in new:
        return Wanted.UNDO
    if Act.SUSPEND not in new:
        return Wanted.RUN
    return Wanted.RUN if Act.RESUME in new and _later(new[Act.RESUME], new[Act.SUSPEND]) else Wanted.SUSPEND


def _later(one: str, other: str) -> bool:
    """Whether a token was surely written later; if it can't be told, the replay waits, since then nothing moves."""
    first, second = _time(one), _time(other)
    return first is not None and second is not None and first > second


def _time(text: str) -> datetime | None:
    found = _TIME.match(text)
    try:
        return datetime.fromisoformat(found[0].upper()) if found else None
    except ValueError:
        return None


def _digest(act: Act, text: str) -> str:
    """A token as it is remembered: tokens may be long."""
    return f"{act.value}:{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def _remember(known: Sequence[str], held: set[str]) -> list[str]:
    """The latest; what an annotation still holds would look new again if it were forgotten."""
    excess = max(0, len(known) - REMEMBERED)
    forgotten = set([digest for digest in known if digest not in held][:excess])
    return [digest for digest in known if digest not in forgotten]
