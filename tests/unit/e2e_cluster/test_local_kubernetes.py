"""The local Kubernetes: what is decided without starting one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import kind, provider, state
from e2e.cluster.embedded import binaries, image, packages, volumes
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
    with pytest.raises(state.ClusterError, match="set SLUICE_STATE to an empty folder"):
        state.claim_state("embedded")
    with pytest.raises(state.ClusterError, match="it isn't removed"):
        state.remove_state()
    assert (tmp_path / "thesis.tex").exists()


def test_a_claimed_folder_is_removed_with_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path / "state"))
    (state.claim_state("embedded") / "kubeconfig").touch()
    (state.claim_state("embedded") / "node-1").mkdir()
    state.remove_state()
    state.remove_state()
    assert not (tmp_path / "state").exists()


def test_a_removal_that_was_killed_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path / "state"))
    (state.claim_state("embedded") / "volumes").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            state.remove_state()
    state.claim_state("embedded")
    state.remove_state()
    assert not (tmp_path / "state").exists()


def test_the_state_is_kept_where_the_user_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state.state_folder() == Path("/var/lib/sluice")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state.state_folder() == Path("/home/ann/.local/state/sluice")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ann/state")
    assert state.state_folder() == Path("/home/ann/state/sluice")


def test_a_state_folder_that_cant_be_made_is_an_error_that_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(state.ClusterError, match=r"Not a directory.*Set SLUICE_STATE"):
        state.claim_state("embedded")


def test_the_cluster_that_there_is_stays_the_chosen_one_though_docker_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("SLUICE_CLUSTER", raising=False)
    monkeypatch.setattr(provider, "docker_answers", lambda: True)
    assert provider.choose().name == "kind"
    state.claim_state("embedded")
    assert provider.choose().name == "embedded"
    with pytest.raises(state.ClusterError, match="SLUICE_CLUSTER=embedded make cluster-down"):
        provider.choose("kind")


def test_an_unknown_provider_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CLUSTER", "minikube")
    with pytest.raises(state.ClusterError, match="embedded, kind, kubeconfig"):
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


def test_the_nodes_of_kind_have_the_same_minor_version() -> None:
    assert kind.NODE_IMAGE.startswith(f"kindest/node:{binaries.kubernetes_version().rpartition('.')[0]}.")


@pytest.mark.parametrize(
    ("version", "recent"), [("v1.35.4", True), ("v1.30.0-gke.1", True), ("v1.29.9", False), ("v1.9.1", False)]
)
def test_a_kubectl_that_is_too_old_is_not_used(version: str, recent: bool) -> None:
    assert binaries.is_recent(f'{{"clientVersion": {{"gitVersion": "{version}"}}}}') is recent
    assert not binaries.is_recent("error: unknown flag: --output")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go1.26.8\n", (1, 26, 8)),
        ("module sluice.dev/e2e/helm\n\ngo 1.25\n", (1, 25, 0)),
        ("go1.27rc1", (1, 27, 0)),
        ("no such option", ()),
    ],
)
def test_an_old_go_is_told_from_a_new_one(said: str, version: tuple[int, ...]) -> None:
    assert binaries.go_version(said) == version


def test_on_another_machine_it_is_said_what_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert binaries.unsupported_machine() in (None, f"{platform.system()} on {platform.machine()}")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(state.ClusterError, match=r"for Linux on x86-64, and this is Linux on aarch64: start Docker"):
        packages.install()


def test_a_build_that_fails_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path))

    def fill(work: Path) -> None:
        (work / "half").touch()
        raise subprocess.CalledProcessError(1, "go")

    with pytest.raises(subprocess.CalledProcessError):
        binaries._kept("tool-1", ["half", "other"], fill)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
