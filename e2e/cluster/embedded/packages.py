"""Debian packages that the embedded Kubernetes needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from e2e.cluster.embedded import binaries
from e2e.cluster.progress import say, step
from e2e.cluster.state import ClusterError

CNI_PLUGINS: Final = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_PROGRAMS: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "modprobe": "kmod",
}


def cni_plugins() -> Path:
    """Folder of the CNI plugins. Raises ClusterError if there is none."""
    for folder in CNI_PLUGINS:
        if (folder / "bridge").exists() and (folder / "host-local").exists():
            return folder
    raise ClusterError("the CNI plugins bridge and host-local are missing: install containernetworking-plugins")


def find_system_programs() -> None:
    """Put the folders of ip, iptables and the like on PATH: not every root has them there."""
    path = os.environ.get("PATH", "").split(":")
    os.environ["PATH"] = ":".join([*path, *(folder for folder in ("/usr/sbin", "/sbin") if folder not in path)])


def install() -> None:
    """Install what is missing, and say so before. Raises ClusterError if that fails or can't be done here."""
    if (machine := binaries.unsupported_machine()) is not None:
        raise ClusterError(
            f"the embedded Kubernetes is for Linux on x86-64, and this is {machine}: start Docker, for kind, or use "
            "the Kubernetes of your kubeconfig (SLUICE_CLUSTER=kubeconfig)"
        )
    if os.geteuid() != 0:
        raise ClusterError("the embedded Kubernetes needs root: run as root, or use kind or a kubeconfig instead")
    find_system_programs()
    missing = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not any((folder / "bridge").exists() for folder in CNI_PLUGINS):
        missing.add("containernetworking-plugins")
    if not missing:
        return
    packages = sorted(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"there is no apt-get here: install what these Debian packages have: {' '.join(packages)}")
    say(f"  installing Debian packages: {' '.join(packages)}")
    with step("apt-get install"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            # What was interrupted before is finished first: apt-get refuses until then.
            ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"],
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise ClusterError(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")
