"""A User's Secret: whose it is, the credentials in it, and what they lead to."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sluice.api.base import GROUP, Reason
from sluice.api.objects import Cluster, User
from sluice.api.topic import DeletionPolicy
from sluice.api.user import AuthenticationType
from sluice.engine.errors import ClusterNotReadyError, UserError, WaitingError
from sluice.engine.reconciler import Context
from sluice.kube.pki import AuthorityError, KeyPair, inspect, issue
from sluice.manifests import labels, names
from sluice.manifests.client_config import ClientAccess, belongs_to, secret_data, user_secret
from sluice.plan.certificates import why_renew
from sluice.plan.user import listener_for, renew_at, user_name

logger = logging.getLogger(__name__)

APPLIED_ANNOTATION: Final = f"{GROUP}/scram-applied"
"""On a User's Secret: digest of the password that Kafka was told, so that a changed or half-made one is seen."""
PASSWORD_LENGTH: Final = 32
NO_LISTENER_SECONDS: Final = 60.0

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """What a User has: the name of its Secret, and the Secret with its credentials, maybe under a former name."""

    name: str
    body: Body | None

    @property
    def data(self) -> dict[str, str]:
        """Values; those that aren't text are left out."""
        return _data(self.body)

    @property
    def applied(self) -> str | None:
        """Digest of the password that Kafka was told."""
        value: str | None = _annotations(self.body).get(APPLIED_ANNOTATION)
        return value

    def shows(self, user: User, cluster: Cluster) -> bool:
        """Whether the principal in Kafka was made by us.

        The status says so, or, where the operator was stopped before it wrote that, or the object was made anew
        together with its cluster, the Secret: it is written before the principal, and is kept with the cluster's data.
        """
        if user.status.user_name == user_name(user):
            return True
        if self.body is None or self.data.get("username") != user_name(user):
            return False
        told = (self.body["metadata"].get("labels") or {}).get(labels.CLUSTER)
        return told in (None, cluster.name)  # a name that is too long is no label


def secret_name(user: User) -> str:
    """Name of a User's Secret."""
    return user.spec.secret_name or names.user_secret(user.name)


async def held(context: Context, user: User) -> Held:
    """The User's Secret.

    Raises:
        UserError: the Secret of that name is somebody else's.
    """
    name, former = secret_name(user), user.status.secret_name
    found = await _secret(context, user.namespace, name)
    if found is not None and not belongs_to(found, user.namespace, user.name):
        raise UserError(
            Reason.CONFLICT,
            f"Secret {name} exists and isn't this User's: it is left alone. Delete it, or say another name in"
            " spec.secretName",
        )
    if found is None and former and former != name:  # renamed: the credentials stay the same
        found = await own(context, user, former)
    return Held(name, found)


async def own(context: Context, user: User, name: str) -> Body | None:
    """The Secret of that name, if it is the User's."""
    found = await _secret(context, user.namespace, name)
    return found if found is not None and belongs_to(found, user.namespace, user.name) else None


async def remove(context: Context, user: User, name: str) -> None:
    """Delete a Secret, if it is the User's."""
    found = await own(context, user, name)
    if found is not None:
        await context.kube.delete("v1", "Secret", user.namespace, name, uid=found["metadata"]["uid"])


async def store(context: Context, user: User, cluster: Cluster, secret: Held, access: ClientAccess) -> None:
    """Bring the Secret to what the User connects with."""
    kept = cluster.spec.deletion_policy is DeletionPolicy.RETAIN
    await context.kube.ensure(
        user_secret(
            name=secret.name,
            namespace=user.namespace,
            user=user.name,
            cluster=cluster.name,
            data=secret_data(access),
            annotations={APPLIED_ANNOTATION: secret.applied} if secret.applied else {},
            owner=None if kept else user.owner_reference(),
        )
    )


async def note_applied(context: Context, user: User, secret: Held, digest: str) -> None:
    """Write down which password Kafka was told."""
    patch = {"metadata": {"annotations": {APPLIED_ANNOTATION: digest}}}
    await context.kube.patch("v1", "Secret", user.namespace, secret.name, patch)


