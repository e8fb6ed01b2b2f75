"""As whom a replay's workers come to an external cluster, and what they leave there."""

from __future__ import annotations

import base64

import pytest

from sluice.api.base import Reason
from sluice.kafka.errors import KafkaRefusedError
from tests.unit.engine.replay_fakes import CLUSTER, JOB, Stage, stage

FORBIDDEN = KafkaRefusedError(Reason.KAFKA_REFUSED, "not yours to change", code="CLUSTER_AUTHORIZATION_FAILED")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return stage(monkeypatch)


def login(here: Stage, mechanism: str) -> None:
    """Sluice itself logs in as ``boss``."""
    here.cluster({"tls": {}, "authentication": {"type": mechanism, "secretName": "login"}})
    values = {"username": "boss", "password": "boss-secret"}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    here.kube.put(
        {"kind": "Secret", "metadata": {"namespace": CLUSTER.namespace, "name": "login", "uid": "s"}, "data": data}
    )


def files(here: Stage) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in (here.secret() or {}).items()}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_workers_log_in_by_the_mechanism_that_the_cluster_has(here: Stage, mechanism: str) -> None:
    login(here, mechanism)
    here.apply()
    await here.reconcile(2)
    name = files(here)["username"]
    assert name.startswith("sluice-replay-")
    assert here.kafka.scram == {name: mechanism}
    assert here.plan_of_workers().target.sasl_mechanism == mechanism
    assert {acl.principal for acl in here.kafka.acls} == {f"User:{name}"}
    here.mark_deleted(JOB)
    await here.reconcile()
    assert (here.kafka.scram, here.kafka.acls) == ({}, set())


async def test_a_password_is_kept_by_the_next_operator(here: Stage) -> None:
    login(here, "SCRAM-SHA-256")
    here.apply()
    await here.reconcile(2)
    before = files(here)
    here.restart()
    await here.reconcile()
    assert files(here) == before


async def test_where_passwords_are_not_ours_to_set_the_clusters_own_are_used_and_it_is_said(here: Stage) -> None:
    login(here, "SCRAM-SHA-256")
    here.kafka.refusal = FORBIDDEN
    here.apply()
    await here.reconcile(2)
    assert files(here) == {"username": "boss", "password": "boss-secret"}
    assert here.plan_of_workers().target.sasl_mechanism == "SCRAM-SHA-256"
    (warning,) = here.status["plan"]["warnings"]
    assert "can't narrow down" in warning
    assert "not yours to change" in warning
    assert here.workers()
    here.restart()
    await here.reconcile()
    assert here.status["plan"]["warnings"] == [warning]
    here.kafka.ledger.clear()
    here.restart()
    await here.reconcile()
    assert here.status["plan"]["warnings"] == [warning]
    here.mark_deleted(JOB)
    await here.reconcile()  # nothing of its own is there to be taken away, and asking would be refused, too
    assert (here.secret(), here.finalizers) == (None, [])


async def test_the_clusters_own_password_never_becomes_a_replays(here: Stage) -> None:
    login(here, "SCRAM-SHA-256")
    here.kafka.refusal = FORBIDDEN
    here.apply()
    await here.reconcile(2)
    here.kafka.refusal = None
    here.restart()
    await here.reconcile()
    now = files(here)
    assert now["username"].startswith("sluice-replay-")
    assert now["password"] != "boss-secret"
