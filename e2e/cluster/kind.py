"""Kubernetes in Docker, where a Docker daemon is at hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import yaml

from e2e.cluster.embedded import binaries
from e2e.cluster.progress import step
from e2e.cluster.state import ClusterError, claim_state, kubeconfig_path, remove_state, state_folder

NODE_IMAGE: Final = "kindest/node:v1.35.8@sha256:07b2536e30b803ed61d1677a79df6115f798ce64c80f9e22f6ed45afd09323c0"
"""Of the images that the release of kind in ``embedded/kind/go.mod`` was published with, that of our Kubernetes' minor
version: kind promises to work with these only."""
_NAME: Final = "sluice"
_LABEL: Final = f"io.x-k8s.kind.cluster={_NAME}"


class Kind:
    """A kind cluster called ``sluice``."""

    name = "kind"
    made_here = True

    def programs(self) -> None:
        """kind, kubectl and Helm."""
        binaries.kind()
        binaries.any_kubectl()
        binaries.helm()

    def kubectl(self) -> Path:
        """The one on PATH, if it is recent."""
        return binaries.any_kubectl()

    def up(self, nodes: int | None = None) -> None:
        """Create the cluster unless it is there, whole and with so many nodes."""
        found = self._nodes()
        self.programs()
        workers = nodes if nodes is not None and nodes > 1 else 0
        wanted = 1 + workers
        whole = state_folder() / "whole"  # written last: what a killed run leaves is made anew
        if found and whole.exists() and (nodes is None or len(found) == wanted):
            self._run("export", "kubeconfig", f"--kubeconfig={kubeconfig_path()}")
            return
        if found:
            self.down()
        claim_state(self.name)
        whole.unlink(missing_ok=True)
        roles: list[dict[str, object]] = [{"role": "control-plane"}]
        roles += [
            {"role": "worker", "labels": {"topology.kubernetes.io/zone": f"zone-{zone}"}} for zone in "abc"[:workers]
        ]
        config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": roles}
        with step(f"kind create cluster ({wanted} containers)"):
            self._run(
                "create",
                "cluster",
                f"--image={NODE_IMAGE}",
                f"--kubeconfig={kubeconfig_path()}",
                "--wait=180s",
                "--config=-",
                stdin=yaml.safe_dump(config),
            )
        whole.touch()

    def down(self) -> None:
        """Delete the cluster and the state folder."""
        if self._nodes():
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
        """Containers of the nodes; asked of Docker, so that looking whether there is a cluster builds nothing."""
        return sorted(_run("docker", "ps", "--all", f"--filter=label={_LABEL}", "--format={{.Names}}").split())

    def _run(self, *arguments: str, stdin: str | None = None) -> str:
        return _run(str(binaries.kind()), *arguments, f"--name={_NAME}", stdin=stdin)


def _run(*command: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} isn't on PATH: kind needs Docker; SLUICE_CLUSTER=embedded doesn't") from error
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{done.stderr[-4000:]}")
    return done.stdout
