"""A replay's own credentials: made for it alone, renewed while it runs, taken away at its end."""

from __future__ import annotations

import logging
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sluice.api.base import Reason
from sluice.api.cluster import ExternalAuthenticationType, ExternalCluster
from sluice.api.objects import Cluster
from sluice.api.user import AuthenticationType
from sluice.engine.errors import ClusterNotReadyError, WaitingError
from sluice.engine.reconciler import Context
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError
from sluice.kube.pki import AuthorityError, KeyPair, inspect, issue
from sluice.manifests import names
from sluice.manifests.metadata import decode
from sluice.plan.observed import AclBinding
from sluice.plan.user import listener_for, principal
from sluice.replay.assignment import Access

logger = logging.getLogger(__name__)

LIFETIME: Final = timedelta(hours=1)
"""Of a replay's client certificate; it is renewed at half of it."""
_OWN_SCRAM: Final = "SCRAM-SHA-512"
"""Mechanism of the listeners that Sluice makes."""
_SHARED: Final = (
    "the replay's workers use the credentials of the external cluster itself, which Sluice can't narrow down"
)
_NO_LOGIN: Final = "the external cluster knows no credentials: anybody may read and write"
_PASSWORD_LENGTH: Final = 32
_NO_LISTENER_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Route:
    """How a replay's workers reach the cluster, and as whom.

    ``own``: the credentials are the replay's own, so that rights can be given to them and taken away; ``authority``
    signs its certificate, if it has one. ``shared``: the cluster's, for want of its own.
    """

    access: Access
    own: bool
    ca_pem: str | None = None
    authority: KeyPair | None = field(default=None, repr=False)
    shared: Mapping[str, str] = field(default_factory=dict, repr=False)
    note: str | None = None


@dataclass(frozen=True)
class Credentials:
    """Files for the workers, and when they should be renewed (None: never).

    ``own``: they are the replay's own; if they are not, against what the route says, ``note`` tells why.
    """

    files: Mapping[str, str] = field(repr=False)
    renew_at: datetime | None = None
    own: bool = True
    note: str | None = None


