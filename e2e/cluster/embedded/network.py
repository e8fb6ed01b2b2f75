"""The pods' network: one bridge a node, and rules that keep pods from reaching anything outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from e2e.cluster.state import ClusterError

PODS: Final = "10.244.0.0/16"
_BRIDGE: Final = "sluice"
_CHAIN: Final = "SLUICE-PODS"
_FAMILIES: Final = ("iptables", "ip6tables")
_SYSCTL: Final = Path("/proc/sys/net")
_FORWARD: Final = _SYSCTL / "ipv4" / "ip_forward"
_BRIDGE_RULES: Final = _SYSCTL / "bridge" / "bridge-nf-call-iptables"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_KUBERNETES: Final = re.compile(rf"(?:^:|-[AIjg] )(?:KUBE-|CNI-|{_CHAIN}\b)")
"""A chain of kube-proxy, kubelets, CNI plugins or ours, or a rule in one or into one, as iptables-save writes them."""


def bridge(node: int) -> str:
    """Name of the bridge of node 0, 1, …"""
    return f"{_BRIDGE}{node}"


def address(node: int) -> str:
    """The node's address, which is its bridge's."""
    return f"10.244.{node}.1"


def make(state: Path, nodes: int) -> None:
    """Bridges with their addresses, forwarding between them, and no way out for pods."""
    note_settings(state)
    for node in range(nodes):
        name = bridge(node)
        if not (Path("/sys/class/net") / name).exists():
            _run("ip", "link", "add", name, "type", "bridge")
        # With a fixed address of its own the bridge doesn't take that of whichever pod comes first.
        _run("ip", "link", "set", name, "address", f"0a:58:0a:f4:{node:02x}:01", "up")
        _run("ip", "address", "replace", f"{address(node)}/24", "dev", name)
    if not _BRIDGE_RULES.exists() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
    for setting in (_FORWARD, _BRIDGE_RULES):
        if setting.exists():
            setting.write_text("1")
    _keep_pods_inside()


def ours(state: Path) -> bool:
    """Whether ``make`` was begun here and not undone since: then rules of a Kubernetes on this machine are its own."""
    rules = any(_CHAIN in line for family in _FAMILIES for line in _rules(family))
    return rules or bool(_bridges()) or _noted(state)


def refuse_others(state: Path) -> None:
    """Raise ClusterError if another Kubernetes has rules on this machine: both would take the other's for their own."""
    if ours(state):
        return
    for family in _FAMILIES:
        if found := of_kubernetes(_rules(family)):
            raise ClusterError(
                f"{family} has rules of another Kubernetes or CNI plugin, such as {found[0]!r}: the embedded one would "
                "disturb it. Use that Kubernetes (SLUICE_CLUSTER=kubeconfig), or kind with Docker; if it is gone for "
                "good, remove its rules or restart the machine"
            )


def of_kubernetes(rules: Iterable[str]) -> list[str]:
    """Those lines of iptables-save that are about chains of a Kubernetes."""
    return [line for line in rules if _KUBERNETES.search(line)]


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
    """Remove bridges with what is plugged into them, and every rule made by us, kube-proxy, kubelets or CNI.

    Where ``make`` never ran, nothing is touched.
    """
    if not ours(state):
        return
    for device in _bridges():
        _run("ip", "link", "delete", device)
    for family in _FAMILIES:
        _remove_rules(family)
    for setting in (_FORWARD, _BRIDGE_RULES):
        if _noted(state) and setting.exists():
            setting.write_text((state / setting.name).read_text())


def _bridges() -> list[str]:
    return sorted(device.name for device in Path("/sys/class/net").glob(f"{_BRIDGE}[0-9]"))


def note_settings(state: Path) -> None:
    """Keep in the state what the kernel's settings were before, unless it knows; one that isn't there yet is off."""
    if _noted(state):
        return
    for setting in (_FORWARD, _BRIDGE_RULES):
        (state / setting.name).write_text(setting.read_text() if setting.exists() else "0")
    (state / "boot").write_text(_BOOT.read_text())


def _noted(state: Path) -> bool:
    """Whether that was since the machine was started, which would have undone settings and rules alike."""
    boot = state / "boot"
    return boot.exists() and boot.read_text() == _BOOT.read_text()


def _keep_pods_inside() -> None:
    """Refuse what goes from pods to anywhere but pods (services have become pods by then)."""
    if subprocess.run(["iptables", "-n", "-L", _CHAIN], capture_output=True, check=False).returncode != 0:
        _run("iptables", "-N", _CHAIN)
    _run("iptables", "-F", _CHAIN)
    _run("iptables", "-A", _CHAIN, "-s", PODS, "!", "-d", PODS, "-m", "conntrack", "--ctstate", "NEW", "-j", "REJECT")
    jump = ["FORWARD", "-j", _CHAIN]
    if subprocess.run(["iptables", "-C", *jump], capture_output=True, check=False).returncode != 0:
        _run("iptables", "-I", *jump)


def _rules(family: str) -> list[str]:
    """Every chain and rule; none where iptables isn't installed or the kernel doesn't have the family."""
    if shutil.which(f"{family}-save") is None:
        return []
    return subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False).stdout.splitlines()


def _remove_rules(family: str) -> None:
    """Take the lines of a Kubernetes out of each table's dump and restore the rest, table by table in one go."""
    rules = _rules(family)
    gone = set(of_kubernetes(rules))
    if gone:
        kept = "".join(f"{line}\n" for line in rules if line not in gone)
        _run(f"{family}-restore", stdin=kept)


def _run(*command: str, stdin: str | None = None) -> None:
    try:
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} isn't installed, and is needed here: run `make setup`") from error
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
