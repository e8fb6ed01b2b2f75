"""Volumes for claims: a process that makes a local PersistentVolume for each claim, on the node that its pod goes to.

Two StorageClasses: ``standard`` (default), a folder; and ``limited``, a file system of its own with the claim's size,
which can run full. Both have node affinity, and the kubelet sets ``fsGroup`` on them as on any local volume.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

from e2e.cluster.embedded.api import Api, ApiError, Body
from e2e.cluster.progress import say

PROVISIONER: Final = "sluice.dev/local-volumes"
STANDARD: Final = "standard"
LIMITED: Final = "limited"
_CLAIMS: Final = "/api/v1/persistentvolumeclaims"
_VOLUMES: Final = "/api/v1/persistentvolumes"
_SELECTED: Final = "volume.kubernetes.io/selected-node"
_PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)
}


def make_classes(api: Api) -> None:
    """Make the two StorageClasses."""
    for name in (STANDARD, LIMITED):
        default = {"storageclass.kubernetes.io/is-default-class": str(name == STANDARD).lower()}
        api.create(
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "metadata": {"name": name, "annotations": default},
                "provisioner": PROVISIONER,
                "volumeBindingMode": "WaitForFirstConsumer",
                "reclaimPolicy": "Delete",
            },
        )


def in_bytes(quantity: str) -> int:
    """A Kubernetes quantity such as ``10Gi`` as a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]|[KMGT]i|)", quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no size such as 10Gi")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def volume_for(claim: Body, path: Path) -> Body | None:
    """The PersistentVolume for a claim that waits for one and whose node is known, else None."""
    metadata, spec = claim["metadata"], claim["spec"]
    node = metadata.get("annotations", {}).get(_SELECTED)
    waits = claim.get("status", {}).get("phase") == "Pending" and not metadata.get("deletionTimestamp")
    if spec.get("storageClassName") not in (STANDARD, LIMITED) or not node or not waits or spec.get("volumeName"):
        return None
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"pvc-{metadata['uid']}", "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "storageClassName": spec["storageClassName"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


class Provisioner:
    """Makes volumes for claims and removes those that were released; folders are in ``folder``."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._changed = threading.Event()

    def run(self) -> None:
        """Serve claims until the process ends."""
        for path in (_CLAIMS, _VOLUMES):
            threading.Thread(target=self._watch, args=(path,), daemon=True).start()
        while True:
            # What failed once (a busy mount, an API server that is away) is tried again without an event too.
            self._changed.wait(timeout=10)
            self._changed.clear()
            try:
                self.serve()
            except (OSError, ApiError, subprocess.CalledProcessError) as error:
                say(f"will be tried again: {error}")

    def serve(self) -> None:
        """Bring volumes in line with claims, once."""
        for claim in self._api.get(_CLAIMS)["items"]:
            path = self._folder / f"pvc-{claim['metadata']['uid']}"
            volume = volume_for(claim, path)
            if volume is not None:
                self._make(path, claim)
                self._api.create(_VOLUMES, volume)
                say(f"{path.name} for {claim['metadata']['namespace']}/{claim['metadata']['name']}")
        for volume in self._api.get(_VOLUMES)["items"]:
            self._remove_if_released(volume)

    def _make(self, path: Path, claim: Body) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if claim["spec"]["storageClassName"] == LIMITED and not path.is_mount():
            disk = path.with_suffix(".img")
            with disk.open("wb") as file:
                file.truncate(in_bytes(claim["spec"]["resources"]["requests"]["storage"]))
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(disk)], check=True, stdin=subprocess.DEVNULL)
            subprocess.run(["mount", "-o", "loop", str(disk), str(path)], check=True)
            shutil.rmtree(path / "lost+found")
        path.chmod(0o777)  # as other local provisioners do: pods without fsGroup can write too

    def _remove_if_released(self, volume: Body) -> None:
        metadata, spec = volume["metadata"], volume["spec"]
        if metadata.get("annotations", {}).get(_PROVISIONED_BY) != PROVISIONER:
            return
        released = volume.get("status", {}).get("phase") == "Released"
        if not released or spec["persistentVolumeReclaimPolicy"] != "Delete":
            return
        path = self._folder / str(metadata["name"])
        if path.is_mount():
            subprocess.run(["umount", str(path)], check=True)
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".img").unlink(missing_ok=True)
        self._api.delete(f"{_VOLUMES}/{metadata['name']}")
        say(f"{metadata['name']} removed")

    def _watch(self, path: str) -> None:
        while True:
            try:
                seen: Any = self._api.get(f"{path}?limit=1")["metadata"]["resourceVersion"]
                self._changed.set()
                for _ in self._api.watch(path, seen):
                    self._changed.set()
            except (OSError, ApiError, ValueError) as error:
                say(f"watch of {path}: {error}")
                time.sleep(1)


def main() -> None:
    """Run the provisioner: ``python -m e2e.cluster.embedded.volumes KUBECONFIG FOLDER``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    Provisioner(Api(options.kubeconfig), options.folder).run()


if __name__ == "__main__":
    main()
