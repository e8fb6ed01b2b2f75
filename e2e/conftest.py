"""Fixtures of the end-to-end scenarios: a real local Kubernetes, the operator from its Helm chart, real Kafka.

``make e2e`` runs all of them, ``make e2e E2E=replay`` those of ``e2e/test_replay.py``. What a failed scenario leaves to
read is in ``artifacts/<test>/``.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator

import pytest

from e2e.cluster.state import kubeconfig_path
from e2e.support import artifacts, objects
from e2e.support.cluster import KafkaCluster
from e2e.support.environment import SYSTEM_NAMESPACE, Environment, connect, prepare
from e2e.support.kubectl import Kubectl


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what explains a failure before the fixtures' ends take it away."""
    report = yield
    if report.failed and report.when != "teardown" and kubeconfig_path().exists():
        kubectl = connect().kubectl
        ours = kubectl.attempt("get", "namespaces", "--selector=sluice-e2e=true", "--output=name").stdout.split()
        names = [SYSTEM_NAMESPACE, *(name.removeprefix("namespace/") for name in ours)]
        report.sections.append(("objects, events and logs", str(artifacts.collect(kubectl, item.name, names))))
    return report


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Kubernetes up, images in it, operator installed and ready."""
    return prepare()


@pytest.fixture(scope="session")
def kubectl(environment: Environment) -> Kubectl:
    """kubectl against the local Kubernetes."""
    return environment.kubectl


def _namespace(kubectl: Kubectl, name: str) -> Kubectl:
    kubectl.apply(objects.namespace(name))
    return kubectl.within(name)


@pytest.fixture
def space(request: pytest.FixtureRequest, environment: Environment) -> Iterator[Kubectl]:
    """A namespace for one test, deleted (and not waited for) at its end."""
    story = request.node.originalname.removeprefix("test_").replace("_", "-")[:36].strip("-")
    name = f"e2e-{story}-{secrets.token_hex(2)}"
    yield _namespace(environment.kubectl, name)
    environment.kubectl.delete("namespace", name, wait=False)


@pytest.fixture(scope="session")
def solo(environment: Environment) -> Iterator[KafkaCluster]:
    """One Kafka node for every scenario that needs no more; objects of any namespace may refer to it."""
    space = _namespace(environment.kubectl, f"e2e-solo-{secrets.token_hex(2)}")
    space.apply(objects.cluster("solo", host=environment.node_address, allowedNamespaces=["*"]))
    space.apply(objects.user("tester", {"name": "solo"}))
    space.wait_ready("messagingcluster", "solo")
    space.wait_ready("user.sluice.dev", "tester", timeout=60)
    yield KafkaCluster(space, "solo", "tester")
    environment.kubectl.delete("namespace", space.namespace, wait=False)


@pytest.fixture(scope="session")
def trio(environment: Environment) -> Iterator[KafkaCluster]:
    """The quickstart: three nodes, topics, users and a group, applied in one go; kept for the session."""
    space = _namespace(environment.kubectl, f"e2e-quickstart-{secrets.token_hex(2)}")
    # In the worst order: what refers to the cluster comes before it.
    space.apply(
        sorted(
            objects.quickstart(space.namespace, environment.node_address), key=lambda b: b["kind"] == "MessagingCluster"
        )
    )
    space.apply(objects.user("tester", {"name": "demo"}))
    space.wait_ready("messagingcluster", "demo", timeout=300)
    space.wait_ready("user.sluice.dev", "tester", timeout=60)
    yield KafkaCluster(space, "demo", "tester")
    environment.kubectl.delete("namespace", space.namespace, wait=False)
