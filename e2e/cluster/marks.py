"""What the demo and the scenarios put into a Kubernetes carries a mark: there may be other people's things beside it.

Where the whole Kubernetes is removed, nobody asks for the mark. In that of a kubeconfig, only what has it is removed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from e2e.cluster.state import ClusterError

SYSTEM_NAMESPACE: Final = "sluice-system"
RELEASE: Final = "sluice"
LABEL: Final = "sluice.dev/made-by"
MAKER: Final = "demo"
_OURS: Final = (f"{LABEL}={MAKER}", "sluice-e2e=true")
"""Labels of the namespaces that are ours, the scenarios' own included."""
_GROUP: Final = ".sluice.dev"

Kubectl = Callable[..., str]
"""Runs kubectl with arguments (and ``stdin``), returns its output, raises if it fails."""


def claim(kubectl: Kubectl, namespace: str, *, shared: bool) -> None:
    """Make a namespace with our mark, unless it is there.

    Raises ClusterError if it is there without the mark and the Kubernetes is ``shared`` with others; and if it is the
    operator's namespace and Sluice is installed elsewhere: two operators would look after the same objects.
    """
    found = kubectl("get", "namespace", namespace, "-o", "json", "--ignore-not-found")
    if found.strip():
        if shared and not is_marked(json.loads(found)):
            raise ClusterError(
                f"the namespace {namespace} exists in this Kubernetes and wasn't made by the demo: nothing in it is "
                "touched. Remove it if nobody needs it, or point the kubeconfig at another Kubernetes"
            )
        return
    if shared and namespace == SYSTEM_NAMESPACE and (crds := _crds(kubectl)):
        raise ClusterError(
            f"this Kubernetes has a Sluice already (such as the CRD {crds[0]}) that wasn't made by the demo: a second "
            "operator would disturb it. Point the kubeconfig at another Kubernetes, or remove Sluice and its CRDs"
        )
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {LABEL: MAKER}}}
    kubectl("create", "-f", "-", stdin=json.dumps(body))


def is_marked(body: dict[str, Any]) -> bool:
    """Whether an object has our mark."""
    return bool(body["metadata"].get("labels", {}).get(LABEL) == MAKER)


def remove(kubectl: Kubectl, helm: Path, kubeconfig: Path) -> None:
    """Remove what is marked: namespaces, the operator's release, and the CRDs that came with it.

    The operator goes after all that it has to clean up, and its namespace last: a removal that was killed can be begun
    again. Raises ClusterError, and leaves the operator, if there are objects of Sluice that somebody else made.
    """
    ours = {name for label in _OURS for name in _names(kubectl("get", "namespaces", "-l", label, "-o", "name"))}
    if guests := sorted(ours - {SYSTEM_NAMESPACE}):
        kubectl("delete", "namespace", *guests, "--ignore-not-found", "--timeout=180s", timeout=200)
    if SYSTEM_NAMESPACE not in ours:
        return
    crds = _crds(kubectl)
    if crds and (left := kubectl("get", ",".join(crds), "--all-namespaces", "-o", "name").split()):
        raise ClusterError(
            f"the operator that the demo installed looks after objects that aren't the demo's: {', '.join(left[:5])}. "
            "It and the CRDs stay; delete these objects first, then try again"
        )
    _uninstall(helm, kubeconfig)
    if crds:
        kubectl("delete", "crd", *crds, "--ignore-not-found", "--timeout=60s", timeout=80)
    kubectl("delete", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--timeout=120s", timeout=140)


def _uninstall(helm: Path, kubeconfig: Path) -> None:
    command = [str(helm), f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM_NAMESPACE}", "uninstall", RELEASE]
    command += ["--ignore-not-found", "--wait", "--timeout=120s"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")


def _crds(kubectl: Kubectl) -> list[str]:
    return sorted(name for name in _names(kubectl("get", "crd", "-o", "name")) if name.endswith(_GROUP))


def _names(said: str) -> list[str]:
    """Names out of lines such as ``namespace/default``."""
    return [line.partition("/")[2] for line in said.split()]