def digest_of(access: ClientAccess) -> str:
    """What stands for a user's password."""
    return hashlib.sha256(f"{access.user_name}:{access.password}".encode()).hexdigest()[:16]


async def access_of(
    context: Context, cluster: Cluster, user: User, data: Mapping[str, str]
) -> tuple[ClientAccess, tuple[datetime, datetime] | None]:
    """How the user connects, with the credentials that it has, or new ones; and when a certificate is renewed and
    ends."""
    name = user_name(user)
    servers, tls, ca_pem = await _where(context, cluster, user)
    if user.spec.authentication is AuthenticationType.SCRAM_SHA_512:
        password = data.get("password") or _new_password()
        return ClientAccess(name, servers, tls=tls, ca_pem=ca_pem, password=password), None
    authority = await _cluster_secret(context, cluster, names.clients_ca_secret(cluster.name), "ca.crt", "ca.key")
    now = context.clock()
    pair = KeyPair(data.get("user.crt", ""), data.get("user.key", ""))
    certificate = inspect(pair, authority["ca.crt"])
    if why := why_renew(certificate, name, (), now):
        logger.info("%s: a new certificate is made: %s", user.key, why)
        pair = issue(KeyPair(authority["ca.crt"], authority["ca.key"]), name, (), now)
        certificate = inspect(pair, authority["ca.crt"])
    if certificate is None:
        raise AuthorityError("a certificate that was just made can't be read")
    access = ClientAccess(name, servers, tls=tls, ca_pem=ca_pem, cert_pem=pair.cert_pem, key_pem=pair.key_pem)
    return access, (renew_at(certificate), certificate.not_after)


async def _where(context: Context, cluster: Cluster, user: User) -> tuple[str, bool, str | None]:
    """Bootstrap servers, whether they are encrypted, and the authority to trust."""
    external = cluster.spec.external
    if external is not None:
        ca_pem = None
        if external.tls is not None and (trusted := external.tls.ca_secret_ref) is not None:
            ca_pem = (await _cluster_secret(context, cluster, trusted.name, trusted.key))[trusted.key]
        return ",".join(external.bootstrap_servers), external.tls is not None, ca_pem
    listener = listener_for(cluster, user.spec.authentication)
    if listener is None:
        raise WaitingError(
            Reason.CLUSTER_NOT_READY,
            f"MessagingCluster {cluster.namespace}/{cluster.name} has no listener with authentication"
            f" {user.spec.authentication.value}: add one to its spec.listeners, or choose another authentication",
            retry_after=NO_LISTENER_SECONDS,
        )
    servers = next((found.bootstrap_servers for found in cluster.status.listeners if found.name == listener), None)
    if not servers:
        raise ClusterNotReadyError(cluster.namespace, cluster.name, f"listener {listener} has no address yet")
    trusted_by_all = await _cluster_secret(context, cluster, names.ca_cert_secret(cluster.name), "ca.crt")
    return servers, True, trusted_by_all["ca.crt"]


async def _cluster_secret(context: Context, cluster: Cluster, name: str, *keys: str) -> dict[str, str]:
    data = _data(await _secret(context, cluster.namespace, name))
    missing = [key for key in keys if key not in data]
    if missing:
        raise ClusterNotReadyError(
            cluster.namespace, cluster.name, f"Secret {name} doesn't have {' and '.join(missing)} yet"
        )
    return {key: data[key] for key in keys}


async def _secret(context: Context, namespace: str, name: str) -> Body | None:
    return await context.kube.get("v1", "Secret", namespace, name)


def _data(secret: Body | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        try:
            values[key] = base64.b64decode(value).decode()
        except ValueError:
            continue
    return values


def _annotations(secret: Body | None) -> Mapping[str, Any]:
    return ((secret or {}).get("metadata") or {}).get("annotations") or {}


def _new_password() -> str:
    """A random password (190 bits) of letters and digits, which needs no escaping anywhere."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
