"""What on a machine belongs to the embedded Kubernetes, and what to somebody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.cluster.embedded import cgroups, leftovers, network, packages
from e2e.cluster.state import ClusterError

MACHINES = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A INPUT -m comment --comment "was KUBE-NODEPORTS, see ticket CNI-12" -j ACCEPT
COMMIT
""".splitlines()
KUBERNETES = """\
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 9094 -j CNI-DN-a1b2
-A FORWARD -g KUBE-FORWARD
""".splitlines()
OURS = [":SLUICE-PODS - [0:0]", "-A FORWARD -j SLUICE-PODS", "-A SLUICE-PODS -s 10.244.0.0/16 -j REJECT"]

Rules = Callable[[list[str]], None]


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Rules:
    """Set what iptables says; there are no bridges."""

    def say(lines: list[str]) -> None:
        monkeypatch.setattr(network, "_rules", lambda family: lines if family == "iptables" else [])

    monkeypatch.setattr(network, "_bridges", list)
    return say


def test_chains_of_kubernetes_and_of_cni_are_told_from_the_machines_own() -> None:
    assert network.of_kubernetes([*MACHINES, *KUBERNETES, *OURS]) == [*KUBERNETES, *OURS]


def test_an_embedded_cluster_starts_beside_docker(tmp_path: Path, rules: Rules) -> None:
    rules(MACHINES)
    network.refuse_others(tmp_path)


def test_it_doesnt_start_beside_another_kubernetes_whose_rules_would_be_lost(tmp_path: Path, rules: Rules) -> None:
    rules([*MACHINES, *KUBERNETES])
    with pytest.raises(ClusterError, match=r"another Kubernetes .*:KUBE-SERVICES.*SLUICE_CLUSTER=kubeconfig"):
        network.refuse_others(tmp_path)


@pytest.mark.parametrize("trace", ["chain", "state", "bridge"])
def test_rules_that_a_killed_run_left_are_its_own(
    trace: str, tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules([*KUBERNETES, *(OURS if trace == "chain" else [])])
    if trace == "state":
        network.note_settings(tmp_path)
    if trace == "bridge":
        monkeypatch.setattr(network, "_bridges", lambda: ["sluice0"])
    assert network.ours(tmp_path)
    network.refuse_others(tmp_path)


def test_a_restart_of_the_machine_undid_rules_and_settings_so_that_those_there_are_somebody_elses(
    tmp_path: Path, rules: Rules
) -> None:
    network.note_settings(tmp_path)
    (tmp_path / "boot").write_text("before the restart")
    rules(KUBERNETES)
    assert not network.ours(tmp_path)


def test_removing_what_never_was_touches_nothing(tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*command: str, stdin: str | None = None) -> None:
        raise AssertionError(command)

    rules([*MACHINES, *KUBERNETES])
    monkeypatch.setattr(network, "_run", touched)
    monkeypatch.setattr(cgroups, "processes", list)
    assert not leftovers.exist(tmp_path)
    network.remove(tmp_path)


def test_all_but_its_own_rules_and_settings_is_as_before(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[tuple[str, ...], str | None]] = []
    state, forward, bridged = tmp_path / "state", tmp_path / "ip_forward", tmp_path / "bridge-nf-call-iptables"
    state.mkdir()
    forward.write_text("0\n")
    monkeypatch.setattr(network, "_FORWARD", forward)
    monkeypatch.setattr(network, "_BRIDGE_RULES", bridged)
    network.note_settings(state)
    forward.write_text("1\n")
    bridged.write_text("1\n")
    network.note_settings(state)  # a second run finds what the first one set
    rules([*MACHINES[:-1], *KUBERNETES, *OURS, MACHINES[-1]])
    monkeypatch.setattr(network, "_run", lambda *command, stdin=None: ran.append((command, stdin)))
    network.remove(state)
    assert ran == [(("iptables-restore",), "\n".join(MACHINES) + "\n")]
    assert (forward.read_text(), bridged.read_text()) == ("0\n", "0")


def test_where_iptables_isnt_installed_there_is_nothing_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert network._rules("iptables") == []


def test_the_folders_of_system_programs_are_put_on_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/sbin")
    packages.find_system_programs()
    packages.find_system_programs()
    assert os.environ["PATH"] == "/usr/bin:/sbin:/usr/sbin"


def test_cgroups_of_nodes_are_found_in_every_hierarchy_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    for folder, pids in (("cpu/sluice-node-0/pod-a", "7\n9\n"), ("pids/sluice-node-2", "9\n"), ("cpu/docker/x", "5\n")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "cgroup.procs").write_text(pids)
    for hierarchy in ("cpu", "pids"):
        (tmp_path / hierarchy / "cgroup.procs").touch()
    assert cgroups.processes() == [7, 9]
    assert [str(path.relative_to(tmp_path)) for path in cgroups._parents()] == [
        "cpu/sluice-node-0",
        "pids/sluice-node-2",
    ]


def test_mounts_below_the_state_are_found_the_deepest_first() -> None:
    table = "\n".join(
        f"36 35 0:30 / {point} rw,relatime shared:1 - tmpfs tmpfs rw"
        for point in ("/state/a", "/state/a/b\\040c", "/state-of-others/x", "/other")
    )
    assert leftovers.mounts_below(Path("/state"), table) == ["/state/a/b c", "/state/a"]
