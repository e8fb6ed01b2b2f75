"""What becomes of principals in Kafka, and of their Secrets, when their objects are deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sluice.api.objects import Cluster, Key, User, cluster_key
from sluice.engine import leaving
from sluice.engine.batching import each
from sluice.engine.errors import WaitingError
from sluice.engine.leaving import Errors
from sluice.engine.reconciler import Context
from sluice.engine.user_rights import observe, take
from sluice.engine.user_secret import Held, own, remove, secret_name
from sluice.kafka.admin import KafkaAdmin
from sluice.plan.user import ObservedUser, user_name


def claimed_name(body: Mapping[str, Any]) -> str:
    """Name in Kafka that a User's body claims, without reading the whole object into types."""
    name: str = body["spec"].get("userName") or body["metadata"]["name"]
    return name


async def leave(context: Context, users: Sequence[User]) -> Errors:
    """Take from users what they have, if their cluster lives; then let the objects go.

    Returns what failed, as errors that are tried again soon.
    """
    if not users:
        return {}
    cluster = cluster_key(users[0].spec.cluster_ref, users[0].namespace)
    return await leaving.leave(context, cluster, users, take=users, undo=lambda going: _take_all(context, going))


async def _take_all(context: Context, users: Sequence[User]) -> Errors:
    errors: Errors = {}
    reached: dict[Key, tuple[Cluster, KafkaAdmin]] = {}
    for user in users:
        try:
            cluster = context.clusters.resolve(user.spec.cluster_ref, user.namespace)
            reached[user.key] = cluster, await context.clusters.connect(user.spec.cluster_ref, user.namespace)
        except WaitingError as error:
            errors[user.key] = error
    if not reached:
        return errors
    going = [user for user in users if user.key in reached]
    observed = await observe(reached[going[0].key][1], going)
    answers = await each(going, lambda user: _take(context, *reached[user.key], user, observed[user.key]))
    failed = zip(going, answers, strict=True)
    return errors | {user.key: answer for user, answer in failed if isinstance(answer, Exception)}


async def _take(context: Context, cluster: Cluster, admin: KafkaAdmin, user: User, observed: ObservedUser) -> None:
    name = user_name(user)
    secrets = sorted({secret_name(user), user.status.secret_name or secret_name(user)})
    held = [Held(secret, await own(context, user, secret)) for secret in secrets]
    ours = any(secret.shows(user, cluster) for secret in held) and name not in admin.settings.own_names
    if ours and not _had_by_another(context, cluster.key, user):
        await take(admin, name, observed)
    for secret in secrets:
        await remove(context, user, secret)


def _had_by_another(context: Context, cluster: Key, user: User) -> bool:
    """Whether another object that stays has the principal by now."""
    return any(
        claimed_name(body) == user_name(user)
        and (body.get("status") or {}).get("userName") == user_name(user)
        and body["metadata"]["uid"] != user.uid
        and "deletionTimestamp" not in body["metadata"]
        for body in context.index.of_cluster(cluster, user.key.kind)
    )
