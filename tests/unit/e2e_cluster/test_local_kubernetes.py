"""The local Kubernetes: what is decided without starting one."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import provider
from e2e.cluster.embedded import binaries, image, volumes
from e2e.cluster.embedded.processes import Processes, kill, wait_gone


def claim(**changes: Any) -> dict[str, Any]:
    """A claim of the default class whose pod has been given to node-2."""
    return {
        "metadata": {
            "name": "data",
            "namespace": "shop",
            "uid": "u-1",
            "annotations": {"volume.kubernetes.io/selected-node": "node-2"},
        },
        "spec": {
            "storageClassName": "standard",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}},
        },
        "status": {"phase": "Pending"},
    } | changes


def test_a_claim_gets_a_volume_on_the_node_of_its_pod() -> None:
    volume = volumes.volume_for(claim(), Path("/volumes/x"))
    assert volume is not None
    [term] = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["node-2"]
    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["capacity"] == {"storage": "10Gi"}


def test_a_claim_waits_for_a_volume_until_its_pod_has_a_node() -> None:
    assert volumes.volume_for(claim(metadata={"name": "data", "namespace": "shop", "uid": "u-1"}), Path("/x")) is None


@pytest.mark.parametrize("phase", ["Bound", "Lost"])
def test_a_claim_that_had_a_volume_gets_no_second_one(phase: str) -> None:
    assert volumes.volume_for(claim(status={"phase": phase}), Path("/x")) is None


def test_claims_of_other_classes_are_left_to_others() -> None:
    other = claim(spec=claim()["spec"] | {"storageClassName": "somebodys"})
    assert volumes.volume_for(other, Path("/x")) is None


@pytest.mark.parametrize(
    ("quantity", "size"), [("16Mi", 2**24), ("1Gi", 2**30), ("1.5G", 1_500_000_000), ("512", 512), ("2k", 2000)]
)
def test_sizes_are_read_as_kubernetes_reads_them(quantity: str, size: int) -> None:
    assert volumes.in_bytes(quantity) == size


def test_a_folder_with_something_else_in_it_is_neither_taken_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(provider.ClusterError, match="set SLUICE_STATE to an empty folder"):
        provider.claim_state()
    with pytest.raises(provider.ClusterError, match="it isn't removed"):
        provider.remove_state()
    assert (tmp_path / "thesis.tex").exists()


def test_a_claimed_folder_is_removed_with_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path / "state"))
    (provider.claim_state() / "kubeconfig").touch()
    provider.claim_state()
    provider.remove_state()
    provider.remove_state()
    assert not (tmp_path / "state").exists()


def test_an_unknown_provider_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CLUSTER", "minikube")
    with pytest.raises(provider.ClusterError, match="embedded, kind, kubeconfig"):
        provider.choose()


def test_processes_are_found_by_their_mark_and_a_reused_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    ours, others = Processes(tmp_path / "ours"), Processes(tmp_path / "others")
    ours.start("sleeper", ["sleep", "60"])
    pid_file = tmp_path / "ours" / "run" / "sleeper"
    try:
        while not (pid_file.exists() and pid_file.read_text().strip()):
            os.sched_yield()
        assert ours.alive() == {"sleeper": True}
        assert others.ours() == []
        [pid] = ours.ours()
        pid_file.write_text("1")  # as if the number had gone to another process
        assert ours.alive() == {"sleeper": False}
        assert ours.ours() == [pid], "found though the pid file is wrong"
    finally:
        kill(ours.ours())
        wait_gone(ours.ours())


def test_an_archive_says_which_images_it_holds(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x")
    image.write_archive(tmp_path / "image.tar", "localhost/a:1", {"a": program}, ["/a"])
    assert image.names(tmp_path / "image.tar") == ["localhost/a:1"]
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(program, "index.json")
    assert image.names(tmp_path / "other.tar") == []


def test_the_version_of_kubernetes_is_the_one_of_its_go_module() -> None:
    module = (binaries.HERE / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes {binaries.kubernetes_version()}" in module
    assert f"k8s.io/client-go => k8s.io/client-go v0.{binaries.kubernetes_version()[3:]}" in module


def test_a_build_that_fails_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path))

    def fill(work: Path) -> None:
        (work / "half").touch()
        raise subprocess.CalledProcessError(1, "go")

    with pytest.raises(subprocess.CalledProcessError):
        binaries._kept("tool-1", ["half", "other"], fill)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
