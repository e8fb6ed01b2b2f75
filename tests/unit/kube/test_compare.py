"""Whether an apply would change anything: the question asked before each write."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.kube.compare import contained, differs

DESIRED: dict[str, Any] = {
    "metadata": {"name": "s", "labels": {"a": "1"}},
    "spec": {"ports": [{"name": "tls", "port": 9093}], "paused": False},
}
OWNED = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:paused": {},
        "f:ports": {'k:{"port":9093,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}},
    },
}


def actual(**owned: Any) -> dict[str, Any]:
    """What the API server made of DESIRED: defaults filled in, ownership recorded."""
    entry = {"manager": "sluice", "operation": "Apply", "fieldsV1": owned or OWNED}
    return {
        "metadata": {"name": "s", "labels": {"a": "1"}, "uid": "u", "managedFields": [entry]},
        "spec": {"ports": [{"name": "tls", "port": 9093, "protocol": "TCP"}], "paused": False, "more": 1},
    }


def test_defaults_and_others_fields_are_no_difference() -> None:
    assert not differs(DESIRED, actual(), "sluice")


def test_a_changed_value_is() -> None:
    assert differs({**DESIRED, "spec": {**DESIRED["spec"], "paused": True}}, actual(), "sluice")


def test_a_field_of_ours_that_is_no_longer_desired_is() -> None:
    desired = {**DESIRED, "metadata": {"name": "s"}}
    assert differs(desired, actual(), "sluice")


def test_an_object_that_is_as_desired_but_not_ours_is_taken_over() -> None:
    assert differs(DESIRED, actual(), "another")


def test_an_item_of_ours_that_is_no_longer_desired_is_a_difference() -> None:
    there = actual()
    desired = {**DESIRED, "spec": {"paused": False}}
    assert differs(desired, there, "sluice")


@pytest.mark.parametrize(
    ("desired", "there", "expected"),
    [
        ({"a": None}, {}, True),
        ({"a": {}}, {}, True),
        ({"a": []}, {}, True),
        ({"a": [1]}, {}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True),
        ({"a": "1"}, {"a": 1}, False),
    ],
)
def test_containment(desired: Any, there: Any, expected: bool) -> None:
    assert contained(desired, there) is expected
