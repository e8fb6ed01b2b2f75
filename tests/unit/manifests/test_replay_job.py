"""What a running replay consists of in Kubernetes."""

from __future__ import annotations

import pytest

from sluice.manifests.replay_job import ReplayObjects, credentials_secret, plan_config_map, worker_job
from sluice.replay.errors import ExitCode

OBJECTS = ReplayObjects("february", "demo", "0a1b2c3d-0000", "kafka", {"kind": "ReplayJob", "uid": "0a1b2c3d-0000"})


def test_pods_have_no_right_in_kubernetes_and_can_write_nowhere() -> None:
    pod = worker_job(OBJECTS, "image", 3, 6)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(mount.get("readOnly") for mount in container["volumeMounts"] if mount["name"] != "tmp")
    assert container["resources"]["limits"]["memory"] == "320Mi"


def test_what_another_try_would_not_change_ends_the_job_at_once() -> None:
    rules = worker_job(OBJECTS, "image", 1, 6)["spec"]["podFailurePolicy"]["rules"]
    final = {ExitCode.BAD_PLAN, ExitCode.POSITION_LOST, ExitCode.RANGE_LOST, ExitCode.REFUSED}
    assert {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r} == {
        tuple(sorted(int(code) for code in final)): "FailJob",
        (int(ExitCode.FENCED), int(ExitCode.STOPPED)): "Ignore",
    }


def test_a_pod_that_had_to_go_is_no_failure_of_the_replay() -> None:
    rules = worker_job(OBJECTS, "image", 1, 6)["spec"]["podFailurePolicy"]["rules"]
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert disrupted in rules


def test_a_private_registry_is_logged_in_to_with_the_secrets_that_are_named() -> None:
    pod = worker_job(OBJECTS, "image", 1, 6, ("registry", "mirror"))["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
    # (None at all, so that Kubernetes puts in those of the ServiceAccount.)
    assert "imagePullSecrets" not in worker_job(OBJECTS, "image", 1, 6)["spec"]["template"]["spec"]


def test_everything_goes_with_its_owner_and_the_plan_can_not_change() -> None:
    plan = plan_config_map(OBJECTS, "{}")
    assert plan["immutable"] is True
    for body in (plan, credentials_secret(OBJECTS, {"user.key": "x"}), worker_job(OBJECTS, "image", 1, 6)):
        assert body["metadata"]["ownerReferences"] == [dict(OBJECTS.owner)]
        assert body["metadata"]["name"] == "february-0a1b2c3d"
        assert body["metadata"]["labels"]["sluice.dev/replayjob"] == "february"


@pytest.mark.parametrize("name", ["a" * 253, "a" * 51 + ".b"])
def test_long_names_are_cut_to_what_kubernetes_takes(name: str) -> None:
    objects = ReplayObjects(name, "ns", "0a1b2c3d-0000", "kafka", {})
    assert len(objects.job) <= 61
    assert ".-" not in objects.job
    assert all(len(value) <= 63 for value in objects.labels.values())
