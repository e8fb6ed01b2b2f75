"""From pydantic models to structural schemas."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from pydantic import Field

from sluice.api.base import FreeForm, Model, Timestamp, cel, rules, worded
from sluice.api.broker_config import OWNED_KEYS, OWNED_PREFIXES, is_owned, owned_rule
from sluice.api.crd import SchemaError, crd, crds, model_schema
from sluice.api.objects import KINDS


class Colour(StrEnum):
    """A docstring that must not win over the field's description."""

    RED = "Red"


class Inner(Model):
    """What is inside."""

    model_config = rules(cel("self.size > 0", "say a size"))

    size: int = Field(default=3, description="Size.")


class Outer(Model):
    """What is outside."""

    colour: Colour = Field(default=Colour.RED, description="The colour.")
    maybe: Inner | None = Field(default=None, description="Perhaps.")
    inner: Inner = Field(default=Inner(), description="Surely.")
    small: int = Field(le=100, description="A small number.")
    at: Timestamp | None = Field(default=None, description="When.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    free: list[FreeForm] = Field(default_factory=list, description="Anything.")
    word: str | None = Field(
        default=None, pattern=r"^[a-z\d]+$", json_schema_extra=worded("use letters"), description="A word."
    )


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema within a schema."""
    if isinstance(schema, dict):
        if "type" in schema and isinstance(schema["type"], str):
            yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


OUTER = model_schema(Outer, "spec")["properties"]


def test_references_are_inlined_with_their_rules() -> None:
    assert OUTER["maybe"] == {
        "type": "object",
        "description": "Perhaps.",
        "properties": {"size": {"type": "integer", "format": "int64", "default": 3, "description": "Size."}},
        "x-kubernetes-validations": [{"rule": "self.size > 0", "message": "say a size"}],
    }


def test_the_fields_description_wins_over_the_types() -> None:
    assert OUTER["colour"] == {"type": "string", "enum": ["Red"], "default": "Red", "description": "The colour."}


def test_a_model_as_default_is_written_out() -> None:
    assert OUTER["inner"]["default"] == {"size": 3}


def test_nothing_unset_becomes_a_default() -> None:
    assert "default" not in OUTER["maybe"]
    assert "default" not in OUTER["labels"]


def test_integers_have_a_width() -> None:
    assert OUTER["small"]["format"] == "int32"


def test_times_maps_and_free_forms() -> None:
    assert OUTER["at"] == {"type": "string", "format": "date-time", "description": "When."}
    assert OUTER["labels"]["additionalProperties"] == {"type": "string"}
    assert OUTER["free"]["items"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def test_a_pattern_with_a_message_becomes_a_rule_with_that_message() -> None:
    assert "pattern" not in OUTER["word"]
    assert OUTER["word"]["x-kubernetes-validations"] == [
        {"rule": "self.matches('^[a-z\\\\d]+$')", "message": "use letters"}
    ]


def test_a_field_without_description_is_an_error_that_names_it() -> None:
    class Silent(Model):
        """Says nothing."""

        field: int = Field()

    with pytest.raises(SchemaError, match=r"spec\.field: every field needs a description"):
        model_schema(Silent, "spec")


def test_a_union_is_an_error_that_names_the_field() -> None:
    class Either(Model):
        """Can't decide."""

        field: int | str = Field(description="Either.")

    with pytest.raises(SchemaError, match=r"spec\.field: a union"):
        model_schema(Either, "spec")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
class TestEveryKind:
    def test_has_only_what_a_structural_schema_may_have(self, kind: Any) -> None:
        schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for node in nodes(schema):
            assert not {"$ref", "$defs", "anyOf", "title", "const", "nullable"} & set(node)
            assert not isinstance(node.get("additionalProperties"), bool)
            assert node["type"] != "integer" or node["format"] in ("int32", "int64")

    def test_gives_every_rule_a_sentence(self, kind: Any) -> None:
        schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for node in nodes(schema):
            for rule in node.get("x-kubernetes-validations", ()):
                assert len(rule["message"].split()) > 3, rule

    def test_shows_readiness_reason_and_age(self, kind: Any) -> None:
        columns = [column["name"] for column in crd(kind)["spec"]["versions"][0]["additionalPrinterColumns"]]
        assert [name for name in columns if name in ("Ready", "Reason", "Age")] == ["Ready", "Reason", "Age"]
        assert len(columns) == len(set(columns))

    def test_requires_a_spec_and_keeps_status_apart(self, kind: Any) -> None:
        version = crd(kind)["spec"]["versions"][0]
        assert version["schema"]["openAPIV3Schema"]["required"] == ["spec"]
        assert version["subresources"] == {"status": {}}

    def test_maps_keys_of_lists_are_kept(self, kind: Any) -> None:
        status = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]


def test_names_of_the_five_kinds() -> None:
    names = {body["spec"]["names"]["kind"]: body["spec"]["names"] for body in crds().values()}
    assert {kind: name["shortNames"] for kind, name in names.items()} == {
        "MessagingCluster": ["smc"],
        "Topic": ["stp"],
        "ConsumerGroup": ["scg"],
        "ReplayJob": ["srj"],
        "User": ["sus"],
    }
    assert all(name["categories"] == ["sluice"] for name in names.values())


@pytest.mark.parametrize(
    "key",
    [
        "node.id",
        "listeners",
        "listener.name.tls.ssl.keystore.location",
        "ssl.keystore.type",
        "zookeeper.connect",
        "allow.everyone.if.no.acl.found",
    ],
)
def test_the_operators_own_broker_configs(key: str) -> None:
    assert is_owned(key)


@pytest.mark.parametrize("key", ["log.retention.ms", "num.io.threads", "min.insync.replicas", "message.max.bytes"])
def test_the_users_broker_configs(key: str) -> None:
    assert not is_owned(key)


def test_the_rule_and_the_function_know_the_same_keys() -> None:
    rule = owned_rule()
    assert all(f"'{key}'" in rule for key in OWNED_KEYS)
    assert all(f"!k.startsWith('{prefix}')" in rule for prefix in OWNED_PREFIXES)
