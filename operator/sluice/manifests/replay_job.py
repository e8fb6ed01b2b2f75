"""What a running replay consists of in Kubernetes: plan, credentials, and the Job whose pods move the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.manifests import labels
from sluice.manifests.metadata import Body, metadata, secret

PLAN_FILE: Final = "plan.json"
_PLAN_FOLDER: Final = "/plan"
_CREDENTIALS_FOLDER: Final = "/credentials"
_FINAL_EXIT_CODES: Final = (2, 11, 12, 13)
"""Worker exit codes that another try wouldn't change (``sluice.replay.errors.ExitCode``)."""
_FAULTLESS_EXIT_CODES: Final = (10, 15)
"""Another worker took over, or somebody asked it to stop: no try is used up."""
_LONGEST_NAME: Final = 52


@dataclass(frozen=True)
class ReplayObjects:
    """Names and owner of a replay's objects. The UID is in the names: a job made again never meets the old one's."""

    name: str
    namespace: str
    uid: str
    cluster: str
    owner: Mapping[str, Any]

    @property
    def job(self) -> str:
        """Name of the Kubernetes Job, its ConfigMap and its Secret."""
        return f"{self.name[:_LONGEST_NAME].rstrip('.-')}-{self.uid.replace('-', '')[:8]}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all objects of a replay."""
        found = {labels.NAME: "sluice-replay", labels.MANAGED_BY: "sluice"}
        # A label's value is shorter than an object's name may be; the owner reference always says whose it is.
        return found | ({labels.REPLAY_JOB: self.name} if len(self.name) <= 63 else {labels.REPLAY_JOB: self.job})

    def meta(self) -> Body:
        """Metadata of each of the objects."""
        return metadata(self.job, self.namespace, self.labels, owner=self.owner)


def plan_config_map(objects: ReplayObjects, plan: str) -> Body:
    """The frozen plan; nobody can change it under a running worker."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": objects.meta(),
        "immutable": True,
        "data": {PLAN_FILE: plan},
    }


def credentials_secret(objects: ReplayObjects, data: Mapping[str, str]) -> Body:
    """Credentials of this replay alone; renewed in place while it runs."""
    return secret(objects.meta(), data)


def worker_job(
    objects: ReplayObjects, image: str, shards: int, backoff_limit: int, pull_secrets: Sequence[str] = ()
) -> Body:
    """The Kubernetes Job: one pod a shard. Pods have no right in Kubernetes, and can write nowhere.

    ``pull_secrets`` are names of Secrets in the job's namespace; without any, its ServiceAccount's count.
    """
    command = ["sluice", "replay-worker", "--plan", f"{_PLAN_FOLDER}/{PLAN_FILE}", "--credentials", _CREDENTIALS_FOLDER]
    pod = _pod(objects, image, command)
    if pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
    spec: Body = {
        "parallelism": shards,
        "completions": shards,
        "completionMode": "Indexed",
        "backoffLimit": backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(_FINAL_EXIT_CODES)}},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": list(_FAULTLESS_EXIT_CODES)}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"metadata": {"labels": objects.labels}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": objects.meta(), "spec": spec}


def _pod(objects: ReplayObjects, image: str, command: list[str]) -> Body:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1001,
            "runAsGroup": 1001,
            "fsGroup": 1001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "worker",
                "image": image,
                "command": command,
                "terminationMessagePolicy": "File",
                "resources": {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"memory": "320Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "plan", "mountPath": _PLAN_FOLDER, "readOnly": True},
                    {"name": "credentials", "mountPath": _CREDENTIALS_FOLDER, "readOnly": True},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
                ],
            }
        ],
        "volumes": [
            {"name": "plan", "configMap": {"name": objects.job}},
            {"name": "credentials", "secret": {"secretName": objects.job, "defaultMode": 0o440}},
            # Python's ssl reads a key only from a file; in memory, it never reaches a disk.
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }
