"""What every provider of a local Kubernetes can do, and which one is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Protocol

from hack.builders import docker_answers

NAMES: Final = ("embedded", "kind", "kubeconfig")
_MARK: Final = ".sluice-cluster"


class ClusterError(Exception):
    """The local Kubernetes can't do what was asked; the text says why and what to do."""


class Provider(Protocol):
    """A local Kubernetes: the same chart, values and images work with each."""

    name: str
    made_here: bool
    """Whether the whole cluster is made and removed by us; else there are other people's things in it."""

    def programs(self) -> None:
        """Build or find the programs that it needs; ``up`` does so too. The first time takes minutes."""

    def kubectl(self) -> Path:
        """A kubectl that goes with the cluster's version."""

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
    """The whole state of the local cluster is in it.

    ``$SLUICE_STATE``; else ``/var/lib/sluice`` of root, and ``~/.local/state/sluice`` (``$XDG_STATE_HOME``) of others.
    """
    if chosen := os.environ.get("SLUICE_STATE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/sluice")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute() / "sluice"


def claim_state(provider: str) -> Path:
    """The state folder, made if it is missing and marked as that of a provider.

    Raises ClusterError if it can't be made, or if it holds something that isn't ours: it is removed with all in it.
    """
    folder = state_folder()
    try:
        if folder.exists() and not holds_state(folder):
            raise ClusterError(
                f"{folder} holds something else than a local Kubernetes: set SLUICE_STATE to an empty folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).write_text(f"{provider}\n")
    except OSError as error:
        raise ClusterError(
            f"the local Kubernetes can't keep its state in {folder}: {error}. Set SLUICE_STATE to a folder of yours"
        ) from error
    return folder


def remove_state() -> None:
    """Remove the state folder with everything in it. Raises ClusterError if it isn't ours, or can't be removed."""
    folder = state_folder()
    try:
        if not folder.exists():
            return
        if not holds_state(folder):
            raise ClusterError(f"{folder} holds something else than a local Kubernetes: it isn't removed")
        for entry in folder.iterdir():
            if entry.name == _MARK:
                continue  # goes last: without it, what a killed removal leaves would be taken for somebody else's
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise ClusterError(f"{folder} can't be removed: {error}") from error


def holds_state(folder: Path) -> bool:
    """Whether a folder is empty or has been claimed."""
    return (folder / _MARK).exists() or not any(folder.iterdir())


def noted_provider() -> str:
    """The provider whose state there is; empty if there is none."""
    try:
        return (state_folder() / _MARK).read_text().strip()
    except OSError:
        return ""


def kubeconfig_path() -> Path:
    """The kubeconfig that every provider writes."""
    return state_folder() / "kubeconfig"


def choose(name: str | None = None) -> Provider:
    """The provider asked for; else ``$SLUICE_CLUSTER``; else the one whose cluster there is, also if Docker has come or
    gone since; else kind where a Docker daemon answers; else embedded.

    Raises ClusterError if there is no such provider, or a cluster of another one.
    """
    noted = noted_provider()
    chosen = name or os.environ.get("SLUICE_CLUSTER") or noted or ("kind" if docker_answers() else "embedded")
    if noted not in ("", chosen) and chosen in NAMES:
        raise ClusterError(
            f"{state_folder()} has a cluster of the provider {noted}, not {chosen}: remove it first "
            f"(SLUICE_CLUSTER={noted} make cluster-down), or set SLUICE_STATE to another folder"
        )
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
