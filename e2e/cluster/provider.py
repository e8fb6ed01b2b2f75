"""What every provider of a local Kubernetes can do, and which one is taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from e2e.cluster.current import Current
from e2e.cluster.embedded.cluster import Embedded
from e2e.cluster.kind import Kind
from e2e.cluster.state import ClusterError, noted_provider, state_folder
from hack.builders import docker_answers


class Provider(Protocol):
    """A local Kubernetes: the same chart, values and images work with each."""

    name: str
    made_here: bool
    """Whether the whole cluster is made and removed by us; else there are other people's things in it."""

    def programs(self) -> None:
        """Build or find the programs that it needs; ``up`` does so too. The first time takes minutes."""

    def kubectl(self) -> Path:
        """A kubectl that goes with the cluster's version."""

    def up(self, nodes: int | None = None) -> None:
        """Make the cluster, or find it running; its kubeconfig is then at ``kubeconfig_path()``.

        ``nodes``: unless said, one of a new cluster, and of one that runs any number.
        """

    def down(self) -> None:
        """Remove everything that ``up`` and its users made. Nothing to remove is no error."""

    def load(self, archive: Path) -> None:
        """Make the images of an archive (``docker save``, ``buildah push … docker-archive:``) known to every node."""

    def status(self) -> list[str]:
        """What runs, in lines for people; empty: no cluster."""

    @property
    def node_address(self) -> str:
        """Where node ports are reached from this machine."""


_MAKERS: Final[Mapping[str, Callable[[], Provider]]] = {"embedded": Embedded, "kind": Kind, "kubeconfig": Current}
NAMES: Final = tuple(_MAKERS)


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
    if chosen not in _MAKERS:
        raise ClusterError(f"there is no provider of Kubernetes called {chosen!r}: choose one of {', '.join(NAMES)}")
    return _MAKERS[chosen]()
