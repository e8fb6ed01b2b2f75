"""What every provider of a local Kubernetes can do, and which one is taken."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Protocol

NAMES: Final = ("embedded", "kind", "kubeconfig")
_MARK: Final = ".sluice-cluster"


class ClusterError(Exception):
    """The local Kubernetes can't do what was asked; the text says why and what to do."""


class Provider(Protocol):
    """A local Kubernetes: the same chart, values and images work with each."""

    name: str

    def up(self, nodes: int = 1) -> None:
        """Make the cluster, or find it running; its kubeconfig is then at ``kubeconfig_path()``."""

    def down(self) -> None:
        """Remove everything that ``up`` and its users made. Nothing to remove is no error."""

    def load(self, archive: Path) -> None:
        """Make the images of an archive (``docker save``, ``buildah push … docker-archive:``) known to every node."""

    def status(self) -> list[str]:
        """What runs, in lines for people; empty: no cluster."""

    @property
    def node_address(self) -> str:
        """Where node ports are reached from this machine."""


def state_folder() -> Path:
    """``$SLUICE_STATE``, or ``/var/lib/sluice``: the whole state of the local cluster is in it."""
    return Path(os.environ.get("SLUICE_STATE") or "/var/lib/sluice").absolute()


def claim_state() -> Path:
    """The state folder, made if it is missing and marked as ours.

    Raises ClusterError if it holds something that isn't ours, as it is removed with all that is in it.
    """
    folder = state_folder()
    if folder.exists() and not holds_state(folder):
        raise ClusterError(
            f"{folder} holds something else than a local Kubernetes: set SLUICE_STATE to an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return folder


def remove_state() -> None:
    """Remove the state folder with everything in it. Raises ClusterError if it isn't ours."""
    folder = state_folder()
    if not folder.exists():
        return
    if not holds_state(folder):
        raise ClusterError(f"{folder} holds something else than a local Kubernetes: it isn't removed")
    shutil.rmtree(folder)


def holds_state(folder: Path) -> bool:
    """Whether a folder is empty or has been claimed."""
    return (folder / _MARK).exists() or not any(folder.iterdir())


def kubeconfig_path() -> Path:
    """The kubeconfig that every provider writes."""
    return state_folder() / "kubeconfig"


def choose(name: str | None = None) -> Provider:
    """The provider asked for; else ``$SLUICE_CLUSTER``; else kind where a Docker daemon answers, else embedded.

    Raises ClusterError if there is no such provider.
    """
    chosen = name or os.environ.get("SLUICE_CLUSTER") or ("kind" if _docker_answers() else "embedded")
    if chosen == "embedded":
        from e2e.cluster.embedded.cluster import Embedded

        return Embedded()
    if chosen == "kind":
        from e2e.cluster.kind import Kind

        return Kind()
    if chosen == "kubeconfig":
        from e2e.cluster.current import Current

        return Current()
    raise ClusterError(f"there is no provider of Kubernetes called {chosen!r}: choose one of {', '.join(NAMES)}")


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20).returncode == 0
    except subprocess.TimeoutExpired:
        return False
