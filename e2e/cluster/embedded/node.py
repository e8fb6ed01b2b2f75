"""A node: its own containerd and kubelet, with files, socket, network and cgroup of their own."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.embedded import binaries, cgroups, image, network, packages, pki
from e2e.cluster.embedded.processes import Processes
from e2e.cluster.state import ClusterError


@dataclass(frozen=True)
class Node:
    """Node 0, 1 or 2 of the cluster in ``state``."""

    state: Path
    index: int

    @property
    def name(self) -> str:
        """Name of the Node object."""
        return f"node-{self.index + 1}"

    @property
    def folder(self) -> Path:
        """All files of the node."""
        return self.state / self.name

    @property
    def socket(self) -> Path:
        """Socket of its containerd."""
        return self.folder / "containerd.sock"

    def start_containerd(self, processes: Processes) -> None:
        """Start containerd; it is ready a moment later."""
        network.write_cni(self.folder / "cni", self.index)
        config = self.folder / "containerd.toml"
        config.write_text(self._containerd_config())
        processes.start(f"{self.name}-containerd", ["containerd", f"--config={config}"])

    def wait_containerd(self, timeout: float = 30) -> None:
        """Wait until containerd answers. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self._ctr("version").returncode != 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"containerd of {self.name} doesn't answer after {timeout:g} s")
            time.sleep(0.1)

    def load(self, archive: Path) -> None:
        """Import the images of an archive, unless it was the last that was imported under their names.

        Raises ClusterError with ctr's words.
        """
        record = self.folder / "loaded.json"
        loaded: dict[str, list[object]] = json.loads(record.read_text()) if record.exists() else {}
        archive = archive.resolve()
        stamp = [str(archive), archive.stat().st_size, archive.stat().st_mtime_ns]
        names = image.names(archive)
        if names and all(loaded.get(name) == stamp for name in names):
            return
        done = self._ctr("images", "import", "--no-unpack=false", str(archive))
        if done.returncode != 0:
            raise ClusterError(f"{archive} couldn't be imported into {self.name}: {done.stderr[-2000:]}")
        whole = record.with_suffix(".new")
        whole.write_text(json.dumps(loaded | dict.fromkeys(names, stamp)))
        whole.rename(record)

    def start_kubelet(self, processes: Processes, authority: pki.Authority, server: str) -> None:
        """Start the kubelet, which registers the node."""
        cgroups.make(self.index)
        user = f"system:node:{self.name}"
        kubeconfig = authority.kubeconfig(self.folder / "kubeconfig", server, self.name, user, "system:nodes")
        (self.folder / "resolv.conf").write_text("")  # pods learn nothing of the machine's own name servers
        config = self.folder / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(authority)))
        zone = f"zone-{'abc'[self.index]}"
        processes.start(
            f"{self.name}-kubelet",
            [
                str(binaries.kubernetes() / "kubelet"),
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.folder / 'kubelet'}",
                f"--cert-dir={self.folder / 'kubelet-pki'}",
                f"--hostname-override={self.name}",
                f"--node-ip={network.address(self.index)}",
                f"--node-labels=topology.kubernetes.io/zone={zone},topology.kubernetes.io/region=local",
            ],
        )

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", f"--address={self.socket}", "--namespace=k8s.io", *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def _containerd_config(self) -> str:
        # restrict_oom_score_adj: in a container without CAP_SYS_RESOURCE runc dies without it.
        return f"""version = 2
root = "{self.folder}/containerd"
state = "{self.folder}/containerd-state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"
]
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages.cni_plugins()}"
    conf_dir = "{self.folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""

    def _kubelet_config(self, authority: pki.Authority) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": network.address(self.index),
            "port": 10250,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority.pair.cert)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.name(self.index),
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "clusterDomain": "cluster.local",
            "clusterDNS": [network.address(0)],
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pod-logs"),
            "staticPodPath": "",
            # Images come from archives only: one that is removed to save space couldn't be had again.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "serializeImagePulls": False,
            "registerNode": True,
            "syncFrequency": "10s",
        }
