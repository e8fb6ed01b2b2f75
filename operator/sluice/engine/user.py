"""The User reconciler: credentials in a Secret, rights and quotas in Kafka; all due users of a cluster in one go."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sluice.api.base import GROUP, Reason
from sluice.api.objects import Cluster, Key, User, cluster_key
from sluice.api.topic import DeletionPolicy
from sluice.api.user import AuthenticationType, UserStatus
from sluice.engine import status as conditions
from sluice.engine.batching import confirm, each
from sluice.engine.errors import ClusterNotReadyError, UserError, WaitingError
from sluice.engine.finalizers import finalizer_of, hold, let_go, nothing_to_undo
from sluice.engine.reconciler import Context, Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.kube.pki import AuthorityError, KeyPair, inspect, issue
from sluice.manifests import names
from sluice.manifests.client_config import ClientAccess, belongs_to, secret_data, user_secret
from sluice.plan.certificates import why_renew
from sluice.plan.observed import AclBinding
from sluice.plan.ownership import oldest
from sluice.plan.user import (
    SCRAM,
    acl_changes,
    desired_acls,
    listener_for,
    principal,
    quota_changes,
    renew_at,
    scram_mechanisms,
    user_name,
)

logger = logging.getLogger(__name__)

APPLIED_ANNOTATION: Final = f"{GROUP}/scram-applied"
"""On a User's Secret: digest of the password that Kafka was told, so that a changed or half-made one is seen."""
PASSWORD_LENGTH: Final = 32
LONGEST_SLEEP: Final = 86_400.0
NO_LISTENER_SECONDS: Final = 60.0

Results = dict[Key, Outcome | Exception]


@dataclass(frozen=True)
class _Observed:
    """What Kafka has for a user; ``acls`` is None where the cluster has no authorizer."""

    acls: set[AclBinding] | None
    scram: frozenset[str]
    quotas: Mapping[str, float]


