"""Users against a Kafka in memory: whose principal it is, and that credentials stay what they are."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.reconciler import Outcome
from sluice.engine.user import UserReconciler
from sluice.plan.observed import AclBinding
from tests.unit.engine.kafka_fakes import World

SCRAM = "SCRAM-SHA-512"


def acl(name: str, operation: str = "Read") -> AclBinding:
    return AclBinding("Topic", "orders", "Literal", f"User:{name}", "*", operation, "Allow")


@pytest.fixture
def world() -> World:
    return World(UserReconciler, allowed=["ns", "other"])


def user(world: World, name: str, namespace: str = "ns", day: int = 1, **spec: Any) -> Key:
    acls = [{"resource": "Topic", "name": "orders", "operations": ["Read"]}]
    full = {"authentication": SCRAM, "acls": acls, **spec}
    return world.put("User", name, full, namespace=namespace, day=day)


def password(world: World, secret: str, namespace: str = "ns") -> str:
    data = world.kube.objects[Key("Secret", namespace, secret)]["data"]
    return base64.b64decode(data["password"]).decode()


async def conflict(world: World, key: Key) -> str:
    result = (await world.reconcile(key))[key]
    assert isinstance(result, UserError), result
    assert result.reason is Reason.CONFLICT
    return result.message


async def test_a_name_that_no_certificate_can_hold_is_the_users_to_change_also_where_no_webhook_answered(
    world: World,
) -> None:
    key = user(world, "u" * 65, authentication="TLS")
    result = (await world.reconcile(key))[key]
    assert isinstance(result, UserError)
    assert result.reason is Reason.INVALID_SPEC
    assert "64 characters" in result.message
    await world.settle(user(world, "p" * 65))  # a password has no such limit


# Whose principal it is


async def test_the_login_of_sluice_itself_is_nobodys(world: World) -> None:
    world.kafka.scram["admin"] = {SCRAM}
    key = user(world, "thief", userName="admin", adoptExisting=True)
    result = (await world.reconcile(key))[key]
    assert isinstance(result, UserError)
    assert "admin" in result.message
    assert world.kafka.acls == set()
    assert world.kafka.asked["upsert_scram"] == 0
    # Not even by an object that comes with a finalizer and goes.
    world.put("User", "thief", {"userName": "admin"}, finalizers=["sluice.dev/user"])
    world.delete(key)
    await world.settle(key)
    assert world.kafka.scram == {"admin": {SCRAM}}


@pytest.mark.parametrize("traces", ["scram", "acls", "quotas"])
async def test_a_principal_that_somebody_else_made_is_taken_over_only_with_consent(world: World, traces: str) -> None:
    if traces == "scram":
        world.kafka.scram["alice"] = {SCRAM}
    elif traces == "acls":
        world.kafka.acls.add(acl("alice", "Write"))
    else:
        world.kafka.quotas["alice"] = {"producer_byte_rate": 5.0}
    before = (set(world.kafka.acls), dict(world.kafka.quotas))
    key = user(world, "alice")
    assert "adoptExisting" in await conflict(world, key)
    assert (world.kafka.acls, world.kafka.quotas) == before
    assert world.kafka.asked["upsert_scram"] == 0
    assert Key("Secret", "ns", "alice-kafka") not in world.kube.objects
    assert "finalizers" not in world.kube.objects[key]["metadata"]
    user(world, "alice", adoptExisting=True)
    await world.settle(key)
    assert world.kafka.acls == {acl("alice")}
    assert world.kafka.passwords["alice"] == password(world, "alice-kafka")
    user(world, "alice")  # consent was needed once
    await world.settle(key)


async def test_what_was_made_before_the_operator_was_killed_is_ours(world: World) -> None:
    key = user(world, "alice")
    world.kube.before_patch = None
    await world.settle(key)
    del world.kube.objects[key]["status"]
    secret = world.kube.objects[Key("Secret", "ns", "alice-kafka")]
    del secret["metadata"]["annotations"]["sluice.dev/scram-applied"]
    world.context.index.put(world.kube.put(world.kube.objects[key]))
    world.restart()
    await world.settle(key)
    assert world.kafka.passwords["alice"] == password(world, "alice-kafka")


async def test_a_user_of_a_cluster_that_came_back_finds_its_own(world: World) -> None:
    key = user(world, "alice")
    await world.settle(key)
    kept = password(world, "alice-kafka")
    del world.kube.objects[key]
    world.context.index.remove(key, "uid-ns-alice")
    key = world.put("User", "alice", {"authentication": SCRAM}, uid="another")
    await world.settle(key)
    assert password(world, "alice-kafka") == kept


async def test_a_secret_that_speaks_of_another_principal_or_cluster_proves_nothing(world: World) -> None:
    key = user(world, "alice", userName="bob")
    await world.settle(key)
    del world.kube.objects[key]
    world.context.index.remove(key, "uid-ns-alice")
    world.kafka.scram["carol"] = {SCRAM}
    key = world.put("User", "alice", {"authentication": SCRAM, "userName": "carol"}, uid="another")
    await conflict(world, key)
    assert "carol" not in world.kafka.passwords


async def test_an_object_that_never_had_the_principal_takes_nothing_along(world: World) -> None:
    world.kafka.scram["alice"] = {SCRAM}
    world.kafka.acls.add(acl("alice", "Write"))
    key = world.put("User", "alice", {}, finalizers=["sluice.dev/user"])
    world.delete(key)
    await world.settle(key)
    assert world.kafka.acls == {acl("alice", "Write")}
    assert world.kafka.scram == {"alice": {SCRAM}}
    assert key not in world.kube.objects


async def test_a_claim_from_a_namespace_that_the_cluster_refuses_is_none(world: World) -> None:
    user(world, "alice", namespace="stranger", day=1)
    key = user(world, "alice", day=2)
    await world.settle(key)


async def test_an_object_that_can_not_be_read_holds_up_nobody(world: World) -> None:
    user(world, "broken", novelty=1)
    rival, other = user(world, "rival", userName="broken", day=2), user(world, "other")
    results = await world.reconcile(rival, other)
    assert isinstance(results[rival], UserError)
    assert isinstance(results[other], Outcome)


# What is known may be old


async def test_nothing_is_changed_for_a_user_that_was_deleted_meanwhile(world: World) -> None:
    key = user(world, "alice")
    await world.settle(key)
    world.kafka.acls.add(acl("alice", "Write"))
    del world.kube.objects[key]
    assert isinstance((await world.reconcile(key))[key], WaitingError)
    assert acl("alice", "Write") in world.kafka.acls


# Secrets


async def test_another_name_for_the_secret_is_no_other_credential(world: World) -> None:
    key = user(world, "alice")
    await world.settle(key)
    before = password(world, "alice-kafka")
    user(world, "alice", secretName="elsewhere")
    await world.settle(key)
    assert password(world, "elsewhere") == before
    assert Key("Secret", "ns", "alice-kafka") not in world.kube.objects
    assert world.kafka.asked["upsert_scram"] == 1
    assert world.status(key)["secretName"] == "elsewhere"


# Users that go


async def test_deletions_have_a_lane_of_their_own_and_are_tried_again_soon(world: World) -> None:
    key, other = user(world, "alice"), user(world, "bob")
    await world.settle(key, other)
    world.delete(key)
    assert world.reconciler.lane(key) != world.reconciler.lane(other)
    world.kafka.silent = True
    waiting = (await world.reconcile(key))[key]
    assert isinstance(waiting, WaitingError)
    assert waiting.reason is Reason.KAFKA_UNREACHABLE
    assert waiting.retry_after * 1.2 <= 15
    world.kafka.silent = False
    await world.settle(key)
    assert world.kafka.acls == {acl("bob")}
    assert not world.kafka.scram["alice"]


async def test_who_has_waited_for_a_name_gets_it_afresh(world: World) -> None:
    first, second = user(world, "alice", day=1), user(world, "heir", userName="alice", day=2)
    await world.settle(first)
    await conflict(world, second)
    world.delete(first)
    await world.settle(first)
    await world.reconciler.reconcile([first])
    assert second in world.woken
    await world.settle(second)
    assert world.kafka.passwords["alice"] == password(world, "heir-kafka")


async def test_a_principal_that_another_object_has_by_now_stays(world: World) -> None:
    world.cluster(["ns"])
    mine = user(world, "alice", day=2)
    await world.settle(mine)
    world.cluster(["ns", "other"])
    elder = user(world, "elder", namespace="other", userName="alice", day=1, adoptExisting=True)
    await world.settle(elder)
    world.delete(mine)
    await world.settle(mine)
    assert world.kafka.acls == {acl("alice")}
    assert world.kafka.scram["alice"] == {SCRAM}
