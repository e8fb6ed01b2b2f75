"""Metadata and encodings that every builder uses."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

Body = dict[str, Any]


def metadata(
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    *,
    owner: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Body:
    """``metadata`` of an object; with ``owner``, Kubernetes deletes it together with its owner."""
    built: Body = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if annotations:
        built["annotations"] = dict(annotations)
    if owner is not None:
        built["ownerReferences"] = [dict(owner)]
    return built


def secret(meta: Body, data: Mapping[str, str], *, immutable: bool = False) -> Body:
    """A Secret with text values."""
    body: Body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": encode(data)}
    if immutable:
        body["immutable"] = True
    return body


def encode(data: Mapping[str, str]) -> dict[str, str]:
    """Text values as they stand in a Secret's ``data``."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())}


def decode(body: Mapping[str, Any] | None) -> dict[str, str]:
    """Text values of a Secret; those that aren't text are left out, and a Secret that isn't there has none."""
    found: dict[str, str] = {}
    for key, value in ((body or {}).get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return found
