"""What a replay's selection and changes mean for its plan: what stands for them, what is refused, what to know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sluice.api.replay import ReplayJobSpec
from sluice.api.replay_selection import COUNT_HEADER, JOB_HEADER, SOURCE_HEADER, Provenance
from sluice.plan.regex import finder

_FIELDS: Final = {"select", "exclude_replayed", "headers", "provenance"}
_ORDERLESS: Final = frozenset({"exact", "prefix", "drop", "headers"})
"""Lists whose order says nothing."""
_LENGTHS: Final = 9
"""Bytes of the lengths of three short headers and their values, and of the number of headers."""
_OFFSET_DIGITS: Final = 12


def differing(spec: ReplayJobSpec) -> dict[str, Any]:
    """What of a spec decides which records are written and how, without what is left at its default; empty if all is.

    Two that mean the same are the same.
    """
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=_FIELDS)
    found: dict[str, Any] = _sorted(said)
    return found


def _sorted(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _sorted(inner, key) for key, inner in value.items()}
    if isinstance(value, list) and name in _ORDERLESS:
        found = {json.dumps(_sorted(inner), sort_keys=True): _sorted(inner) for inner in value}
        return [found[key] for key in sorted(found)]
    return value


def mark(namespace: str, name: str, run_id: str | None) -> str:
    """Value of the header that names the replay."""
    return "/".join([namespace, name, *([run_id] if run_id else [])])


def refusal(spec: ReplayJobSpec) -> str | None:
    """Why the selection can't be judged by, if it can't."""
    for field, expression in _expressions(spec):
        try:
            finder(expression)
        except ValueError as error:
            return f"{field} isn't a regular expression (RE2): {error}; correct it in another ReplayJob"
    return None


def _expressions(spec: ReplayJobSpec) -> Iterator[tuple[str, str]]:
    if spec.select is None:
        return
    if spec.select.key is not None and spec.select.key.regex is not None:
        yield "spec.select.key.regex", spec.select.key.regex
    for header in spec.select.headers:
        if header.regex is not None:
            yield f"the regex of header {header.name} in spec.select.headers", header.regex


def warnings(spec: ReplayJobSpec) -> list[str]:
    """What to know of the selection before it runs."""
    found = []
    if spec.select is not None and spec.select.key is not None:
        found.append("records without a key aren't taken (spec.select.key)")
    if spec.provenance is Provenance.HEADERS:
        found.append(
            f"each record grows by up to {_growth(spec)} bytes, and more with a longer namespace, name and runId"
            " (spec.provenance): one that is about as large as the target's max.message.bytes ends the replay"
        )
    return found


def _growth(spec: ReplayJobSpec) -> int:
    names = sum(map(len, (JOB_HEADER, COUNT_HEADER, SOURCE_HEADER)))
    return names + _LENGTHS + len(spec.source.topic) + _OFFSET_DIGITS