class ReplayAccess:
    """Makes and takes away what lets the workers of one replay in. ``name`` is the replay's run name."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def route(self, cluster: Cluster) -> Route:
        """How workers connect to ``cluster``.

        Raises:
            WaitingError: no listener lets them in, or what it needs isn't there yet.
        """
        if cluster.spec.external is not None:
            return await self._external(cluster, cluster.spec.external)
        for authentication in (AuthenticationType.TLS, AuthenticationType.SCRAM_SHA_512):
            if listener := listener_for(cluster, authentication):
                return await self._listener(cluster, listener, authentication)
        raise WaitingError(
            Reason.CLUSTER_NOT_READY,
            f"MessagingCluster {cluster.namespace}/{cluster.name} has no listener for replay workers: add one to its"
            " spec.listeners",
            _NO_LISTENER_SECONDS,
        )

    async def credentials(self, admin: KafkaAdmin, name: str, route: Route, present: Mapping[str, str]) -> Credentials:
        """Files that let the workers in; those that they have already (``present``) are kept while they are good."""
        trusted = {"ca.crt": route.ca_pem} if route.ca_pem else {}
        if not route.own:
            return Credentials({**trusted, **route.shared}, own=False)
        if route.authority is not None:
            pair, renew_at = self._certificate(route.authority, name, present)
            return Credentials({**trusted, "user.crt": pair.cert_pem, "user.key": pair.key_pem}, renew_at)
        try:
            password = await self._password(admin, name, route, present)
        except KafkaRefusedError as error:
            if not route.shared:
                raise
            return Credentials({**trusted, **route.shared}, own=False, note=f"{_SHARED} ({error.message})")
        return Credentials({**trusted, "username": name, "password": password})

    async def _password(self, admin: KafkaAdmin, name: str, route: Route, present: Mapping[str, str]) -> str:
        mechanism = route.access.sasl_mechanism or _OWN_SCRAM
        known = (await admin.describe_scram([name])).get(name, frozenset())
        kept = present.get("password") if present.get("username") == name else None
        if kept is not None and mechanism in known:
            return kept
        password = kept or _random_password()
        await admin.upsert_scram(name, password, mechanism)
        return password

    def _certificate(self, authority: KeyPair, name: str, present: Mapping[str, str]) -> tuple[KeyPair, datetime]:
        now = self._context.clock()
        pair = KeyPair(present.get("user.crt", ""), present.get("user.key", ""))
        facts = inspect(pair, authority.cert_pem)
        if facts is None or not facts.trusted or facts.common_name != name or now >= _half(facts.not_after):
            pair = issue(authority, name, (), now, LIFETIME)
            facts = inspect(pair, authority.cert_pem)
            logger.info("%s: a client certificate for %s was made", name, LIFETIME)
        if facts is None:
            raise AuthorityError("a certificate that was just made can't be read")
        return pair, _half(facts.not_after)

    async def allow(self, admin: KafkaAdmin, name: str, source: str, target: str) -> bool:
        """Give the rights that the workers need, and no others; False where the cluster has no authorizer."""
        wanted = rights(name, source, target)
        try:
            present = await admin.describe_acls(principal(name))
            await admin.create_acls(sorted(wanted - present))
            await admin.delete_acls(sorted(present - wanted))
        except KafkaRefusedError as error:
            if error.code == "SECURITY_DISABLED":
                return False
            raise
        return True

    async def revoke(self, admin: KafkaAdmin, name: str, cluster: Cluster, present: Mapping[str, str]) -> None:
        """Take every right first, then the means to log in. Doing it again does no harm.

        ``present`` are the files that the workers have. Those of an external cluster aren't the replay's to take away,
        and who has no others is perhaps not even allowed to ask.
        """
        if cluster.spec.external is not None and present and present.get("username") != name:
            return
        try:
            await admin.delete_acls_of(principal(name))
        except KafkaRefusedError as error:
            if error.code != "SECURITY_DISABLED":
                raise
        mechanisms = (await admin.describe_scram([name])).get(name, frozenset())
        if mechanisms:
            await admin.delete_scram(name, sorted(mechanisms))

    async def _listener(self, cluster: Cluster, listener: str, authentication: AuthenticationType) -> Route:
        servers = next((found.bootstrap_servers for found in cluster.status.listeners if found.name == listener), None)
        if not servers:
            raise ClusterNotReadyError(cluster.namespace, cluster.name, f"listener {listener} has no address yet")
        trusted = await self._secret(cluster, names.ca_cert_secret(cluster.name), "ca.crt")
        addresses = tuple(servers.split(","))
        if authentication is AuthenticationType.SCRAM_SHA_512:
            access = Access(addresses, tls=True, sasl_mechanism=_OWN_SCRAM)
            return Route(access, own=True, ca_pem=trusted["ca.crt"])
        signing = await self._secret(cluster, names.clients_ca_secret(cluster.name), "ca.crt", "ca.key")
        return Route(
            Access(addresses, tls=True),
            own=True,
            ca_pem=trusted["ca.crt"],
            authority=KeyPair(signing["ca.crt"], signing["ca.key"]),
        )

    async def _external(self, cluster: Cluster, external: ExternalCluster) -> Route:
        settings = await self._context.clusters.settings_of(cluster)
        addresses = tuple(external.bootstrap_servers)
        login = external.authentication
        scram = (ExternalAuthenticationType.SCRAM_SHA_256, ExternalAuthenticationType.SCRAM_SHA_512)
        if login is not None and login.type in scram:
            access = Access(addresses, tls=settings.tls, sasl_mechanism=login.type.value)
            return Route(access, own=True, ca_pem=settings.ca_pem, shared=_files(settings))
        return Route(
            Access(addresses, tls=settings.tls, sasl_mechanism=settings.sasl_mechanism),
            own=False,
            ca_pem=settings.ca_pem,
            shared=_files(settings),
            note=_SHARED if login is not None else _NO_LOGIN,
        )

    async def _secret(self, cluster: Cluster, name: str, *keys: str) -> dict[str, str]:
        data = decode(await self._context.kube.get("v1", "Secret", cluster.namespace, name))
        if missing := [key for key in keys if key not in data]:
            raise ClusterNotReadyError(
                cluster.namespace, cluster.name, f"Secret {name} doesn't have {' and '.join(missing)} yet"
            )
        return {key: data[key] for key in keys}


def rights(name: str, source: str, target: str) -> set[AclBinding]:
    """What a replay's workers may do: read one topic, write another, and use their own group and transactional ids."""

    def allow(resource: str, what: str, operation: str, pattern: str = "Literal") -> AclBinding:
        return AclBinding(resource, what, pattern, principal(name), "*", operation, "Allow")

    return {
        allow("Topic", source, "Read"),
        allow("Topic", source, "Describe"),
        allow("Topic", target, "Write"),
        allow("Topic", target, "Describe"),
        allow("Group", name, "Read"),
        allow("TransactionalId", name, "Write", "Prefixed"),
        allow("TransactionalId", name, "Describe", "Prefixed"),
    }


def _files(settings: ConnectionSettings) -> dict[str, str]:
    found = {
        "user.crt": settings.cert_pem,
        "user.key": settings.key_pem,
        "username": settings.username,
        "password": settings.password,
    }
    return {name: value for name, value in found.items() if value}


def _half(not_after: datetime) -> datetime:
    return not_after - LIFETIME / 2


def _random_password() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(_PASSWORD_LENGTH))
