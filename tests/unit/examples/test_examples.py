"""Every example is one that the API takes, and the quickstart hangs together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.api.base import API_VERSION
from sluice.api.objects import KINDS, Key, parse

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def of_quickstart() -> dict[Key, dict[str, Any]]:
    return {
        Key(document["kind"], document["metadata"].get("namespace", ""), document["metadata"]["name"]): document
        for path in (EXAMPLES / "quickstart").rglob("*.yaml")
        for document in documents(path)
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_object_of_our_kinds_fits_its_model(path: Path) -> None:
    for document in documents(path):
        if document["apiVersion"] != API_VERSION:
            continue
        # What the API server would add when it stores the object.
        document["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
        document["metadata"].setdefault("namespace", "default")
        assert parse(document).spec.manifest()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_no_document_is_empty_or_of_an_unknown_kind(path: Path) -> None:
    found = list(documents(path))
    assert found
    for document in found:
        assert document["apiVersion"] != API_VERSION or document["kind"] in KINDS


def test_the_quickstart_shows_every_kind() -> None:
    assert {key.kind for key in of_quickstart()} >= set(KINDS)


def test_the_quickstart_refers_only_to_what_it_has() -> None:
    objects = of_quickstart()
    for key, document in objects.items():
        if "clusterRef" in document.get("spec", {}):
            assert Key("MessagingCluster", key.namespace, document["spec"]["clusterRef"]["name"]) in objects
    replay = objects[Key("ReplayJob", "sluice-demo", "february")]["spec"]
    for topic in (replay["source"]["topic"], replay["target"]["topic"]):
        assert Key("Topic", "sluice-demo", topic) in objects


def test_the_kustomization_lists_every_manifest_of_the_folder() -> None:
    folder = EXAMPLES / "quickstart"
    kustomization = yaml.safe_load((folder / "Kustomization").read_text())
    assert sorted(kustomization["resources"]) == sorted(path.name for path in folder.glob("*.yaml"))


def test_old_timestamps_are_kept_by_every_topic_of_the_quickstart() -> None:
    topics = [document for key, document in of_quickstart().items() if key.kind == "Topic"]
    assert topics
    assert all(topic["spec"]["config"]["retention.ms"] == "-1" for topic in topics)


def test_the_listener_that_overlays_address_is_where_the_kustomization_says() -> None:
    cluster = of_quickstart()[Key("MessagingCluster", "sluice-demo", "demo")]
    assert cluster["spec"]["listeners"][2]["name"] == "outside"
