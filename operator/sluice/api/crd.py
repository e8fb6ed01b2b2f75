"""CustomResourceDefinitions, made from the pydantic models.

What pydantic calls a JSON schema and what Kubernetes calls a structural schema differ: a structural schema has no
references, no ``anyOf`` for optional fields, no ``title``, and says the width of integers. This module turns the one
into the other, and adds what a model can't say: names, printer columns, and rules about the object as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

from sluice.api.base import GROUP, PATTERN_MESSAGE, VERSION, cel
from sluice.api.objects import KINDS, Kind

Schema = dict[str, Any]

_INT32_MAX: Final = 2**31 - 1
_DROPPED: Final = frozenset({"title", "$defs"})
_API_VERSION_TEXT: Final = "Version of the schema of this object."
_KIND_TEXT: Final = "Kind of this object."

OBJECT_RULES: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = {
    "MessagingCluster": (
        cel(
            "!has(self.spec.nodePools) || self.metadata.name.matches('^[a-z][a-z0-9-]*$')",
            "metadata.name of a cluster that Sluice runs may have lower-case letters, digits and - only, and starts"
            " with a letter: Services are named after it",
        ),
        cel(
            "!has(self.spec.nodePools) || self.metadata.name.size() <= 40",
            "metadata.name of a cluster that Sluice runs can't be longer than 40 characters: Services are named after it",
        ),
        cel(
            "!has(self.spec.nodePools) || self.spec.nodePools.all(p, self.metadata.name.size() + p.name.size() <= 46)",
            "metadata.name and the name of a node pool together can't be longer than 46 characters: pods are named"
            " after both; choose shorter ones",
        ),
    ),
    "Topic": (
        cel(
            "has(self.spec.topicName) || self.metadata.name.size() <= 249",
            "metadata.name is longer than the 249 characters that Kafka allows for a topic: say spec.topicName",
        ),
        cel(
            "has(self.spec.topicName) || !self.metadata.name.startsWith('sluice-')",
            "metadata.name can't start with sluice- unless spec.topicName is given: Sluice has such topics for itself",
        ),
        cel(
            "self.spec.partitions >= oldSelf.spec.partitions || (has(self.status) && has(self.status.partitions) &&"
            " self.spec.partitions >= self.status.partitions)",
            "partitions can't be lowered below what the topic has: Kafka has no way to remove one; make a new topic and"
            " copy into it with a ReplayJob",
            field_path=".spec.partitions",
        ),
    ),
    "User": (
        cel(
            "has(self.spec.userName) || !self.metadata.name.startsWith('sluice-')",
            "metadata.name can't start with sluice- unless spec.userName is given: Sluice keeps those for itself",
        ),
        cel(
            "has(self.spec.userName) || self.metadata.name.size() <= 64",
            "metadata.name is longer than the 64 characters that a certificate's common name may have: say"
            " spec.userName",
        ),
    ),
}
"""Rules that need the object's name; at the root of a schema CEL sees ``metadata.name``."""

_READY: Final = '.status.conditions[?(@.type=="Ready")]'


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False, text: str | None = None) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    if wide:
        column["priority"] = 1
    if text:
        column["description"] = text
    return column


_CLUSTER_COLUMN: Final = _column("Cluster", ".spec.clusterRef.name")

COLUMNS: Final[Mapping[str, tuple[Schema, ...]]] = {
    "MessagingCluster": (
        _column("Version", ".status.version"),
        _column("Brokers", ".status.brokers", "integer"),
        _column("Listeners", ".status.listeners[*].bootstrapServers", wide=True),
    ),
    "Topic": (
        _CLUSTER_COLUMN,
        _column("Partitions", ".status.partitions", "integer"),
        _column("Replicas", ".status.replicas", "integer"),
        _column("Topic", ".status.topicName", wide=True),
    ),
    "ConsumerGroup": (
        _CLUSTER_COLUMN,
        _column(
            "Lag",
            '.status.conditions[?(@.type=="LagWithinObjective")].reason',
            text="Whether the lag is within its objective",
        ),
        _column("Group", ".status.groupId", wide=True),
    ),
    "ReplayJob": (
        _column("Source", ".spec.source.topic"),
        _column("Target", ".spec.target.topic"),
        _column("Phase", ".status.phase"),
        _column("Percent", ".status.progress.percent", "integer"),
        _column("Records", ".status.progress.records", "integer"),
        _column("Group", ".spec.rewind.group", wide=True),
    ),
    "User": (
        _CLUSTER_COLUMN,
        _column("Authentication", ".spec.authentication"),
        _column("Secret", ".status.secretName"),
        _column("User", ".status.userName", wide=True),
    ),
}


