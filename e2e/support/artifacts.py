"""What is kept of a failed scenario: objects, events and logs of every namespace that Sluice acts in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from e2e.support.kubectl import Kubectl, KubectlError

ROOT: Final = Path(__file__).parents[2] / "artifacts"
_KINDS: Final = (
    "pods,statefulsets,jobs,deployments,services,persistentvolumeclaims,configmaps,poddisruptionbudgets,networkpolicies"
)


def collect(kubectl: Kubectl, test: str, namespaces: list[str]) -> Path:
    """Write everything that helps to understand a failure to ``artifacts/<test>/`` and return that folder.

    Secrets are left out. What can't be had is named in the file instead: the cluster may be what has failed.
    """
    folder = ROOT / test.replace("/", "_").replace(":", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in namespaces:
        scope = kubectl.within(namespace)
        _write(folder / f"{namespace}-objects.yaml", scope, "get", _KINDS, "-o", "yaml")
        _write(folder / f"{namespace}-overview.txt", scope, "get", f"{_KINDS},sluice", "-o", "wide")
        _write(folder / f"{namespace}-sluice.yaml", scope, "get", "sluice", "-o", "yaml")
        _write(folder / f"{namespace}-events.txt", scope, "get", "events", "--sort-by=.metadata.creationTimestamp")
        try:
            pods = scope.list("pods")
        except KubectlError:
            continue
        for pod in pods:
            name = pod["metadata"]["name"]
            _write(folder / f"{namespace}-{name}.log", scope, "logs", name, "--all-containers", "--tail=5000")
            if any(s.get("restartCount", 0) for s in pod.get("status", {}).get("containerStatuses", [])):
                _write(folder / f"{namespace}-{name}.previous.log", scope, "logs", name, "--all-containers", "-p")
    return folder


def _write(path: Path, kubectl: Kubectl, *arguments: str) -> None:
    done = kubectl.attempt(*arguments)
    path.write_text(done.stdout + (f"\n# {done.stderr}" if done.stderr else ""))