class UserReconciler:
    """Makes users what their specs say: they can log in, and may do exactly what is listed."""

    kind = "User"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[Key, Key] = {}
        """Cluster of each object seen, for when it is gone."""

    def lane(self, key: Key) -> str:
        """One lane a cluster."""
        body = self._context.index.get(key)
        if body is not None:
            reference = body["spec"].get("clusterRef") or {}
            self._known[key] = Key(
                "MessagingCluster", reference.get("namespace") or key.namespace, reference.get("name", "")
            )
        return str(self._known.get(key, key))

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        results: Results = {key: Outcome() for key in keys}
        users: list[User] = []
        for key in keys:
            user = self._context.index.resource(key)
            if user is not None:
                users.append(user)
            elif (cluster := self._known.pop(key, None)) is not None:
                self._wake(cluster)
        leaving = [user for user in users if user.deleting and finalizer_of(self.kind) in user.finalizers]
        for user, left in zip(leaving, await each(leaving, self._leave), strict=True):
            if isinstance(left, Exception):
                results[user.key] = left
        live: list[User] = []
        for user in users:
            if not user.deleting:
                try:
                    self._check(user)
                    await self._context.clusters.connect(user.spec.cluster_ref, user.namespace)
                    live.append(user)
                except (UserError, WaitingError) as error:
                    results[user.key] = error
        if not live:
            return results
        admin = await self._context.clusters.connect(live[0].spec.cluster_ref, live[0].namespace)
        observed = await self._observe(admin, live)
        for user, outcome in zip(
            live, await each(live, lambda user: self._bring(admin, user, observed[user.key])), strict=True
        ):
            results[user.key] = outcome
        return results

    def _wake(self, cluster: Key) -> None:
        """Another object may have waited for a name that has become free."""
        for body in self._context.index.of_cluster(cluster, self.kind):
            self._context.enqueue(Key(self.kind, body["metadata"]["namespace"], body["metadata"]["name"]))

    def _check(self, user: User) -> None:
        """What needs no look at Kafka.

        Raises:
            UserError: another object has this name, or the credentials can't be made.
        """
        name = user_name(user)
        if name.startswith("sluice-"):
            raise UserError(Reason.INVALID_SPEC, f"{name} can't be a user's name: those with sluice- are Sluice's own")
        first = oldest([user, *self._rivals(user)])
        if first.key != user.key:
            raise UserError(
                Reason.CONFLICT,
                f"user {name} belongs to User {first.namespace}/{first.name}, which is older: delete one of the two, or"
                " give this one another spec.userName",
            )
        cluster = self._context.clusters.resolve(user.spec.cluster_ref, user.namespace)
        if cluster.spec.external is not None and user.spec.authentication is AuthenticationType.TLS:
            raise UserError(
                Reason.INVALID_SPEC,
                f"MessagingCluster {cluster.name} is external, so Sluice can't sign certificates that it trusts: use"
                f" authentication: {SCRAM}",
            )

    def _rivals(self, user: User) -> list[User]:
        cluster = cluster_key(user.spec.cluster_ref, user.namespace)
        rivals: list[User] = []
        for body in self._context.index.of_cluster(cluster, self.kind):
            metadata = body["metadata"]
            key = Key(self.kind, metadata["namespace"], metadata["name"])
            if key != user.key and (body["spec"].get("userName") or key.name) == user_name(user):
                rival = self._context.index.resource(key)
                if rival is not None:
                    rivals.append(rival)
        return rivals

    async def _observe(self, admin: KafkaAdmin, users: Sequence[User]) -> dict[Key, _Observed]:
        who = [user_name(user) for user in users]
        acls, scram, quotas = await asyncio.gather(
            self._acls(admin, who), admin.describe_scram(who), admin.describe_user_quotas(who)
        )
        return {
            user.key: _Observed(
                acls=None if acls is None else {acl for acl in acls if acl.principal == principal(name)},
                scram=scram.get(name, frozenset()),
                quotas=quotas.get(name, {}),
            )
            for user, name in zip(users, who, strict=True)
        }

    async def _acls(self, admin: KafkaAdmin, who: Sequence[str]) -> set[AclBinding] | None:
        try:
            return await admin.describe_acls(principal(who[0]) if len(who) == 1 else None)
        except KafkaRefusedError as error:
            if error.code == "SECURITY_DISABLED":
                return None
            raise

    # Users that live

    async def _bring(self, admin: KafkaAdmin, user: User, observed: _Observed) -> Outcome:
        name = user_name(user)
        cluster = self._context.clusters.resolve(user.spec.cluster_ref, user.namespace)
        secret_name = user.spec.secret_name or names.user_secret(user.name)
        found = await self._secret(user.namespace, secret_name)
        if found is not None and not belongs_to(found, user.namespace, user.name):
            raise UserError(
                Reason.CONFLICT,
                f"Secret {secret_name} exists and isn't this User's: it is left alone. Delete it, or say another name"
                " in spec.secretName",
            )
        access, not_after = await self._access(cluster, user, _data(found))
        acls = desired_acls(user.spec, name)
        changes = acl_changes(acls, observed.acls or set())
        if observed.acls is None and acls:
            raise KafkaRefusedError(
                Reason.KAFKA_REFUSED,
                "the cluster has no authorizer, so it knows no ACLs: remove spec.acls, or configure an authorizer",
                code="SECURITY_DISABLED",
            )
        await hold(self._context, user)
        if not observed.scram and not observed.acls and user.status.user_name is None:
            changed = await confirm(self._context, [user])
            if user.key in changed:
                raise changed[user.key]
        await self._store(user, cluster, secret_name, found, access)
        await self._let_log_in(admin, user, secret_name, found, access, observed.scram)
        await admin.create_acls([acl for acl in changes.create if acl.permission == "Deny"])
        await admin.delete_acls(changes.delete)
        await admin.create_acls([acl for acl in changes.create if acl.permission != "Deny"])
        if quotas := quota_changes(user.spec, observed.quotas):
            await admin.alter_user_quotas(name, quotas)
        if changes.create or changes.delete or quotas:
            logger.info(
                "%s: %d ACLs made, %d removed, %d quotas changed",
                user.key,
                len(changes.create),
                len(changes.delete),
                len(quotas),
            )
        return await self._report(user, secret_name, not_after)

    async def _access(
        self, cluster: Cluster, user: User, data: Mapping[str, str]
    ) -> tuple[ClientAccess, tuple[datetime, datetime] | None]:
        """How the user connects, with the credentials that it has, or new ones; and when a certificate is renewed and
        ends."""
        name = user_name(user)
        servers, tls, ca_pem = await self._where(cluster, user)
        if user.spec.authentication is AuthenticationType.SCRAM_SHA_512:
            password = data.get("password") or _new_password()
            return ClientAccess(name, servers, tls=tls, ca_pem=ca_pem, password=password), None
        authority = await self._cluster_secret(cluster, names.clients_ca_secret(cluster.name), "ca.crt", "ca.key")
        now = self._context.clock()
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

    async def _where(self, cluster: Cluster, user: User) -> tuple[str, bool, str | None]:
        """Bootstrap servers, whether they are encrypted, and the authority to trust."""
        external = cluster.spec.external
        if external is not None:
            ca_pem = None
            if external.tls is not None and (trusted := external.tls.ca_secret_ref) is not None:
                ca_pem = (await self._cluster_secret(cluster, trusted.name, trusted.key))[trusted.key]
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
        trusted_by_all = await self._cluster_secret(cluster, names.ca_cert_secret(cluster.name), "ca.crt")
        return servers, True, trusted_by_all["ca.crt"]

    async def _store(
        self, user: User, cluster: Cluster, secret_name: str, found: Mapping[str, Any] | None, access: ClientAccess
    ) -> None:
        applied = _annotation(found)
        kept = cluster.spec.deletion_policy is DeletionPolicy.RETAIN
        await self._context.kube.ensure(
            user_secret(
                name=secret_name,
                namespace=user.namespace,
                user=user.name,
                cluster=cluster.name,
                data=secret_data(access),
                annotations={APPLIED_ANNOTATION: applied} if applied else {},
                owner=None if kept else user.owner_reference(),
            )
        )

    async def _let_log_in(
        self,
        admin: KafkaAdmin,
        user: User,
        secret_name: str,
        found: Mapping[str, Any] | None,
        access: ClientAccess,
        mechanisms: frozenset[str],
    ) -> None:
        """Tell Kafka the password, if it doesn't know it, and take away those that aren't wanted."""
        name = user_name(user)
        wanted = scram_mechanisms(user.spec)
        if access.password:
            digest = hashlib.sha256(f"{name}:{access.password}".encode()).hexdigest()[:16]
            if SCRAM not in mechanisms or _annotation(found) != digest:
                await admin.upsert_scram(name, access.password, SCRAM)
                patch = {"metadata": {"annotations": {APPLIED_ANNOTATION: digest}}}
                await self._context.kube.patch("v1", "Secret", user.namespace, secret_name, patch)
        await admin.delete_scram(name, sorted(mechanisms - wanted))

    async def _report(self, user: User, secret_name: str, times: tuple[datetime, datetime] | None) -> Outcome:
        now = self._context.clock()
        written = UserStatus(
            conditions=conditions.ready(user, now),
            user_name=user_name(user),
            secret_name=secret_name,
            certificate_not_after=times[1] if times else None,
        )
        former = user.status.secret_name
        if former and former != secret_name:
            await self._delete_secret(user, former)
        await conditions.write_status(self._context, user, written)
        if times is None:
            return Outcome()
        return Outcome(requeue_after=min(LONGEST_SLEEP, max(1.0, (times[0] - now).total_seconds())))

    # Users that go

    async def _leave(self, user: User) -> None:
        cluster = cluster_key(user.spec.cluster_ref, user.namespace)
        name = user_name(user)
        if not await nothing_to_undo(self._context, cluster, user.namespace):
            rivals = [rival for rival in self._rivals(user) if not rival.deleting]
            if not rivals:
                admin = await self._context.clusters.connect(user.spec.cluster_ref, user.namespace)
                await self._remove(admin, name)
            for secret_name in {user.status.secret_name, user.spec.secret_name or names.user_secret(user.name)}:
                if secret_name:
                    await self._delete_secret(user, secret_name)
        await let_go(self._context, user)

    async def _remove(self, admin: KafkaAdmin, name: str) -> None:
        """Take every right first, then the means to log in."""
        if await self._acls(admin, [name]):
            await admin.delete_acls_of(principal(name))
        await admin.delete_scram(name, sorted((await admin.describe_scram([name])).get(name, ())))
        if quotas := (await admin.describe_user_quotas([name])).get(name):
            await admin.alter_user_quotas(name, dict.fromkeys(quotas))
        logger.info("user %s: rights, passwords and quotas removed", name)

    async def _delete_secret(self, user: User, name: str) -> None:
        secret = await self._secret(user.namespace, name)
        if secret is not None and belongs_to(secret, user.namespace, user.name):
            await self._context.kube.delete("v1", "Secret", user.namespace, name, uid=secret["metadata"]["uid"])

    async def _secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        return await self._context.kube.get("v1", "Secret", namespace, name)

    async def _cluster_secret(self, cluster: Cluster, name: str, *keys: str) -> dict[str, str]:
        data = _data(await self._secret(cluster.namespace, name))
        missing = [key for key in keys if key not in data]
        if missing:
            raise ClusterNotReadyError(
                cluster.namespace, cluster.name, f"Secret {name} doesn't have {' and '.join(missing)} yet"
            )
        return {key: data[key] for key in keys}


def _data(secret: Mapping[str, Any] | None) -> dict[str, str]:
    """Values of a Secret; those that aren't text are left out."""
    values: dict[str, str] = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        try:
            values[key] = base64.b64decode(value).decode()
        except ValueError:
            continue
    return values


def _annotation(secret: Mapping[str, Any] | None) -> str | None:
    annotations = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    value: str | None = annotations.get(APPLIED_ANNOTATION)
    return value


def _new_password() -> str:
    """A random password (190 bits) of letters and digits, which needs no escaping anywhere."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
