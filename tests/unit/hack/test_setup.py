"""What ``hack/setup.sh`` installs, on a machine that is played by a few programs on PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hack.cache import ROOT


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folder of the machine's programs: a root's Debian, with nothing installed; ``log`` has what was run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "env", "sh"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name in ("apt-get", "dpkg"):
        add(folder, name, f'echo "{name} $*" >> "{tmp_path}/log"')
    add(folder, "id", "echo 0")
    return folder


def add(machine: Path, program: str, script: str) -> None:
    (machine / program).write_text(f"#!/bin/sh\n{script}\n")
    (machine / program).chmod(0o755)


def setup(machine: Path, cluster: str = "") -> list[str]:
    """What was run to install packages."""
    subprocess.run(
        [str(machine / "sh"), str(ROOT / "hack" / "setup.sh"), "packages"],
        env={"PATH": str(machine), "SLUICE_CLUSTER": cluster},
        check=True,
        capture_output=True,
    )
    log = machine.parent / "log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("docker", "cluster", "images", "containers"),
    [
        (False, "", True, True),
        (True, "", False, False),
        (False, "kubeconfig", True, False),
        (True, "kubeconfig", False, False),
        (True, "embedded", False, True),
        (True, "kind", False, False),
    ],
)
def test_packages_follow_the_kubernetes_that_is_taken_and_who_builds_images(
    docker: bool, cluster: str, images: bool, containers: bool, machine: Path
) -> None:
    add(machine, "docker", "exit 0" if docker else "exit 1")
    *_, installed = setup(machine, cluster)
    packages = installed.split()
    assert {"openjdk-17-jre-headless", "maven"} <= set(packages)
    assert ("buildah" in packages, "mmdebstrap" in packages) == (images, images)
    assert ("containerd" in packages) is containers


def test_an_interrupted_installation_is_finished_first(machine: Path) -> None:
    add(machine, "docker", "exit 0")
    first, second, third = setup(machine)
    assert first.endswith("--configure -a")
    assert second.startswith("apt-get update")
    assert third.startswith("apt-get install")


def test_nothing_is_done_where_all_is_there(machine: Path) -> None:
    for program in ("docker", "java", "mvn"):
        add(machine, program, "exit 0")
    assert setup(machine) == []
