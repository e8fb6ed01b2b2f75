"""The Kubernetes that the current kubeconfig points to: it is used, never made or removed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

from e2e.cluster import marks
from e2e.cluster.embedded import binaries
from e2e.cluster.state import ClusterError, claim_state, kubeconfig_path, remove_state, state_folder


class Current:
    """The current context, frozen into a kubeconfig of our own when it is taken."""

    name = "kubeconfig"
    made_here = False

    def programs(self) -> None:
        """kubectl and Helm."""
        binaries.any_kubectl()
        binaries.helm()

    def kubectl(self) -> Path:
        """The one on PATH, if it is recent."""
        return binaries.any_kubectl()

    def up(self, nodes: int | None = None) -> None:
        """Keep the current context, and see that it answers with at least so many nodes."""
        self.programs()
        taken = self._kubectl("config", "view", "--raw", "--minify", "--flatten")
        claim_state(self.name)
        kubeconfig_path().touch(mode=0o600)
        kubeconfig_path().write_text(taken)
        if len(self._nodes()) < (nodes or 1):
            raise ClusterError(f"the cluster of the current kubeconfig has fewer than {nodes} nodes")

    def down(self) -> None:
        """Remove what was put into the cluster, and forget it; all else in it isn't touched."""
        if kubeconfig_path().exists():
            try:
                self._nodes()
            except ClusterError as error:
                raise ClusterError(f"{error}\nIf that cluster is gone for good: rm -r {state_folder()}") from error
            marks.remove(self._inside, binaries.helm(), kubeconfig_path())
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
            self._inside("get", "nodes", "-o", "json")
        )["items"]
        return found

    def _inside(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        """kubectl in the cluster that was taken, whichever is the current one by now."""
        return self._kubectl(f"--kubeconfig={kubeconfig_path()}", *arguments, stdin=stdin, timeout=timeout)

    def _kubectl(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        command = [str(self.kubectl()), *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` doesn't end within {timeout:.0f} s") from error
        if done.returncode != 0:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed:\n{done.stderr[-2000:]}")
        return done.stdout
