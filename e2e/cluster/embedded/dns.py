"""Names of services and pods: CoreDNS as a process on the first node's address."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster.embedded import binaries, network, pki
from e2e.cluster.embedded.api import Api
from e2e.cluster.embedded.processes import Processes


def start(processes: Processes, authority: pki.Authority, server: str, folder: Path, api: Api) -> None:
    """Start CoreDNS with rights to see services, endpoints and namespaces."""
    folder.mkdir(parents=True, exist_ok=True)
    user = "system:coredns"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    api.create(f"{rbac}/clusterroles", {"metadata": {"name": user}, "rules": rules})
    api.create(
        f"{rbac}/clusterrolebindings",
        {
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        },
    )
    kubeconfig = authority.kubeconfig(folder / "kubeconfig", server, "coredns", user)
    corefile = folder / "Corefile"
    corefile.write_text(
        f""".:53 {{
    bind {network.address(0)}
    errors
    health {network.address(0)}:8081
    ready {network.address(0)}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} local
        ttl 5
    }}
    cache 5
}}
"""
    )
    processes.start("coredns", [str(binaries.coredns()), "-conf", str(corefile)])
