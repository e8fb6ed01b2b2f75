"""The operator dies after each of its writes, on a real API server; the outcome is that of an undisturbed one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sluice.api.base import API_VERSION
from sluice.engine.errors import WaitingError
from sluice.manifests import labels
from sluice.manifests.metadata import decode
from tests.integration.support.cluster_world import Killed, World, open_world, world

__all__ = ["world"]

LIVES = 300
"""More than any of these stories needs."""
RETAINED = ("demo-identity", "demo-cluster-ca", "demo-clients-ca")


@pytest.fixture
async def undisturbed(kubeconfig: Path) -> AsyncIterator[World]:
    """Another namespace, where nobody dies."""
    async with open_world(kubeconfig) as made:
        yield made


@dataclass
class Witness:
    """Everything that a node could ever have been formatted with, or could have trusted."""

    clusters: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    authorities: set[tuple[str, str]] = field(default_factory=set)

    async def look(self, world: World) -> None:
        """Note what there is now."""
        for secret in await world.list("Secret"):
            data = decode(secret)
            if secret["metadata"]["name"] == "demo-identity":
                self.clusters.add(data["cluster-id"])
                self.directories.add(data["directories"])
            if "keystore.pem" in data:
                self.authorities.add((data["cluster-ca.pem"], data["clients-ca.pem"]))
        for claim in await world.list("PersistentVolumeClaim"):
            self.clusters.add(claim["metadata"]["annotations"][labels.CLUSTER_ID_ANNOTATION])

    def saw_one_of_each(self) -> bool:
        """Whether there has only ever been one cluster."""
        return len(self.clusters) == len(self.directories) == len(self.authorities) == 1


async def die_after_every_write(world: World, witness: Witness) -> int:
    """Let each operator do one write and no more, until one has nothing left to do; how many died.

    Garbage of a deleted cluster is collected meanwhile, an object after each death.
    """
    deaths = 0
    for _ in range(LIVES):
        world.restart_operator()
        world.writes, world.fence_after = 0, 1
        waits = False
        try:
            await world.look()
        except Killed:
            deaths += 1
            await world.play_kubelet()
        except WaitingError:
            waits = True
        await witness.look(world)
        collected = await world.collect_garbage(1)
        if not (world.writes or waits or collected) and (await world.ready())["status"] == "True":
            world.fence_after = None
            return deaths
    raise AssertionError(f"no end after {LIVES} lives: {(await world.body()).get('status')}")


async def retained(world: World) -> dict[str, dict[str, str]]:
    """Values of what outlives a cluster, and the UIDs of it and of the volumes."""
    found: dict[str, dict[str, str]] = {}
    for name in RETAINED:
        secret = await world.outside.get("v1", "Secret", world.namespace, name)
        assert secret is not None
        found[name] = {**decode(secret), "uid": secret["metadata"]["uid"]}
    claims = await world.list("PersistentVolumeClaim")
    return found | {"claims": {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in claims}}


async def test_a_cluster_is_made_once_though_the_operator_dies_after_every_write(
    world: World, undisturbed: World
) -> None:
    await undisturbed.apply()
    await undisturbed.settle()
    await world.apply()
    witness = Witness()
    deaths = await die_after_every_write(world, witness)
    assert deaths > 25, "one for each object, and for what is written down of them"
    assert await world.shape() == await undisturbed.shape()
    assert witness.saw_one_of_each(), witness
    assert world.kafka.defaults == undisturbed.kafka.defaults
    body = await world.settle()
    assert body["status"]["clusterId"] in witness.clusters
    assert decode(await world.outside.get("v1", "Secret", world.namespace, "demo-identity"))["bootstrapped"] == "true"


async def test_it_is_the_same_cluster_after_deletion_and_apply_though_the_operator_dies_after_every_write(
    world: World,
) -> None:
    await world.apply()
    first = await world.settle()
    witness = Witness()
    await witness.look(world)
    shape, kept = await world.shape(), await retained(world)
    await world.outside.delete(API_VERSION, "MessagingCluster", world.namespace, "demo")
    await world.apply()
    assert await die_after_every_write(world, witness) > 10, "fewer, as what waits for garbage to go doesn't die"
    assert await world.shape() == shape
    assert await retained(world) == kept
    assert witness.saw_one_of_each(), witness
    body = await world.settle()
    assert body["metadata"]["uid"] != first["metadata"]["uid"]
    assert body["status"]["clusterId"] == first["status"]["clusterId"]


async def test_a_change_of_deletion_policy_is_complete_though_the_operator_dies_after_every_write(
    world: World, undisturbed: World
) -> None:
    for each in (world, undisturbed):
        await each.apply()
        await each.settle()
    witness = Witness()
    kept, pods = await retained(world), world.revisions()
    shapes = []
    for policy in ("Delete", "Retain"):
        await undisturbed.apply(deletionPolicy=policy)
        await undisturbed.settle()
        await world.apply(deletionPolicy=policy)
        assert await die_after_every_write(world, witness) >= len(RETAINED) + len(kept["claims"])
        shapes.append(await world.shape())
        assert shapes[-1] == await undisturbed.shape()
        assert await retained(world) == kept
    assert shapes[0] != shapes[1]
    assert world.revisions() == pods, "nobody is restarted"
    assert witness.saw_one_of_each(), witness
    # The last word counts: the data of a cluster that is deleted now stays.
    await world.outside.delete(API_VERSION, "MessagingCluster", world.namespace, "demo")
    await world.collect_garbage()
    assert await retained(world) == kept
