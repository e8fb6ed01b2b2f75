"""Reference pages for users, one a kind, made from the same schemas as the CRDs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sluice.api.base import API_VERSION
from sluice.api.crd import object_schema
from sluice.api.objects import KINDS, Kind

_FORMATS: Final = {"date-time": "time (RFC 3339)"}
_LIMITS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("maxLength", "at most {} characters"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} entries"),
    ("pattern", "matches `{}`"),
)


def pages() -> dict[str, str]:
    """Markdown pages by file name, with an index."""
    made = {f"{kind.kind.lower()}.md": page(kind) for kind in KINDS.values()}
    made["README.md"] = _index()
    return made


def page(kind: Kind) -> str:
    """The reference of one kind: fields of its spec and status, and the rules that are judged at admission."""
    schema = object_schema(kind)
    parts = schema["properties"]
    lines = [
        f"# {kind.kind}",
        "",
        schema["description"],
        "",
        f"`apiVersion: {API_VERSION}`, `kind: {kind.kind}`, namespaced; `kubectl get {kind.plural}` or `{kind.short}`.",
        "",
        "## spec",
        "",
        *_table(parts["spec"], with_defaults=True),
        "",
        *_rules(schema, parts["spec"]),
        "## status",
        "",
        *_table(parts["status"], with_defaults=False),
        "",
    ]
    return "\n".join(lines)


def _index() -> str:
    rows = [
        f"| [{kind.kind}]({kind.kind.lower()}.md) | `{kind.short}` | {object_schema(kind)['description']} |"
        for kind in KINDS.values()
    ]
    return "\n".join(["# Reference", "", "| kind | short name | what it says |", "|---|---|---|", *rows, ""])


def _table(schema: Mapping[str, Any], *, with_defaults: bool) -> list[str]:
    if with_defaults:
        lines = ["| field | type | default | description |", "|---|---|---|---|"]
    else:
        lines = ["| field | type | description |", "|---|---|---|"]
    for path, field, required in _fields(schema, ""):
        cells = [f"`{path}`", _type(field)]
        if with_defaults:
            cells.append("**required**" if required else _default(field))
        cells.append(_description(field))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines


def _fields(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Every field below ``schema``: its path (``[]`` for items), its schema, whether it is required."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, field, name in required
        if field["type"] == "array":
            yield from _fields(field["items"], f"{path}[].")
        else:
            yield from _fields(field, f"{path}.")


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if isinstance(field.get("additionalProperties"), Mapping):
        return f"map of {_type(field['additionalProperties'])}"
    return _FORMATS.get(field.get("format", ""), str(field["type"]))


def _default(field: Mapping[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else ""


def _description(field: Mapping[str, Any]) -> str:
    limits = [text.format(field[word]) for word, text in _LIMITS if word in field]
    if field.get("minLength", field.get("minItems", 0)) > 0:
        limits.insert(0, "not empty")
    if field["type"] == "array" and field["items"].get("x-kubernetes-preserve-unknown-fields"):
        limits.append("as in Kubernetes")
    text = str(field["description"])
    return f"{text} ({', '.join(limits)})" if limits else text


def _rules(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> list[str]:
    """What admission refuses, in the words that users get; empty without rules."""
    found = list(_messages(spec, "spec"))
    for rule in schema.get("x-kubernetes-validations", ()):  # about the object as a whole: its name, unless said
        about = "spec" if rule.get("fieldPath", "").startswith(".spec") else "metadata"
        found.append((about, rule["message"]))
    if not found:
        return []
    return ["## Refused at admission", "", *(f"- `{path}`: {message}" for path, message in found), ""]


def _messages(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from _messages(field, f"{path}.{name}")
    if schema["type"] == "array":
        yield from _messages(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from _messages(schema["additionalProperties"], f"{path}.*")
