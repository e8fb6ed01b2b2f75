"""Last seen bodies of the five kinds, by key: what the operator knows without asking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final

from sluice.api.objects import KINDS, Key, Resource, key_of, parse
from sluice.kube.client import version_of

Body = dict[str, Any]
Bodies = list[Body]
Keys = list[Key]

_REMEMBERED: Final = 300.0
"""Seconds for which an object is known to be gone: longer than any answer that still shows it may be under way."""


class Change(Enum):
    """What is new about a body that was put into the index."""

    NONE = "none"
    """Seen before, or older than what is known."""
    STATUS = "status"
    """Only status (or what nobody acts upon) has changed."""
    OBJECT = "object"
    """New, another object of the same name, or spec, labels, annotations, finalizers or deletion have changed."""


Listener = Callable[[Key, Change, Body | None, Body | None], None]
"""Is told what is new about an object, and its body before and after; None: there was or is none."""


class Index:
    """What the API server has said last about each object, without ``managedFields``.

    News come in any order and by several ways: watches, lists, answers to own writes. So whoever brings them, listeners
    are told once; the others' repetition is no news. An object's UID is part of what is known: the end of a deleted
    object doesn't remove a new one of the same name, and what is told late of a deleted one doesn't bring it back.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bodies: dict[str, dict[Key, Body]] = {kind: {} for kind in KINDS}
        self._gone: dict[str, float] = {}  # UIDs, and since when; oldest first
        self._listeners: list[Listener] = []
        self._monotonic = monotonic

    def subscribe(self, listener: Listener) -> None:
        """Have ``listener`` told of all news."""
        self._listeners.append(listener)

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

    def put(self, body: Mapping[str, Any], *, quietly: bool = False) -> Change:
        """Remember what the API server says about an object; older news than what is known is ignored.

        Args:
            body: the object.
            quietly: it differs from what is known only by what the caller has changed: nobody needs to be told.
        """
        key, new = key_of(body), strip(body)
        old = self.get(key)
        change = self._compare(old, new)
        if change is Change.NONE:
            return change
        if old is not None and _uid(old) != _uid(new):
            self._bury(_uid(old))
        self._bodies[key.kind][key] = new
        if not quietly:
            self._tell(key, change, old, new)
        return change

    def remove(self, key: Key, uid: str) -> bool:
        """The object with this UID is gone: forget it; True if it was known."""
        self._bury(uid)
        old = self.get(key)
        if old is None or _uid(old) != uid:
            return False
        del self._bodies[key.kind][key]
        self._tell(key, Change.OBJECT, old, None)
        return True

    def replace(
        self,
        kind: str,
        bodies: Iterable[Mapping[str, Any]],
        namespaces: Iterable[str] | None = None,
        version: int | None = None,
    ) -> set[Key]:
        """Compare with a LIST by UID: take in what is new, forget what is gone; returns the keys that are gone.

        Args:
            kind: the kind that was listed.
            bodies: what was listed.
            namespaces: the namespaces that were listed; None: all.
            version: version of the list: what is known of later isn't missing in it. None: nothing can be later.
        """
        listed = set()
        for body in bodies:
            listed.add(_uid(body))
            self.put(body)
        within = None if namespaces is None else set(namespaces)
        gone = {
            key: _uid(known)
            for key, known in self._bodies[kind].items()
            if (within is None or key.namespace in within)
            and _uid(known) not in listed
            and (version is None or version_of(known["metadata"]) <= version)
        }
        for key, uid in gone.items():
            self.remove(key, uid)
        return set(gone)

    def _compare(self, old: Body | None, new: Body) -> Change:
        if self._is_gone(_uid(new)):
            return Change.NONE
        if old is None:
            return Change.OBJECT
        known, told = version_of(old["metadata"]), version_of(new["metadata"])
        if _uid(old) != _uid(new):
            return Change.NONE if told < known else Change.OBJECT  # the last news of a predecessor, or a successor
        if told <= known:
            return Change.NONE
        return Change.STATUS if _essence(old) == _essence(new) else Change.OBJECT

    def _tell(self, key: Key, change: Change, before: Body | None, after: Body | None) -> None:
        for listener in self._listeners:
            listener(key, change, before, after)

    def _bury(self, uid: str) -> None:
        self._gone.pop(uid, None)  # so that it comes last
        self._gone[uid] = self._monotonic()

    def _is_gone(self, uid: str) -> bool:
        since = self._monotonic() - _REMEMBERED
        while self._gone and next(iter(self._gone.values())) < since:
            del self._gone[next(iter(self._gone))]
        return uid in self._gone


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


def _uid(body: Mapping[str, Any]) -> str:
    uid: str = body["metadata"]["uid"]
    return uid


def _cluster_of(body: Body) -> Key | None:
    reference = (body.get("spec") or {}).get("clusterRef") or {}
    if "name" not in reference:
        return None
    return Key("MessagingCluster", reference.get("namespace") or body["metadata"]["namespace"], reference["name"])
