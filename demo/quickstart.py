"""The quickstart as the demo applies it: with the address of this machine's Kubernetes, by a Kustomize overlay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
QUICKSTART: Final = ROOT / "examples" / "quickstart"
REPLAY: Final = QUICKSTART / "replay" / "february.yaml"
OVERLAY: Final = ROOT / "build" / "demo" / "overlay"
NAMESPACE: Final = "sluice-demo"
CLUSTER: Final = "demo"
SOURCE: Final = "departures"
TARGET: Final = "departures-february"
GROUP: Final = "departure-board"
REPLAY_NAME: Final = "february"
GROUP_NAME: Final = "sluice.dev"
KINDS: Final = "messagingclusters,topics,users.sluice.dev,consumergroups"


def write_overlay(host: str) -> Path:
    """Write the overlay that sets where clients outside Kubernetes reach its nodes; return its folder."""
    cluster = yaml.safe_load((QUICKSTART / "cluster.yaml").read_text())
    listeners = cluster["spec"]["listeners"]
    index = next(n for n, listener in enumerate(listeners) if "advertisedHost" in listener)
    patch = [{"op": "replace", "path": f"/spec/listeners/{index}/advertisedHost", "value": host}]
    OVERLAY.mkdir(parents=True, exist_ok=True)
    up = "../" * len(OVERLAY.relative_to(ROOT).parts)
    (OVERLAY / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [f"{up}{QUICKSTART.relative_to(ROOT)}"],
                "patches": [
                    {"target": {"kind": "MessagingCluster", "name": CLUSTER}, "patch": json.dumps(patch)},
                ],
            },
            sort_keys=False,
        )
    )
    return OVERLAY


def names() -> list[tuple[str, str]]:
    """Kind (for kubectl) and name of every object of Sluice in the quickstart, the cluster first."""
    found = [
        (f"{body['kind'].lower()}.{GROUP_NAME}", body["metadata"]["name"])
        for path in sorted(QUICKSTART.glob("*.yaml"))
        for body in yaml.safe_load_all(path.read_text())
        if body["apiVersion"].startswith(f"{GROUP_NAME}/")
    ]
    return sorted(found, key=lambda entry: not entry[0].startswith("messagingcluster"))
