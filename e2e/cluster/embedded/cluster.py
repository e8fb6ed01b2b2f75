"""The embedded Kubernetes as a provider: one node or three on this machine."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from e2e.cluster.embedded import binaries, control_plane, dns, image, leftovers, network, packages, pki, volumes
from e2e.cluster.embedded.api import Api, ApiError
from e2e.cluster.embedded.node import Node
from e2e.cluster.embedded.processes import Processes
from e2e.cluster.progress import say, step
from e2e.cluster.state import ClusterError, claim_state, kubeconfig_path, remove_state, state_folder
from hack.cache import ROOT

_PORT: Final = 6443
_ZONES: Final = 3


class Embedded:
    """etcd, control plane, kube-proxy and CoreDNS as processes; containerd and a kubelet for each node."""

    name = "embedded"
    made_here = True

    def __init__(self) -> None:
        self._state = state = state_folder()
        self._processes = Processes(state)
        self._ready = state / "ready.json"  # written last: what has it came up whole
        self._kubeconfig = kubeconfig_path()

    def programs(self) -> None:
        """Kubernetes, CoreDNS, etcd and Helm."""
        binaries.everything()

    def kubectl(self) -> Path:
        """The one of the same build."""
        return binaries.kubectl()

    def up(self, nodes: int | None = None) -> None:
        """Start the cluster unless it runs with so many nodes. One that is broken or half made is made anew."""
        if self._runs(nodes):
            return
        nodes = nodes or 1
        if not 1 <= nodes <= _ZONES:
            raise ClusterError(f"the embedded Kubernetes has 1 to {_ZONES} nodes, not {nodes}")
        packages.install()
        network.refuse_others(self._state)
        self.programs()
        claim_state(self.name)
        if leftovers.exist(self._state):
            with step("removing what is left of an earlier cluster"):
                leftovers.remove(self._state)
        claim_state(self.name)
        try:
            self._start([Node(self._state, index) for index in range(nodes)])
        except TimeoutError as error:
            raise ClusterError(f"{error}\nLogs: {self._processes.logs}") from error
        whole = self._ready.with_suffix(".new")
        whole.write_text(json.dumps({"nodes": nodes}))
        whole.rename(self._ready)

    def down(self) -> None:
        """End and remove everything."""
        packages.find_system_programs()
        if not leftovers.exist(self._state):
            remove_state()  # whoever else has a Kubernetes on this machine isn't disturbed
        elif os.geteuid() != 0:
            raise ClusterError("the embedded Kubernetes was made by root, and is removed by root only")
        else:
            leftovers.remove(self._state)

    def load(self, archive: Path) -> None:
        """Import an image archive into the containerd of each node."""
        if not archive.is_file():
            raise ClusterError(f"there is no image archive {archive}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.load(archive), self._nodes()))

    def status(self) -> list[str]:
        """Each process, and whether it runs."""
        return [f"{name}: {'runs' if runs else 'DEAD'}" for name, runs in self._processes.alive().items()]

    @property
    def node_address(self) -> str:
        """Address of the first node."""
        return network.address(0)

    def _nodes(self) -> list[Node]:
        if not self._ready.exists():
            raise ClusterError("the embedded Kubernetes isn't up: run `python -m e2e.cluster up`")
        return [Node(self._state, index) for index in range(json.loads(self._ready.read_text())["nodes"])]

    def _runs(self, nodes: int | None) -> bool:
        if not self._ready.exists() or (nodes is not None and len(self._nodes()) != nodes):
            return False
        if dead := self._dead():
            say(f"  not running any more: {', '.join(dead)}")
            return False
        try:
            Api(self._kubeconfig).wait_ready(10)
        except TimeoutError as error:
            say(f"  {error}")
            return False
        return True

    def _start(self, nodes: list[Node]) -> None:
        network.make(self._state, len(nodes))
        for node in nodes:
            node.start_containerd(self._processes)
        with step("etcd and API server"):
            plan = control_plane.Plan(self._state, network.address(0), _PORT)
            authority = control_plane.make_certificates(plan)
            admin = authority.kubeconfig(self._kubeconfig, plan.server, "admin", "admin", "system:masters")
            self._processes.start("etcd", control_plane.etcd_command(plan))
            self._processes.start("apiserver", control_plane.apiserver_command(plan))
            self._import_pause(nodes)
            api = Api(admin)
            api.wait_ready(90)
        for node in nodes:
            node.start_kubelet(self._processes, authority, plan.server)
        self._start_controllers(plan, authority)
        dns.start(self._processes, authority, plan.server, self._state / "coredns", api)
        volumes.make_classes(api)
        self._start_volumes(admin)
        with step(f"{len(nodes)} node{'s' * (len(nodes) > 1)}, service accounts and DNS"):
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("nodes to be ready", lambda: _ready_nodes(api) >= len(nodes))
            self._wait("the default service account", lambda: _exists(api, account))
            self._wait("CoreDNS to be ready", _dns_ready)

    def _wait(self, what: str, holds: Callable[[], bool], timeout: float = 120) -> None:
        """Wait until it holds and all processes run. Raises ClusterError as soon as one of them has ended."""
        deadline = time.monotonic() + timeout
        while True:
            held = holds()
            for name in self._dead():
                raise ClusterError(f"{name} has ended:\n{self._processes.tail(name)}\nLogs: {self._processes.logs}")
            if held:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
            time.sleep(0.2)

    def _dead(self) -> list[str]:
        return [name for name, runs in self._processes.alive().items() if not runs]

    def _import_pause(self, nodes: list[Node]) -> None:
        archive = self._state / "pause.tar"
        image.write_archive(archive, image.PAUSE, {"pause": binaries.pause()}, ["/pause"])
        for node in nodes:
            node.wait_containerd()
            node.load(archive)

    def _start_controllers(self, plan: control_plane.Plan, authority: pki.Authority) -> None:
        folder = binaries.kubernetes()
        files = {
            name: authority.kubeconfig(plan.pki / f"{name}.kubeconfig", plan.server, name, f"system:{name}")
            for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy")
        }
        commands: dict[str, list[str]] = {
            "kube-controller-manager": [
                "--leader-elect=false",
                "--secure-port=0",
                "--use-service-account-credentials=true",
                f"--root-ca-file={plan.pki / 'ca.crt'}",
                f"--service-account-private-key-file={plan.pki / 'service-accounts.key'}",
                f"--cluster-signing-cert-file={plan.pki / 'ca.crt'}",
            ],
            "kube-scheduler": ["--leader-elect=false", "--secure-port=0"],
            "kube-proxy": [
                "--proxy-mode=iptables",
                f"--cluster-cidr={network.PODS}",
                f"--hostname-override={Node(self._state, 0).name}",
                "--conntrack-max-per-core=0",
                f"--healthz-bind-address=127.0.0.1:{control_plane.free_port()}",
                f"--metrics-bind-address=127.0.0.1:{control_plane.free_port()}",
                f"--masquerade-all={str(not network.bridged_traffic_is_seen()).lower()}",
            ],
        }
        for name, options in commands.items():
            self._processes.start(name, [str(folder / name), f"--kubeconfig={files[name]}", *options])

    def _start_volumes(self, admin: Path) -> None:
        command = [sys.executable, "-m", volumes.__name__, str(admin), str(self._state / "volumes")]
        self._processes.start("volumes", command, {"PYTHONPATH": str(ROOT)})


def _ready_nodes(api: Api) -> int:
    """How many nodes are ready and let pods in."""

    def ready(node: dict[str, Any]) -> bool:
        conditions = {entry["type"]: entry["status"] for entry in node["status"].get("conditions", [])}
        return conditions.get("Ready") == "True" and not node["spec"].get("taints")

    return sum(1 for node in api.get("/api/v1/nodes")["items"] if ready(node))


def _exists(api: Api, path: str) -> bool:
    try:
        api.get(path)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


def _dns_ready() -> bool:
    connection = http.client.HTTPConnection(network.address(0), 8181, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
