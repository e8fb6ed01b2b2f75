"""The operator is installed in the same way wherever Kubernetes comes from: same chart, same values, same images."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import current, kind
from e2e.cluster.embedded import binaries
from e2e.cluster.embedded.cluster import Embedded
from e2e.cluster.embedded.node import Node
from e2e.cluster.provider import NAMES, choose
from e2e.support import environment
from e2e.support.kubectl import Kubectl

ARCHIVE = "build/images/operator-1.tar"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images that are built, programs that are there, and a Kubernetes that answers; the list of images."""
    images = tmp_path / "images.json"
    images.write_text(json.dumps([{"name": "localhost/sluice/operator:1", "archive": ARCHIVE, "inputs": "f00"}]))
    monkeypatch.setattr(environment, "IMAGES", images)
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLUICE_LOAD_COMMAND", "minikube image load")
    for program in ("helm", "kind", "kubectl", "any_kubectl"):
        monkeypatch.setattr(binaries, program, lambda program=program: Path("/programs", program.removeprefix("any_")))
    for provider in (Embedded, kind.Kind, current.Current):
        monkeypatch.setattr(provider, "node_address", "192.0.2.1")
    return images


def take(provider: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CLUSTER", provider)
    monkeypatch.setenv("SLUICE_STATE", str(folder / provider))


def installation(provider: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Every command (and its standard input) that prepares a Kubernetes of ``provider``."""
    ran: list[tuple[str, str | None]] = []

    def run(command: list[str], *, stdin: str | None = None, timeout: float = 0) -> str:
        ran.append((" ".join(command), stdin))
        return ""

    def kubectl(self: Kubectl, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        run(self.command(*arguments), stdin=options.get("stdin"))
        return subprocess.CompletedProcess(arguments, 0, "", "")

    take(provider, folder, monkeypatch)
    monkeypatch.setattr(environment, "run", run)
    monkeypatch.setattr(Kubectl, "attempt", kubectl)
    environment.prepare().install({"logLevel": "DEBUG"})
    return ran


def test_only_the_kubeconfig_tells_one_installation_from_another(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        provider: [
            (command.replace(str(tmp_path / provider), "STATE"), stdin)
            for command, stdin in installation(provider, tmp_path, monkeypatch)
            # Looking whether somebody else's Sluice is there, which only a shared cluster can have.
            if " get crd " not in command
        ]
        for provider in NAMES
    }
    assert found["embedded"] == found["kind"] == found["kubeconfig"]
    [helm, _] = [(command, stdin) for command, stdin in found["kind"] if " upgrade --install " in command]
    assert str(environment.CHART) in helm[0]
    assert "sluice.dev/image-inputs: f00" in str(helm[1])


@pytest.mark.parametrize(
    ("provider", "command"),
    [
        ("kind", "/programs/kind load image-archive {archive} --name=sluice"),
        ("kubeconfig", "minikube image load {archive}"),
        ("embedded", "node-1 {archive}"),
    ],
)
def test_the_same_archives_are_loaded_each_in_its_own_way(
    provider: str, command: str, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(" ".join(command))
        return subprocess.CompletedProcess(command, 0, "", "")

    take(provider, tmp_path, monkeypatch)
    archive = tmp_path / "operator.tar"
    archive.touch()
    (tmp_path / provider).mkdir()
    (tmp_path / provider / "ready.json").write_text('{"nodes": 1}')
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Node, "load", lambda self, path: ran.append(f"{self.name} {path}"))
    choose().load(archive)
    assert ran == [command.format(archive=archive)]
