"""How pods are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.engine.cluster_roll import pod_health, why_stale
from sluice.manifests import labels
from sluice.plan.rollout import Health

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def health_of(body: dict[str, Any] | None) -> tuple[Health, str]:
    return pod_health(body, NOW)


def pod(*, ready: bool = False, container: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}, *status.pop("conditions", ())]
    statuses = [container] if container else []
    return {
        "metadata": {"name": "demo-nodes-0-0"},
        "status": {"conditions": conditions, "containerStatuses": statuses, **status},
    }


def test_a_pod_that_is_ready_or_on_its_way_is_let_alone() -> None:
    assert health_of(pod(ready=True))[0] is Health.READY
    assert health_of(None)[0] is Health.STARTING
    assert health_of(pod(container={"state": {"running": {}}, "restartCount": 0}))[0] is Health.STARTING
    leaving = {**pod(ready=True), "metadata": {"deletionTimestamp": "2026-11-24T00:00:00Z"}}
    assert health_of(leaving)[0] is Health.STARTING


@pytest.mark.parametrize("reason", ["CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError"])
def test_a_container_that_cannot_run_is_stuck_and_the_message_says_why(reason: str) -> None:
    container = {"state": {"waiting": {"reason": reason, "message": "no such image"}}, "restartCount": 0}
    health, trouble = health_of(pod(container=container))
    assert health is Health.STUCK
    assert reason in trouble
    assert "no such image" in trouble


def crashed(*, ran: timedelta, ago: timedelta) -> dict[str, Any]:
    """A container that runs again, and isn't ready, after its third crash."""
    ended = {"exitCode": 1, "startedAt": written(NOW - ago - ran), "finishedAt": written(NOW - ago)}
    return {"state": {"running": {}}, "lastState": {"terminated": ended}, "restartCount": 3, "ready": False}


def test_a_container_between_two_crashes_is_stuck_too() -> None:
    container = crashed(ran=timedelta(seconds=20), ago=timedelta(minutes=4))
    assert health_of(pod(container=container)) == (
        Health.STUCK,
        "it has crashed 3 times (exit code 1): see the log of its pod",
    )


@pytest.mark.parametrize(
    ("ran", "ago"),
    [
        pytest.param(timedelta(days=40), timedelta(seconds=5), id="its restarts are those of a long life"),
        pytest.param(timedelta(seconds=20), timedelta(minutes=30), id="it has been reading its log for half an hour"),
    ],
)
def test_a_container_that_recovers_after_a_crash_is_let_alone(ran: timedelta, ago: timedelta) -> None:
    assert health_of(pod(container=crashed(ran=ran, ago=ago))) == (Health.STARTING, "it is starting")


def test_a_container_of_whose_end_nothing_is_known_is_let_alone() -> None:
    container = {**crashed(ran=timedelta(), ago=timedelta()), "lastState": {"terminated": {"exitCode": 137}}}
    assert health_of(pod(container=container))[0] is Health.STARTING


def test_a_pod_that_finds_no_place_is_stuck() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
    assert health_of(pod(conditions=[unscheduled])) == (Health.STUCK, "its pod can't be scheduled: no room")


def made(revision: str, *, image: str = "i", config: str = "demo-config-1", tls: str = "demo-tls-1") -> dict[str, Any]:
    spec = {
        "containers": [{"image": image}],
        "volumes": [{"configMap": {"name": config}}, {"secret": {"secretName": tls}}],
    }
    return {"metadata": {"annotations": {labels.REVISION_ANNOTATION: revision}}, "spec": spec}


def desired(**differences: str) -> dict[str, Any]:
    template = made("2", **differences)
    return {"metadata": template["metadata"], "spec": {"template": template}}


def test_why_a_node_must_be_restarted_is_told_by_what_differs() -> None:
    assert why_stale(made("2"), desired()) is None
    assert why_stale(None, desired()) is None
    assert why_stale(made("1"), desired(image="j")) == "image j"
    assert why_stale(made("1"), desired(config="demo-config-2")) == "its configuration has changed"
    assert why_stale(made("1"), desired(tls="demo-tls-2")) == (
        "its certificate or the authorities that it trusts have changed"
    )
    assert why_stale(made("1"), desired()) == "its pod template has changed"
