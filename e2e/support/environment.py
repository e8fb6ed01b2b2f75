"""The local Kubernetes with the operator in it: what the demo and the scenarios start from.

``e2e.cluster`` makes the Kubernetes (embedded, kind, or the one of a kubeconfig), ``hack.images`` the images; the
operator is installed from ``helm/sluice``, as anybody would install it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import marks
from e2e.cluster.embedded import binaries
from e2e.cluster.provider import choose
from e2e.cluster.state import kubeconfig_path
from e2e.support.kubectl import Kubectl, KubectlError, WaitTimeoutError
from hack.cache import locked

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "sluice"
IMAGES: Final = ROOT / "build" / "images" / "images.json"
SYSTEM_NAMESPACE: Final = marks.SYSTEM_NAMESPACE
RELEASE: Final = marks.RELEASE
OPERATOR_LABELS: Final = {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/instance": RELEASE}
METRICS_PORT: Final = 8080
PENDING: Final = f"owner=helm,name={RELEASE},status in (pending-install,pending-upgrade,pending-rollback)"
SCRIPTS: Final = Path(sys.executable).parent
"""Where ``kubectl-sluice`` is."""


class SetupError(Exception):
    """Something that the environment is made by failed; the text has its output."""


def up_command() -> list[str]:
    """Command that makes the local Kubernetes, or finds it running."""
    return [sys.executable, "-m", "e2e.cluster", "up"]


def down_command() -> list[str]:
    """Command that removes the local Kubernetes and everything in it."""
    return [sys.executable, "-m", "e2e.cluster", "down"]


def images_command() -> list[str]:
    """Command that builds the images whose inputs have changed."""
    return [sys.executable, "-m", "hack.images"]


def run(command: list[str], *, stdin: str | None = None, timeout: float = 600) -> str:
    """Run a command and return its output.

    Raises:
        SetupError: it failed; the text has what it said.
    """
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=timeout, check=False, cwd=ROOT)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-4000:]
        raise SetupError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


def load_command() -> list[str]:
    """Command that makes the built images known to the nodes."""
    archives = [str(ROOT / line["archive"]) for line in json.loads(IMAGES.read_text())]
    return [sys.executable, "-m", "e2e.cluster", "load", *archives]


def image_names() -> list[str]:
    """Names of the built images."""
    return [line["name"] for line in json.loads(IMAGES.read_text())]


def connect() -> Environment:
    """The local Kubernetes that runs, with kubectl and helm for it."""
    provider = choose()
    return Environment(
        kubectl=Kubectl(provider.kubectl(), kubeconfig_path()),
        helm=binaries.helm(),
        node_address=provider.node_address,
        shared=not provider.made_here,
    )


def prepare() -> Environment:
    """Everything up to an operator that is ready; what is there already is left as it is.

    Raises:
        SetupError: a part of it failed.
    """
    for command in (up_command(), images_command()):
        run(command, timeout=1800)
    run(load_command())
    found = connect()
    found.install()
    return found


def how_to_see_more() -> list[str]:
    """Commands that show what goes on in the local Kubernetes, for a run that has failed."""
    if not kubeconfig_path().exists():
        return ["There is no local Kubernetes (yet): python -m e2e.cluster up"]
    return [
        "To see more:",
        *(f"  {line}" for line in shell_setup()),
        "  kubectl get sluice,pods --all-namespaces",
        "  kubectl get events --all-namespaces --sort-by=.metadata.creationTimestamp",
        f"  kubectl -n {SYSTEM_NAMESPACE} logs deploy/{RELEASE}",
    ]


def shell_setup() -> list[str]:
    """Lines for a shell after which ``kubectl``, ``kubectl sluice`` and ``helm`` speak to the local Kubernetes."""
    folders = dict.fromkeys(str(path) for path in (choose().kubectl().parent, binaries.helm().parent, SCRIPTS))
    return [f"export KUBECONFIG={kubeconfig_path()}", f"export PATH={':'.join(folders)}:$PATH"]


@dataclass(frozen=True)
class Environment:
    """A Kubernetes; ``node_address`` is where its node ports are reached from this machine."""

    kubectl: Kubectl
    helm: Path
    node_address: str
    shared: bool = False
    """Whether there are other people's things in it: only what has our mark is ours then."""

    def claim(self, namespace: str) -> None:
        """Make a namespace that ``down`` removes, unless it is there already.

        Raises:
            ClusterError: it is there, and somebody else's.
        """
        marks.claim(self.kubectl.run, namespace, shared=self.shared)

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Install or upgrade the operator and wait until it is ready.

        The hash of what its image is made of is put on its pods, so that another image under the same name is taken.

        Raises:
            ClusterError: there is a Sluice that isn't ours.
        """
        built = {line["name"]: line["inputs"] for line in json.loads(IMAGES.read_text())}
        operator = next(inputs for name, inputs in built.items() if "/operator:" in name)
        chosen = {"podAnnotations": {"sluice.dev/image-inputs": operator}, **(values or {})}
        with locked("install"):
            self.claim(SYSTEM_NAMESPACE)
            # Helm refuses for good while a killed helm's work is noted as pending; with the lock held none is at work.
            self.kubectl.within(SYSTEM_NAMESPACE).run("delete", "secrets", f"--selector={PENDING}")
            self._helm(
                "upgrade",
                "--install",
                RELEASE,
                str(CHART),
                "--wait",
                "--timeout=180s",
                "--values=-",
                stdin=yaml.safe_dump(chosen),
            )

    def uninstall(self) -> None:
        """Uninstall the operator and wait until its pods are gone."""
        self._helm("uninstall", RELEASE, "--wait", "--timeout=120s")

    def operators(self) -> list[str]:
        """Names of the operator's pods."""
        pods = self.kubectl.within(SYSTEM_NAMESPACE).list("pods", labels=OPERATOR_LABELS)
        return [pod["metadata"]["name"] for pod in pods]

    def metric(self, name: str, labels: Mapping[str, str]) -> float | None:
        """Sum of a metric's series that have these labels, over the operator's pods; None if there are none."""
        found: list[float] = []
        for pod in self.operators():
            path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{pod}:{METRICS_PORT}/proxy/metrics"
            try:
                text = self.kubectl.raw(path)
            except KubectlError:
                continue  # a pod that is going, or isn't up yet, counts nothing
            for family in text_string_to_metric_families(text):
                found += [
                    sample.value
                    for sample in family.samples
                    if sample.name == name and labels.items() <= sample.labels.items()
                ]
        return sum(found) if found else None

    def wait_for_metric(
        self, name: str, labels: Mapping[str, str], wanted: Callable[[float], bool], *, timeout: float = 90
    ) -> float:
        """Wait until a metric is as wanted and return it.

        Raises:
            WaitTimeoutError: it isn't within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            value = self.metric(name, labels)
            if value is not None and wanted(value):
                return value
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"metric {name}{dict(labels)} after {timeout:.0f} s: {value}")
            time.sleep(1)  # metrics can't be watched

    def _helm(self, *arguments: str, stdin: str | None = None) -> None:
        command = [str(self.helm), f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={SYSTEM_NAMESPACE}"]
        run([*command, *arguments], stdin=stdin, timeout=300)
