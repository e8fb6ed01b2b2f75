"""The pods' network: one bridge a node, and rules that keep pods from reaching anything outside."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from e2e.cluster.provider import ClusterError

PODS: Final = "10.244.0.0/16"
_BRIDGE: Final = "sluice"
_CHAIN: Final = "SLUICE-PODS"
_SYSCTL: Final = Path("/proc/sys/net")
_FORWARD: Final = _SYSCTL / "ipv4" / "ip_forward"
_BRIDGE_RULES: Final = _SYSCTL / "bridge" / "bridge-nf-call-iptables"


def bridge(node: int) -> str:
    """Name of the bridge of node 0, 1, …"""
    return f"{_BRIDGE}{node}"


def address(node: int) -> str:
    """The node's address, which is its bridge's."""
    return f"10.244.{node}.1"


def make(state: Path, nodes: int) -> None:
    """Bridges with their addresses, forwarding between them, and no way out for pods."""
    for node in range(nodes):
        name = bridge(node)
        if not (Path("/sys/class/net") / name).exists():
            _run("ip", "link", "add", name, "type", "bridge")
        # With a fixed address of its own the bridge doesn't take that of whichever pod comes first.
        _run("ip", "link", "set", name, "address", f"0a:58:0a:f4:{node:02x}:01", "up")
        _run("ip", "address", "replace", f"{address(node)}/24", "dev", name)
    before = state / "ip_forward"
    if not before.exists():
        before.write_text(_FORWARD.read_text())
    _FORWARD.write_text("1")
    if not _BRIDGE_RULES.exists():
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
    if _BRIDGE_RULES.exists():
        _BRIDGE_RULES.write_text("1")
    _keep_pods_inside()


def bridged_traffic_is_seen() -> bool:
    """Whether iptables sees what goes from pod to pod over one bridge: else answers of services need masquerading."""
    return _BRIDGE_RULES.exists()


def write_cni(folder: Path, node: int) -> None:
    """CNI configuration of a node, in ``folder``; addresses in use are noted there too, and so go with the state."""
    folder.mkdir(parents=True, exist_ok=True)
    ipam = {
        "type": "host-local",
        "dataDir": str(folder.parent / "addresses"),
        "ranges": [[{"subnet": f"10.244.{node}.0/24", "gateway": address(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins: list[dict[str, Any]] = [
        {
            "type": "bridge",
            "bridge": bridge(node),
            "isGateway": True,
            "hairpinMode": True,
            "ipMasq": False,
            "ipam": ipam,
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    (folder / "10-pods.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": f"pods-{node}", "plugins": plugins})
    )


def remove(state: Path) -> None:
    """Remove bridges with what is plugged into them, and every rule made by us, kube-proxy, kubelets or CNI."""
    for device in sorted(Path("/sys/class/net").glob(f"{_BRIDGE}[0-9]")):
        _run("ip", "link", "delete", device.name)
    _remove_rules("iptables")
    _remove_rules("ip6tables")
    before = state / "ip_forward"
    if before.exists() and before.read_text().strip() == "0":
        _FORWARD.write_text("0")


def _keep_pods_inside() -> None:
    """Refuse what goes from pods to anywhere but pods (services have become pods by then)."""
    if subprocess.run(["iptables", "-n", "-L", _CHAIN], capture_output=True, check=False).returncode != 0:
        _run("iptables", "-N", _CHAIN)
    _run("iptables", "-F", _CHAIN)
    _run("iptables", "-A", _CHAIN, "-s", PODS, "!", "-d", PODS, "-m", "conntrack", "--ctstate", "NEW", "-j", "REJECT")
    jump = ["FORWARD", "-j", _CHAIN]
    if subprocess.run(["iptables", "-C", *jump], capture_output=True, check=False).returncode != 0:
        _run("iptables", "-I", *jump)


def _remove_rules(iptables: str) -> None:
    """Take our lines out of each table's dump and restore the rest, table by table in one go."""
    dumped = subprocess.run([f"{iptables}-save"], capture_output=True, text=True, check=False)
    if dumped.returncode != 0:
        return  # a kernel without this family has no rules of it
    lines = dumped.stdout.splitlines()
    kept = [line for line in lines if not any(mark in line for mark in ("KUBE-", "CNI-", _CHAIN))]
    if kept != lines:
        done = subprocess.run(
            [f"{iptables}-restore"], input="\n".join(kept) + "\n", capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ClusterError(f"rules of kube-proxy couldn't be removed by {iptables}-restore: {done.stderr}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
