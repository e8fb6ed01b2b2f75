"""Kubernetes in Docker, where a Docker daemon is at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

import yaml

from e2e.cluster.embedded.binaries import kubernetes_version
from e2e.cluster.progress import step
from e2e.cluster.provider import ClusterError, claim_state, kubeconfig_path, remove_state

_NAME: Final = "sluice"


class Kind:
    """A kind cluster called ``sluice``."""

    name = "kind"

    def up(self, nodes: int = 1) -> None:
        """Create the cluster unless it is there with so many nodes."""
        found = self._nodes()
        workers = nodes if nodes > 1 else 0
        wanted = 1 + workers
        claim_state()
        if len(found) not in (0, wanted):
            self.down()
            found = []
        if found:
            self._run("export", "kubeconfig", f"--kubeconfig={kubeconfig_path()}")
            return
        roles: list[dict[str, object]] = [{"role": "control-plane"}]
        roles += [
            {"role": "worker", "labels": {"topology.kubernetes.io/zone": f"zone-{zone}"}} for zone in "abc"[:workers]
        ]
        config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": roles}
        with step(f"kind create cluster ({wanted} containers)"):
            image = f"kindest/node:{kubernetes_version()}"
            self._run(
                "create",
                "cluster",
                f"--image={image}",
                f"--kubeconfig={kubeconfig_path()}",
                "--wait=180s",
                "--config=-",
                stdin=yaml.safe_dump(config),
            )

    def down(self) -> None:
        """Delete the cluster and the state folder."""
        self._run("delete", "cluster", f"--kubeconfig={kubeconfig_path()}")
        remove_state()

    def load(self, archive: Path) -> None:
        """Load the images of an archive into every node."""
        self._run("load", "image-archive", str(archive))

    def status(self) -> list[str]:
        """The node containers."""
        return [f"container {name}" for name in self._nodes()]

    @property
    def node_address(self) -> str:
        """Address of the first node on Docker's network."""
        nodes = self._nodes()
        if not nodes:
            raise ClusterError("there is no kind cluster called sluice: run `python -m e2e.cluster up`")
        [found] = json.loads(_run("docker", "inspect", nodes[0]))
        networks = found["NetworkSettings"]["Networks"].values()
        return next(str(network["IPAddress"]) for network in networks if network["IPAddress"])

    def _nodes(self) -> list[str]:
        said = self._run("get", "nodes")
        return sorted(line for line in said.split() if line.startswith(f"{_NAME}-"))

    def _run(self, *arguments: str, stdin: str | None = None) -> str:
        if shutil.which("kind") is None:
            raise ClusterError("Docker answers, but `kind` isn't on PATH: install it, or set SLUICE_CLUSTER=embedded")
        return _run("kind", *arguments, f"--name={_NAME}", stdin=stdin)


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{done.stderr[-4000:]}")
    return done.stdout
