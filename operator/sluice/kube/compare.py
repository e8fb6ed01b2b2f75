"""Whether applying an object would change anything, decided without a write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def differs(desired: Mapping[str, Any], actual: Mapping[str, Any], manager: str) -> bool:
    """Whether server-side apply of ``desired`` by ``manager`` would change ``actual``.

    It would if something desired isn't there, or if the manager owns a field that is no longer desired (which
    apply removes). Values that the server normalises, such as quantities, may count as different though they
    aren't: an apply then changes nothing.
    """
    if not contained(desired, actual):
        return True
    for entry in actual.get("metadata", {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            return _relinquished(entry.get("fieldsV1") or {}, desired)
    return True  # it is as desired, but isn't ours yet


def contained(desired: Any, actual: Any) -> bool:
    """Whether everything in ``desired`` is in ``actual``: maps may have more keys, lists must match one to one."""
    if isinstance(desired, Mapping):
        if not isinstance(actual, Mapping):
            return not desired and actual is None
        return all(contained(value, actual.get(key)) for key, value in desired.items())
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        if not isinstance(actual, Sequence) or isinstance(actual, str):
            return not desired and actual is None
        return len(desired) == len(actual) and all(map(contained, desired, actual))
    return bool(desired == actual)


def _relinquished(fields: Mapping[str, Any], desired: Any) -> bool:
    """Whether the owned set ``fields`` (``fieldsV1``) has a field that ``desired`` hasn't."""
    for name, inner in fields.items():
        if name.startswith("f:"):
            key = name[2:]
            if not isinstance(desired, Mapping) or desired.get(key) is None:
                return True
            if inner and _relinquished(inner, desired[key]):
                return True
        elif name.startswith("k:"):
            item = _find(json.loads(name[2:]), desired)
            if item is None or _relinquished(inner, item):
                return True
        elif name.startswith("v:") and (not isinstance(desired, Sequence) or json.loads(name[2:]) not in desired):
            return True
    return False


def _find(keys: Mapping[str, Any], items: Any) -> Any:
    """The item of a list that the merge keys name; keys that the server has defaulted may be absent in it."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        return None
    for item in items:
        if isinstance(item, Mapping) and all(item.get(key, value) == value for key, value in keys.items()):
            return item
    return None