class SchemaError(Exception):
    """A model can't be turned into a CRD schema; its text names the field and says why."""


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind, as it stands in YAML.

    Raises:
        SchemaError: a field has no description, or a type that a structural schema can't express.
    """
    columns = [
        *COLUMNS[kind.kind],
        _column("Ready", f"{_READY}.status"),
        _column("Reason", f"{_READY}.reason"),
        _column("Message", f"{_READY}.message", wide=True),
        _column("Age", ".metadata.creationTimestamp", "date"),
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
                "categories": ["sluice"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": object_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def crds() -> dict[str, Schema]:
    """The CRDs of all kinds by file name."""
    return {f"{kind.plural}.{GROUP}.yaml": crd(kind) for kind in KINDS.values()}


def object_schema(kind: Kind) -> Schema:
    """Structural schema of a whole object: its metadata's names, ``spec`` and ``status``."""
    schema: Schema = {
        "type": "object",
        "description": _summary(kind),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": _API_VERSION_TEXT},
            "kind": {"type": "string", "description": _KIND_TEXT},
            "metadata": {"type": "object"},
            "spec": model_schema(kind.spec, "spec"),
            "status": model_schema(kind.status, "status"),
        },
    }
    if kind.kind in OBJECT_RULES:
        schema["x-kubernetes-validations"] = [dict(rule) for rule in OBJECT_RULES[kind.kind]]
    return schema


def model_schema(model: type[Any], path: str) -> Schema:
    """Structural schema of one model; ``path`` names it in errors."""
    root = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(root, root.get("$defs", {}), path)


def _summary(kind: Kind) -> str:
    """What a kind is, in the words that its module starts with."""
    text = (sys.modules[kind.spec.__module__].__doc__ or "").split("\n\n")[0].strip()
    _, _, summary = text.partition(": ")
    if not summary:
        raise SchemaError(f"{kind.kind}: the module {kind.spec.__module__} has to start with `<Kind>: what it is`")
    return summary[0].upper() + summary[1:]


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    schema = _resolved(node, definitions, path)
    if "type" not in schema:
        raise SchemaError(f"{path}: a structural schema needs a type, and pydantic gave {sorted(schema)}")
    if schema["type"] == "integer":
        # OpenAPI's formats: without one, a number beyond 32 bits is refused by some clients.
        schema["format"] = "int32" if schema.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    _pattern_as_rule(schema)
    if "description" in schema:
        schema["description"] = schema["description"].replace("``", "`").replace("\n", " ")
    if schema["type"] == "array":
        schema["items"] = _structural(schema["items"], definitions, f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _structural(schema["additionalProperties"], definitions, f"{path}.*")
    if "properties" in schema:
        schema["properties"] = {
            name: _property(value, definitions, f"{path}.{name}") for name, value in schema["properties"].items()
        }
    return schema


def _property(node: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    if not node.get("description"):
        raise SchemaError(f"{path}: every field needs a description")
    return _structural(node, definitions, path)


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """``node`` with references and optional unions resolved; what stands beside them wins over what they say."""
    beside = {key: value for key, value in node.items() if key not in ("$ref", "anyOf") and key not in _DROPPED}
    inner: Schema = {}
    if "$ref" in node:
        inner = _resolved(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions, path)
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise SchemaError(f"{path}: a union of types isn't structural; choose one type, or FreeForm")
        inner = _resolved(options[0], definitions, path)
    merged = inner | beside
    validations = [*inner.get("x-kubernetes-validations", ()), *beside.get("x-kubernetes-validations", ())]
    if validations:
        merged["x-kubernetes-validations"] = validations
    if "const" in merged:
        merged["enum"] = [merged.pop("const")]
    if isinstance(merged.get("additionalProperties"), bool):
        # Unknown fields are refused by strict validation, which additionalProperties: false is not a means of.
        del merged["additionalProperties"]
    if "default" in merged:
        merged["default"] = _without_empty(merged["default"])
        if merged["default"] in (None, {}, []):
            del merged["default"]
    return merged


def _without_empty(value: Any) -> Any:
    """A default without what isn't set: the API server must not write nulls and empty maps into objects."""
    if isinstance(value, Mapping):
        cleaned = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value


def _pattern_as_rule(schema: Schema) -> None:
    """A pattern with a message becomes a CEL rule: of a pattern alone the API server shows only the expression."""
    message = cast("str | None", schema.pop(PATTERN_MESSAGE, None))
    if message is None:
        return
    pattern = schema.pop("pattern").replace("\\", "\\\\").replace("'", "\\'")
    rule = cel(f"self.matches('{pattern}')", message)
    schema["x-kubernetes-validations"] = [rule, *schema.get("x-kubernetes-validations", ())]
