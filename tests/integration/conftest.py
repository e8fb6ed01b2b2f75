"""Fixtures of the integration tests: a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.embedded import control_plane


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubeconfig of an administrator of a real kube-apiserver (with etcd, without controllers)."""
    with control_plane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running.kubeconfig
