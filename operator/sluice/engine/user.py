"""The User reconciler: credentials in a Secret, rights and quotas in Kafka; all due users of a cluster in one go."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Cluster, Key, User
from sluice.api.user import AuthenticationType, UserStatus
from sluice.engine import status as conditions
from sluice.engine.batching import confirm, each, lane_of, readable, referred
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.finalizers import finalizer_of, hold
from sluice.engine.reconciler import Context, Outcome
from sluice.engine.user_deletion import claimed_name, leave
from sluice.engine.user_rights import grant, observe
from sluice.engine.user_secret import Held, access_of, digest_of, held, note_applied, remove, store
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.manifests.client_config import ClientAccess
from sluice.plan.ownership import owners
from sluice.plan.user import (
    SCRAM,
    ObservedUser,
    acl_changes,
    desired_acls,
    name_refused,
    principal,
    quota_changes,
    scram_mechanisms,
    user_name,
)

logger = logging.getLogger(__name__)

LONGEST_SLEEP: Final = 86_400.0

Results = dict[Key, Outcome | Exception]


class UserReconciler:
    """Makes users what their specs say: they can log in, and may do exactly what is listed."""

    kind = "User"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[Key, Key] = {}
        """Cluster of each object seen, for when it is gone."""

    def lane(self, key: Key) -> str:
        """One lane a cluster, and one for objects that are being deleted."""
        body = self._context.index.get(key)
        if body is not None:
            self._known[key] = referred(body)
        return lane_of(self._known[key], body) if key in self._known else str(key)

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """See `sluice.engine.reconciler.Reconciler`."""
        results: Results = {key: Outcome() for key in keys}
        users: list[User] = []
        for key in keys:
            user = readable(self._context, key)
            if user is not None:
                users.append(user)
            elif (cluster := self._known.pop(key, None)) is not None:
                self._wake(cluster)
        # Only those with our finalizer: it stands for what is to be undone.
        held_back = [user for user in users if user.deleting and finalizer_of(self.kind) in user.finalizers]
        results.update(await leave(self._context, held_back))
        live, admin, refused = await self._admit([user for user in users if not user.deleting])
        results.update(refused)
        if admin is None:
            return results
        observed = await observe(admin, live)
        outcomes = await each(live, lambda user: self._bring(admin, user, observed[user.key]))
        results.update(zip((user.key for user in live), outcomes, strict=True))
        return results

    def _wake(self, cluster: Key) -> None:
        """Another object may have waited for a name that has become free."""
        for body in self._context.index.of_cluster(cluster, self.kind):
            self._context.enqueue(Key(self.kind, body["metadata"]["namespace"], body["metadata"]["name"]))

    async def _admit(self, users: Sequence[User]) -> tuple[list[User], KafkaAdmin | None, Results]:
        """Users that may have what they ask for, the cluster's client (None without any), and the others' errors."""
        admitted: list[User] = []
        admin: KafkaAdmin | None = None
        refused: Results = {}
        owner_of: dict[str, Key] | None = None
        for user in users:
            try:
                cluster = self._context.clusters.resolve(user.spec.cluster_ref, user.namespace)
                if owner_of is None:
                    owner_of = owners(self._context.index.of_cluster(cluster.key, self.kind), cluster, claimed_name)
                _check(user, cluster, owner_of.get(user_name(user), user.key))
                client = await self._context.clusters.connect(user.spec.cluster_ref, user.namespace)
                _check_login(user, client)
            except (UserError, WaitingError) as error:
                refused[user.key] = error
            else:
                admin = client
                admitted.append(user)
        return admitted, admin, refused

    # Users that live

    async def _bring(self, admin: KafkaAdmin, user: User, observed: ObservedUser) -> Outcome:
        name = user_name(user)
        cluster = self._context.clusters.resolve(user.spec.cluster_ref, user.namespace)
        secret = await held(self._context, user)
        if observed.traces and not user.spec.adopt_existing and not secret.shows(user, cluster):
            raise UserError(
                Reason.CONFLICT,
                f"{principal(name)} has {' and '.join(observed.traces)} in Kafka that Sluice didn't make, so somebody"
                " else may be using it: make a User with another userName, or set spec.adoptExisting: true to take it"
                " over (its password is replaced, its ACLs and quotas become what the spec says)",
            )
        access, times = await access_of(self._context, cluster, user, secret.data)
        acls = desired_acls(user.spec, name)
        if observed.acls is None and acls:
            raise KafkaRefusedError(
                Reason.KAFKA_REFUSED,
                "the cluster has no authorizer, so it knows no ACLs: remove spec.acls, or configure an authorizer",
                code="SECURITY_DISABLED",
            )
        rights = acl_changes(acls, set(observed.acls or ()))
        quotas = quota_changes(user.spec, observed.quotas)
        login = bool(access.password) and (SCRAM not in observed.scram or secret.applied != digest_of(access))
        unwanted = observed.scram - scram_mechanisms(user.spec)
        await hold(self._context, user)
        if login or unwanted or rights.create or rights.delete or quotas:
            for error in (await confirm(self._context, [user])).values():
                raise error
        await store(self._context, user, cluster, secret, access)
        if login:
            await self._tell_password(admin, user, secret, access)
        await admin.delete_scram(name, sorted(unwanted))
        await grant(admin, rights)
        if quotas:
            await admin.alter_user_quotas(name, quotas)
        if rights.create or rights.delete or quotas:
            counts = len(rights.create), len(rights.delete), len(quotas)
            logger.info("%s: %d ACLs made, %d removed, %d quotas changed", user.key, *counts)
        return await self._report(user, secret.name, times)

    async def _tell_password(self, admin: KafkaAdmin, user: User, secret: Held, access: ClientAccess) -> None:
        await admin.upsert_scram(access.user_name, access.password or "", SCRAM)
        await note_applied(self._context, user, secret, digest_of(access))

    async def _report(self, user: User, secret: str, times: tuple[datetime, datetime] | None) -> Outcome:
        now = self._context.clock()
        written = UserStatus(
            conditions=conditions.ready(user, now),
            user_name=user_name(user),
            secret_name=secret,
            certificate_not_after=times[1] if times else None,
        )
        former = user.status.secret_name
        if former and former != secret:
            await remove(self._context, user, former)
        await conditions.write_status(self._context, user, written)
        if times is None:
            return Outcome()
        return Outcome(requeue_after=min(LONGEST_SLEEP, max(1.0, (times[0] - now).total_seconds())))


def _check(user: User, cluster: Cluster, owner: Key) -> None:
    """What needs no look at Kafka.

    Raises:
        UserError: another object has this name, or the credentials can't be made.
    """
    name = user_name(user)
    if (why := name_refused(user.spec, name)) is not None:
        raise UserError(Reason.INVALID_SPEC, why)
    if owner != user.key:
        raise UserError(
            Reason.CONFLICT,
            f"user {name} belongs to {owner}, which is older: delete one of the two, or make one with another"
            " spec.userName",
        )
    if cluster.spec.external is not None and user.spec.authentication is AuthenticationType.TLS:
        raise UserError(
            Reason.INVALID_SPEC,
            f"MessagingCluster {cluster.name} is external, so Sluice can't sign certificates that it trusts: use"
            f" authentication: {SCRAM}",
        )


def _check_login(user: User, admin: KafkaAdmin) -> None:
    if user_name(user) in admin.settings.own_names:
        raise UserError(
            Reason.INVALID_SPEC,
            f"{user_name(user)} is the name by which Sluice itself logs in to this cluster: another password or other"
            " ACLs would lock it out. Make a User with another userName",
        )
