"""Removal of everything that an embedded cluster made, in whatever state it was left."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
from pathlib import Path

from e2e.cluster.embedded import cgroups, network
from e2e.cluster.embedded.processes import Processes, kill, wait_gone
from e2e.cluster.state import ClusterError, remove_state

_DETACH = 2  # MNT_DETACH of umount(2)


def exist(state: Path) -> bool:
    """Whether anything is left of a cluster."""
    return (state / "logs").exists() or network.ours(state) or bool(cgroups.processes())


def remove(state: Path) -> None:
    """End all processes and pods, then take away mounts, network, cgroups and the state folder."""
    processes = Processes(state)
    # Who would start others goes first: kubelets, containerd and its shims; then the pods; then what came in between.
    for _ in range(3):
        ours = sorted({*processes.ours(), *cgroups.processes()})
        if not ours:
            break
        kill(ours)
        wait_gone(ours)
    _remove_images(state)
    _unmount_below(state)
    cgroups.remove()
    network.remove(state)
    _remove_traces_elsewhere(state)
    if state.exists():
        left = _mounts_below(state)
        if left:
            raise ClusterError(f"{state} isn't removed, as something is still mounted in it: {', '.join(left)}")
        remove_state()


def _remove_images(state: Path) -> None:
    """Remove what images were unpacked to: the end of a container's mount would write it all to the disk first."""
    for part in ("snapshotter.v1.overlayfs", "content.v1.content"):
        for folder in state.glob(f"node-*/containerd/io.containerd.{part}"):
            shutil.rmtree(folder)


def _mounts_below(state: Path) -> list[str]:
    return mounts_below(state, Path("/proc/self/mountinfo").read_text())


def mounts_below(state: Path, mountinfo: str) -> list[str]:
    """Mount points in the state folder, the deepest first, from the kernel's list."""
    found = []
    for line in mountinfo.splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), line.split()[4])
        if point.startswith(f"{state}/"):
            found.append(point)
    return sorted(found, reverse=True)


def _unmount_below(state: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for point in _mounts_below(state):
        if libc.umount2(os.fsencode(point), _DETACH) != 0:
            problem = ctypes.get_errno()
            if Path(point).is_mount():
                raise ClusterError(f"{point} can't be unmounted: {os.strerror(problem)}")


def _remove_traces_elsewhere(state: Path) -> None:
    """The two places outside of its folders that a kubelet writes to, whatever it is told."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{state}/"):
            link.unlink()
    plugins = Path("/var/lib/kubelet/device-plugins")
    if not _answers(plugins / "kubelet.sock"):  # else it is another Kubernetes' kubelet
        for file in ("kubelet.sock", "DEPRECATION"):
            (plugins / file).unlink(missing_ok=True)
    for path in Path("/run/containerd/s").glob("*"):
        if path.is_socket() and not _answers(path):  # of a containerd's shim that is gone
            path.unlink()
    for folder in ("/var/lib/kubelet/device-plugins", "/var/lib/kubelet", "/var/log/containers"):
        if os.path.isdir(folder) and not os.path.ismount(folder) and not os.listdir(folder):
            os.rmdir(folder)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
