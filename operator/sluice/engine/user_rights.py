"""What principals have in Kafka: looked at, given and taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from sluice.api.objects import Key, User
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.errors import KafkaRefusedError
from sluice.plan.observed import AclBinding
from sluice.plan.user import AclChanges, ObservedUser, acl_changes, principal, user_name

logger = logging.getLogger(__name__)


async def observe(admin: KafkaAdmin, users: Sequence[User]) -> dict[Key, ObservedUser]:
    """What Kafka has for each user."""
    who = sorted({user_name(user) for user in users})
    acls, scram, quotas = await asyncio.gather(
        _acls(admin, who), admin.describe_scram(who), admin.describe_user_quotas(who)
    )
    by_name = {
        name: ObservedUser(
            acls=None if acls is None else frozenset(acl for acl in acls if acl.principal == principal(name)),
            scram=scram.get(name, frozenset()),
            quotas=quotas.get(name, {}),
        )
        for name in who
    }
    return {user.key: by_name[user_name(user)] for user in users}


async def _acls(admin: KafkaAdmin, who: Sequence[str]) -> set[AclBinding] | None:
    try:
        return await admin.describe_acls(principal(who[0]) if len(who) == 1 else None)
    except KafkaRefusedError as error:
        if error.code == "SECURITY_DISABLED":
            return None
        raise


async def grant(admin: KafkaAdmin, rights: AclChanges) -> None:
    """Change ACLs in an order in which no moment allows more than before or after."""
    await admin.create_acls([acl for acl in rights.create if acl.permission == "Deny"])
    await admin.delete_acls(rights.delete)
    await admin.create_acls([acl for acl in rights.create if acl.permission != "Deny"])


async def take(admin: KafkaAdmin, name: str, observed: ObservedUser) -> None:
    """Take every right first, then the means to log in."""
    await grant(admin, acl_changes(set(), set(observed.acls or ())))
    await admin.delete_scram(name, sorted(observed.scram))
    if observed.quotas:
        await admin.alter_user_quotas(name, dict.fromkeys(observed.quotas))
    logger.info("user %s: rights, passwords and quotas removed", name)
