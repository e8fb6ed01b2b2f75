"""The state folder of the local Kubernetes: where it is, whose it is, and how it goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

_MARK: Final = ".sluice-cluster"


class ClusterError(Exception):
    """The local Kubernetes can't do what was asked; the text says why and what to do."""


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
