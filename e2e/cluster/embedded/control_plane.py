"""etcd and kube-apiserver: the whole of what tests of CRDs, RBAC and the engine need, without root, in seconds."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from e2e.cluster.embedded import binaries, pki
from e2e.cluster.embedded.api import Api

SERVICES: Final = "10.96.0.0/16"
FIRST_SERVICE: Final = "10.96.0.1"  # kubernetes.default
_KUBERNETES_NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def free_port() -> int:
    """A free port on loopback, below those that Linux gives to outgoing connections."""
    while True:
        port = random.randint(12000, 19999)  # noqa: S311
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@dataclass(frozen=True)
class Plan:
    """Where etcd and the API server keep their files and listen."""

    folder: Path
    address: str  # of the API server
    port: int
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.address}:{self.port}"

    @property
    def pki(self) -> Path:
        """Folder of certificates and keys."""
        return self.folder / "pki"


def make_certificates(plan: Plan) -> pki.Authority:
    """A new authority, and what the API server needs from it."""
    authority = pki.Authority(plan.pki)
    authority.server("apiserver", [*_KUBERNETES_NAMES, "127.0.0.1", FIRST_SERVICE, plan.address])
    authority.client("apiserver-to-kubelet", "kube-apiserver", "system:masters")
    pki.signing_key(plan.pki)
    return authority


def etcd_command(plan: Plan) -> list[str]:
    """etcd on loopback; it doesn't sync its files, as a crash of the machine ends everything else as well."""
    client, peer = (f"http://127.0.0.1:{port}" for port in (plan.etcd_port, plan.etcd_peer_port))
    return [
        str(binaries.etcd()),
        f"--data-dir={plan.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--auto-compaction-retention=10m",
        "--log-level=warn",
    ]


def apiserver_command(plan: Plan) -> list[str]:
    """kube-apiserver with RBAC."""
    return [
        str(binaries.apiserver()),
        f"--etcd-servers=http://127.0.0.1:{plan.etcd_port}",
        f"--bind-address={plan.address}",
        f"--advertise-address={plan.address}",
        f"--secure-port={plan.port}",
        f"--tls-cert-file={plan.pki / 'apiserver.crt'}",
        f"--tls-private-key-file={plan.pki / 'apiserver.key'}",
        f"--client-ca-file={plan.pki / 'ca.crt'}",
        f"--kubelet-client-certificate={plan.pki / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={plan.pki / 'apiserver-to-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",  # exec and logs: names of nodes resolve nowhere
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={plan.pki / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={plan.pki / 'service-accounts.key'}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
    ]


class ControlPlane:
    """A running etcd and API server."""

    def __init__(self, kubeconfig: Path, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.kubeconfig = kubeconfig  # of an administrator
        self._processes = processes

    def stop(self) -> None:
        """End both; their folder stays, with their logs."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(folder: Path) -> ControlPlane:
    """Start etcd and an API server on free loopback ports, with all their files in ``folder``. Needs no root.

    Both end with the thread that called this, however it ends. Without a controller manager nothing is defaulted or
    cleaned up by controllers: no service accounts, no garbage collection, namespaces stay Terminating.
    Raises RuntimeError with the end of the logs if they don't come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(folder, "127.0.0.1", free_port())
    kubeconfig = make_certificates(plan).kubeconfig(
        folder / "kubeconfig", plan.server, "admin", "admin", "system:masters"
    )
    apiserver = [
        *apiserver_command(plan),
        "--endpoint-reconciler-type=none",  # a loopback address can be no endpoint
        "--disable-admission-plugins=ServiceAccount",  # nobody makes service accounts here
    ]
    processes = []
    for name, command in (("etcd", etcd_command(plan)), ("apiserver", apiserver)):
        with (folder / f"{name}.log").open("ab") as log:
            guarded = ["setpriv", "--pdeathsig", "KILL", *command]
            processes.append(
                subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            )
    running = ControlPlane(kubeconfig, processes)
    try:
        Api(kubeconfig).wait_ready(60)
    except TimeoutError as error:
        running.stop()
        ends = [(folder / f"{name}.log").read_text(errors="replace")[-2000:] for name in ("etcd", "apiserver")]
        raise RuntimeError(f"{error}\n{folder}/etcd.log:\n{ends[0]}\n{folder}/apiserver.log:\n{ends[1]}") from error
    return running
