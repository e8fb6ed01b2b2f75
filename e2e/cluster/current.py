"""The Kubernetes that the current kubeconfig points to: it is used, never made or removed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from e2e.cluster.provider import ClusterError, claim_state, kubeconfig_path, remove_state


class Current:
    """The current context, frozen into a kubeconfig of our own when it is taken."""

    name = "kubeconfig"

    def up(self, nodes: int = 1) -> None:
        """Keep the current context, and see that it answers with at least so many nodes."""
        claim_state()
        taken = _kubectl("config", "view", "--raw", "--minify", "--flatten")
        kubeconfig_path().touch(mode=0o600)
        kubeconfig_path().write_text(taken)
        if len(self._nodes()) < nodes:
            raise ClusterError(f"the cluster of the current kubeconfig has fewer than {nodes} nodes")

    def down(self) -> None:
        """Forget the cluster; it isn't touched."""
        remove_state()

    def load(self, archive: Path) -> None:
        """Run ``$SLUICE_LOAD_COMMAND`` with the archive as last argument."""
        command = os.environ.get("SLUICE_LOAD_COMMAND")
        if not command:
            raise ClusterError(
                f"how do images get to the nodes of your cluster? Set SLUICE_LOAD_COMMAND to a command that takes an "
                f"image archive such as {archive} as its last argument, for example 'minikube image load'"
            )
        done = subprocess.run([*shlex.split(command), str(archive)], stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise ClusterError(f"`{command} {archive}` ended with {done.returncode}")

    def status(self) -> list[str]:
        """The nodes."""
        if not kubeconfig_path().exists():
            return []
        return [f"node {node['metadata']['name']}" for node in self._nodes()]

    @property
    def node_address(self) -> str:
        """The first node's external address, else its internal one."""
        addresses = {entry["type"]: entry["address"] for entry in self._nodes()[0]["status"]["addresses"]}
        return str(addresses.get("ExternalIP") or addresses["InternalIP"])

    def _nodes(self) -> list[dict[str, dict[str, list[dict[str, str]]]]]:
        found: list[dict[str, dict[str, list[dict[str, str]]]]] = json.loads(
            _kubectl("get", "nodes", "-o", "json", f"--kubeconfig={kubeconfig_path()}")
        )["items"]
        return found


def _kubectl(*arguments: str) -> str:
    if shutil.which("kubectl") is None:
        raise ClusterError("kubectl isn't on PATH: it is needed to use the cluster of your kubeconfig")
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise ClusterError(f"`kubectl {' '.join(arguments)}` failed:\n{done.stderr[-2000:]}")
    return done.stdout
