"""Volumes of nodes: which are made, which grow, and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_UNITS: Final[dict[str, Decimal | int]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}


@dataclass(frozen=True)
class Keep:
    """The volume is as it should be."""


@dataclass(frozen=True)
class Grow:
    """The claim has to ask for ``size``."""

    size: str


@dataclass(frozen=True)
class Refuse:
    """The spec asks for what can't be done; ``message`` says what to do."""

    message: str


def quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity.

    Raises:
        ValueError: it isn't one.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([A-Za-z]*)", text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} isn't a quantity such as 10Gi")
    return int(Decimal(match[1]) * _UNITS[match[2]])


def resize(claim: str, present: str, wanted: str) -> Keep | Grow | Refuse:
    """What to do about the size of a claim.

    Args:
        claim: its name, for messages.
        present: size that it asks for now.
        wanted: size in the spec.
    """
    if quantity(wanted) > quantity(present):
        return Grow(wanted)
    if quantity(wanted) < quantity(present):
        return Refuse(
            f"{claim} has {present} and the spec asks for {wanted}: a volume can't shrink; put storage.size back to "
            f"{present}, or add a pool with smaller volumes"
        )
    return Keep()
