"""What has to be done about a user: rights, quotas and credentials against what there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sluice.api.objects import Cluster, User
from sluice.api.user import AuthenticationType, ResourceType, UserSpec
from sluice.plan.certificates import RENEW_AT, CertificateFacts
from sluice.plan.observed import AclBinding

CLUSTER_RESOURCE_NAME: Final = "kafka-cluster"
QUOTA_KEYS: Final = ("producer_byte_rate", "consumer_byte_rate", "request_percentage")
SCRAM: Final = AuthenticationType.SCRAM_SHA_512.value
MAX_CERTIFIED_NAME: Final = 64
"""Limit of a certificate's common name (RFC 5280, ub-common-name)."""
OWN_PRINCIPALS: Final = "sluice-"
"""What the names of the operator's own principals start with."""


@dataclass(frozen=True)
class ObservedUser:
    """What Kafka has for a principal; ``acls`` is None where the cluster has no authorizer."""

    acls: frozenset[AclBinding] | None
    scram: frozenset[str]
    quotas: Mapping[str, float]

    @property
    def traces(self) -> list[str]:
        """What shows that there is such a principal, in words."""
        found = (("passwords (SCRAM)", self.scram), ("ACLs", self.acls), ("quotas", self.quotas))
        return [what for what, there in found if there]


def user_name(user: User) -> str:
    """Name of the user in Kafka."""
    return user.spec.user_name or user.name


def principal(name: str) -> str:
    """A user as ACLs name it."""
    return f"User:{name}"


def name_refused(spec: UserSpec, name: str) -> str | None:
    """Why a user can't have this name, and what to do; None if it can."""
    if name.startswith(OWN_PRINCIPALS):
        return (
            f"the principal {name} can't start with {OWN_PRINCIPALS}, which Sluice keeps for itself: "
            "say another spec.userName"
        )
    if spec.authentication is AuthenticationType.TLS and len(name) > MAX_CERTIFIED_NAME:
        return (
            f"the principal {name} is longer than the {MAX_CERTIFIED_NAME} characters that a certificate's common name "
            "may have: say a shorter spec.userName"
        )
    return None


def desired_acls(spec: UserSpec, name: str) -> set[AclBinding]:
    """ACLs of a spec, one for each operation."""
    return {
        AclBinding(
            resource=acl.resource.value,
            name=CLUSTER_RESOURCE_NAME if acl.resource is ResourceType.CLUSTER else acl.name or "",
            pattern=acl.pattern.value,
            principal=principal(name),
            host=acl.host,
            operation=operation.value,
            permission=acl.permission.value,
        )
        for acl in spec.acls
        for operation in acl.operations
    }


@dataclass(frozen=True)
class AclChanges:
    """Denials are made first and allowances removed first, so that no moment allows more than either state."""

    create: tuple[AclBinding, ...]
    delete: tuple[AclBinding, ...]


def acl_changes(desired: set[AclBinding], current: set[AclBinding]) -> AclChanges:
    """What makes ``desired`` of ``current``."""
    return AclChanges(
        create=tuple(sorted(desired - current, key=lambda acl: (acl.permission != "Deny", acl))),
        delete=tuple(sorted(current - desired, key=lambda acl: (acl.permission == "Deny", acl))),
    )


def quota_changes(spec: UserSpec, current: Mapping[str, float]) -> dict[str, float | None]:
    """Quotas to set, or to remove (None). Kinds of quotas that the spec can't say are left alone."""
    wanted = spec.quotas.model_dump() if spec.quotas else {}
    changes: dict[str, float | None] = {}
    for key in QUOTA_KEYS:
        value = wanted.get(key)
        if value is None and key in current:
            changes[key] = None
        elif value is not None and current.get(key) != float(value):
            changes[key] = float(value)
    return changes


def scram_mechanisms(spec: UserSpec) -> frozenset[str]:
    """Mechanisms for which the user should have a password."""
    return frozenset({SCRAM} if spec.authentication is AuthenticationType.SCRAM_SHA_512 else ())


def renew_at(certificate: CertificateFacts) -> datetime:
    """When a certificate is to be renewed."""
    return certificate.not_before + (certificate.not_after - certificate.not_before) * RENEW_AT


def listener_for(cluster: Cluster, authentication: AuthenticationType) -> str | None:
    """Name of the listener of a cluster run by Sluice where such a user connects: the first in the spec."""
    return next((found.name for found in cluster.spec.listeners if found.authentication is authentication), None)
