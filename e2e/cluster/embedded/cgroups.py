"""Cgroups of the nodes: one parent a node, under which its kubelet puts every pod (cgroup v1, hybrid and v2)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_PREFIX: Final = "sluice-node-"


def name(node: int) -> str:
    """Name of the parent of a node's pods, as a kubelet's ``cgroupRoot``."""
    return f"/{_PREFIX}{node}"


def make(node: int) -> None:
    """Make the parent in every controller."""
    for hierarchy in _hierarchies():
        controllers = hierarchy / "cgroup.controllers"
        if controllers.exists():
            _delegate(hierarchy)
        folder = hierarchy / name(node).lstrip("/")
        folder.mkdir(exist_ok=True)
        if controllers.exists():
            _delegate(folder)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # in v1 nothing runs in a cpuset before these are filled in
            if (folder / setting).exists() and not (folder / setting).read_text().strip():
                (folder / setting).write_text((hierarchy / setting).read_text())


def processes() -> list[int]:
    """Pids of everything that runs in a pod."""
    return sorted(
        {
            int(pid)
            for parent in _parents()
            for folder, _, files in os.walk(parent)
            if "cgroup.procs" in files
            for pid in _lines(Path(folder) / "cgroup.procs")
        }
    )


def remove(timeout: float = 5) -> None:
    """Remove the parents and all below. Raises TimeoutError if something still runs in one."""
    deadline = time.monotonic() + timeout
    while True:
        for parent in _parents():
            for folder, _, _ in os.walk(parent, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    continue  # busy for another moment: judged below
        left = _parents()
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"these cgroups stay busy: {', '.join(map(str, left))}")
        time.sleep(0.05)


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [folder for folder in sorted(_ROOT.glob("*")) if (folder / "cgroup.procs").exists()]


def _delegate(folder: Path) -> None:
    """Let the cgroups below use every controller (v2)."""
    for controller in (folder / "cgroup.controllers").read_text().split():
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _parents() -> list[Path]:
    return [folder for hierarchy in _hierarchies() for folder in hierarchy.glob(f"{_PREFIX}[0-9]")]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []  # the cgroup went while we looked
