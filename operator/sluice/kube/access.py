"""Whether somebody may do something: RBAC is asked, by a SubjectAccessReview."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.kube.client import Kube


@dataclass(frozen=True)
class Attributes:
    """What somebody would do; an empty ``name`` is any object."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""


async def may(kube: Kube, user: Mapping[str, Any], attributes: Attributes) -> bool:
    """Whether the authorizers of the API server let a user do it.

    Args:
        kube: a client that may create ``subjectaccessreviews``, and isn't fenced: every replica asks.
        user: ``userInfo`` of an admission request.
        attributes: what it is about.

    Raises:
        KubeError: the API server doesn't answer, or refuses.
    """
    said = {key: user[key] for key in ("uid", "groups", "extra") if user.get(key)}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {
            "user": user.get("username", ""),
            **said,
            "resourceAttributes": {
                "verb": attributes.verb,
                "group": attributes.group,
                "resource": attributes.resource,
                "namespace": attributes.namespace,
                "name": attributes.name,
            },
        },
    }
    answer = await kube.create(body)
    return bool((answer.get("status") or {}).get("allowed"))
