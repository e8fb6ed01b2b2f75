"""Last seen bodies of the five kinds, by key: what the operator knows without asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from sluice.api.objects import KINDS, Key, Resource, key_of, parse

Body = dict[str, Any]
Bodies = list[Body]
Keys = list[Key]


class Change(Enum):
    """What is new about a body that was put into the index."""

    NONE = "none"
    """Seen before, or older than what is known."""
    STATUS = "status"
    """Only status (or what nobody acts upon) has changed."""
    OBJECT = "object"
    """New, another object of the same name, or spec, labels, annotations, finalizers or deletion have changed."""


class Index:
    """What the API server has said last about each object, without ``managedFields``.

    An object's UID is part of what is known: a deletion names it, so that the end of a deleted object doesn't
    remove a new one of the same name.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, dict[Key, Body]] = {kind: {} for kind in KINDS}

    def get(self, key: Key) -> Body | None:
        """Body of the object, or None."""
        return self._bodies[key.kind].get(key)

    def resource(self, key: Key) -> Resource[Any, Any] | None:
        """The object read into types, or None if there is none.

        Raises:
            InvalidSpecError: its spec can't be read.
        """
        body = self.get(key)
        return None if body is None else parse(body)

    def list(self, kind: str) -> Bodies:
        """All objects of a kind."""
        return list(self._bodies[kind].values())

    def keys(self, kind: str) -> Keys:
        """Keys of all objects of a kind."""
        return list(self._bodies[kind])

    def of_cluster(self, cluster: Key, kind: str) -> Bodies:
        """Objects of a kind whose ``spec.clusterRef`` names this MessagingCluster."""
        return [body for body in self._bodies[kind].values() if _cluster_of(body) == cluster]

    def put(self, body: Mapping[str, Any]) -> Change:
        """Remember what the API server says about an object; older news than what is known is ignored."""
        key = key_of(body)
        new = strip(body)
        old = self._bodies[key.kind].get(key)
        if old is not None and old["metadata"]["uid"] == new["metadata"]["uid"]:
            if _version(new) <= _version(old):
                return Change.NONE
            self._bodies[key.kind][key] = new
            return Change.STATUS if _essence(old) == _essence(new) else Change.OBJECT
        if old is not None and _version(new) < _version(old):
            return Change.NONE  # the last news of a predecessor of the same name
        self._bodies[key.kind][key] = new
        return Change.OBJECT

    def remove(self, key: Key, uid: str | None = None) -> bool:
        """Forget an object, if it is (still) the one with this UID."""
        old = self._bodies[key.kind].get(key)
        if old is None or (uid is not None and old["metadata"]["uid"] != uid):
            return False
        del self._bodies[key.kind][key]
        return True

    def replace(
        self, kind: str, bodies: Iterable[Mapping[str, Any]], namespaces: Iterable[str] | None = None
    ) -> set[Key]:
        """Compare with a LIST by UID: take in what is new, forget what is gone; returns the keys that are gone.

        Args:
            kind: the kind that was listed.
            bodies: what was listed.
            namespaces: the namespaces that were listed; None: all.
        """
        listed: dict[Key, str] = {}
        for body in bodies:
            listed[key_of(body)] = body["metadata"]["uid"]
            self.put(body)
        within = None if namespaces is None else set(namespaces)
        gone = {
            key
            for key, known in self._bodies[kind].items()
            if (within is None or key.namespace in within) and listed.get(key) != known["metadata"]["uid"]
        }
        for key in gone:
            del self._bodies[kind][key]
        return gone


def strip(body: Mapping[str, Any]) -> Body:
    """A copy without what only costs memory."""
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    annotations = metadata.get("annotations")
    if annotations and "kubectl.kubernetes.io/last-applied-configuration" in annotations:
        metadata["annotations"] = {
            k: v for k, v in annotations.items() if k != "kubectl.kubernetes.io/last-applied-configuration"
        }
    return {**body, "metadata": metadata}


def _essence(body: Body) -> tuple[Any, ...]:
    meta = body["metadata"]
    return (
        body.get("spec"),
        meta.get("labels"),
        meta.get("annotations"),
        meta.get("finalizers"),
        meta.get("deletionTimestamp"),
    )


def _version(body: Body) -> int:
    """Resource versions are ordered (KEP-5504); zero for one that can't be read as a number."""
    version = body["metadata"].get("resourceVersion", "")
    return int(version) if version.isdigit() else 0


def _cluster_of(body: Body) -> Key | None:
    reference = (body.get("spec") or {}).get("clusterRef") or {}
    if "name" not in reference:
        return None
    return Key("MessagingCluster", reference.get("namespace") or body["metadata"]["namespace"], reference["name"])
