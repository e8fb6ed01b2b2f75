"""Identity of a cluster."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.api.cluster import NodePool, Role, Storage
from sluice.plan import identity
from sluice.plan.identity import IdentityError, VolumeRecord
from sluice.plan.observed import QuorumDescription, QuorumReplica
from sluice.versions import KAFKA_VERSIONS


def pool(name: str, *roles: Role, replicas: int = 3) -> NodePool:
    return NodePool(name=name, roles=list(roles), replicas=replicas, storage=Storage(size="1Gi"))


CONTROLLERS = pool("controllers", Role.CONTROLLER)
BROKERS = pool("brokers", Role.BROKER, replicas=2)


def made() -> identity.Identity:
    ids = (f"id-{number}" for number in itertools.count())
    return identity.new("demo", "here", [CONTROLLERS, BROKERS], "4.4.0", lambda: next(ids))


def test_a_new_cluster_records_its_controllers_as_the_storage_tool_wants_them() -> None:
    found = made()
    assert found.pools == {"controllers": 0, "brokers": 100}
    assert found.initial_controllers.split(",")[1] == (
        "1@demo-controllers-1-0.demo-nodes.here.svc:9090:" + found.directories[1]
    )
    assert set(found.directories) == {0, 1, 2}
    assert not found.bootstrapped


def test_what_is_written_is_read_back() -> None:
    assert identity.read(made().data()) == made()


@pytest.mark.parametrize("key", ["cluster-id", "pools", "directories", "bootstrapped"])
def test_a_damaged_identity_is_refused_with_what_to_do(key: str) -> None:
    data = {**made().data(), key: ""} if key == "cluster-id" else {**made().data()}
    if key != "cluster-id":
        del data[key]
    with pytest.raises(IdentityError, match="restore it"):
        identity.read(data)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=5), max_size=6))
def test_node_ids_of_pools_never_meet_and_never_change(history: list[list[str]]) -> None:
    firsts: dict[str, int] = {}
    for present in history:
        before = dict(firsts)
        firsts = identity.with_pools(firsts, [pool(name, Role.BROKER) for name in dict.fromkeys(present)])
        assert before.items() <= firsts.items()
        assert len(set(firsts.values())) == len(firsts)


def test_a_lost_identity_comes_back_from_the_volumes_and_never_bootstraps_again() -> None:
    volumes = [
        VolumeRecord("controllers", 2, "abc", KAFKA_VERSIONS[0]),
        VolumeRecord("brokers", 101, "abc", KAFKA_VERSIONS[0]),
    ]
    found = identity.recovered(volumes, None)
    assert found.cluster_id == "abc"
    assert found.pools == {"controllers": 0, "brokers": 100}
    assert found.bootstrapped
    assert found.initial_controllers == ""
    assert found.format_version == KAFKA_VERSIONS[0]


def test_volumes_of_two_clusters_are_not_guessed_about() -> None:
    with pytest.raises(IdentityError, match="different Kafka clusters"):
        identity.recovered([VolumeRecord("a", 0, "one", "4.4.0"), VolumeRecord("a", 1, "two", "4.4.0")], None)


def test_the_first_quorum_is_complete_when_every_controller_has_its_disk_and_has_been_heard_of() -> None:
    def seen(leader: int = 1, **different: int | str) -> QuorumDescription:
        """All three vote; ``different`` is what is so of node 2."""
        voters = [QuorumReplica(n, f"id-{n}", 9, 99_800, 99_700) for n in range(3)]
        voters[1] = dataclasses.replace(voters[1], last_fetch_ms=100_000, last_caught_up_ms=100_000)
        voters[2] = dataclasses.replace(voters[2], **different)  # type: ignore[arg-type]
        return QuorumDescription(leader, 1, 0, tuple(voters), ())

    assert identity.quorum_complete(made(), seen())
    assert not identity.quorum_complete(made(), seen(leader=-1))
    # Voters are as they were planned from the first election on, which needs two; the third may have no disk yet.
    assert not identity.quorum_complete(made(), seen(last_fetch_ms=-1))
    assert not identity.quorum_complete(made(), seen(last_fetch_ms=100_000 - 2_001))
    assert not identity.quorum_complete(made(), seen(directory_id="another"))
    assert not identity.quorum_complete(made(), seen(id=7))
