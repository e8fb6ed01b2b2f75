"""The Helm chart on a real API server: installed, upgraded, uninstalled, and what RBAC then allows.

No controllers run here, so nothing becomes ready and no hook can finish: releases are installed without waiting and
uninstalled without hooks. That the operator comes up, and that uninstalling wedges nothing, is seen in ``e2e/``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kubernetes import client, config

from e2e.cluster.embedded import binaries
from sluice.api.base import API_VERSION, GROUP, VERSION
from sluice.kube.client import Kube
from sluice.kube.let_go import let_go
from tests.support.helm import CHART, Body, Helm, HelmError, Values


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm of the version that the local cluster's tools pin."""
    return Helm(binaries.helm(), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def api_client(kubeconfig: Path) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(kubeconfig)) as api_client:
        yield api_client


class Release:
    """A release of the chart on the API server; its namespace is of this run."""

    name = "chart"

    def __init__(self, helm: Helm, kubeconfig: Path, namespace: str) -> None:
        self._helm = helm
        self.namespace = namespace
        self._where = (f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")
        self.cluster_name = f"{namespace}-{self.name}-sluice"

    def install(self, values: Values | None = None, *arguments: str) -> None:
        # Nobody answers webhooks here: the API server shouldn't wait long for them.
        quick = {"webhook": {"timeoutSeconds": 1}} | (values or {})
        self._helm("install", self.name, str(CHART), *self._where, *arguments, values=quick)

    def upgrade(self, values: Values | None = None) -> None:
        quick = {"webhook": {"timeoutSeconds": 1}} | (values or {})
        self._helm("upgrade", self.name, str(CHART), *self._where, values=quick)

    def uninstall(self) -> str:
        return self._helm("uninstall", self.name, "--no-hooks", *self._where)


@pytest.fixture
def release(helm: Helm, kubeconfig: Path, api_client: client.ApiClient) -> Iterator[Release]:
    """An installed release. The CRDs may have been left by other tests, hence the ownership."""
    core = client.CoreV1Api(api_client)
    namespace = core.create_namespace({"metadata": {"generateName": "chart-"}}).metadata.name
    made = Release(helm, kubeconfig, namespace)
    made.install(None, "--take-ownership")
    yield made
    try:
        made.uninstall()
    except HelmError as error:
        if "not found" not in str(error):  # the test has uninstalled it
            raise
    core.delete_namespace(namespace)


def topic(api_client: client.ApiClient, namespace: str, name: str, finalizers: list[str] | None = None) -> Body:
    body = {
        "apiVersion": API_VERSION,
        "kind": "Topic",
        "metadata": {"name": name, "finalizers": finalizers or []},
        "spec": {"clusterRef": {"name": "demo"}},
    }
    made: Body = client.CustomObjectsApi(api_client).create_namespaced_custom_object(
        GROUP, VERSION, namespace, "topics", body
    )
    return made


def read_topic(api_client: client.ApiClient, namespace: str, name: str) -> Body:
    found: Body = client.CustomObjectsApi(api_client).get_namespaced_custom_object(
        GROUP, VERSION, namespace, "topics", name
    )
    return found


def test_uninstalling_and_installing_again_loses_no_object(release: Release, api_client: client.ApiClient) -> None:
    before = topic(api_client, release.namespace, "orders")
    assert "topics.sluice.dev" in release.uninstall()
    assert read_topic(api_client, release.namespace, "orders")["metadata"]["uid"] == before["metadata"]["uid"]
    release.install()  # adopts the CRDs that it left behind, without being told to
    assert read_topic(api_client, release.namespace, "orders")["metadata"]["uid"] == before["metadata"]["uid"]


def test_an_upgrade_brings_the_crds_up_to_date(release: Release, api_client: client.ApiClient) -> None:
    extensions = client.ApiextensionsV1Api(api_client)
    old = [{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0"}]
    extensions.patch_custom_resource_definition("topics.sluice.dev", old)
    release.upgrade({"replicas": 2})
    crd = extensions.read_custom_resource_definition("topics.sluice.dev")
    assert crd.spec.versions[0].additional_printer_columns[0].name == "Cluster"


def test_an_upgrade_leaves_the_webhooks_trust_alone(release: Release, api_client: client.ApiClient) -> None:
    """The operator puts its CA there; taking it away would switch admission off until the operator looks again."""
    admission = client.AdmissionregistrationV1Api(api_client)
    found = admission.read_validating_webhook_configuration(release.cluster_name)
    bundle = base64.b64encode(Path(api_client.configuration.ssl_ca_cert).read_bytes()).decode()
    trusting = [
        {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": bundle}
        for number in range(len(found.webhooks))
    ]
    admission.patch_validating_webhook_configuration(release.cluster_name, trusting)
    release.upgrade({"replicas": 2, "webhook": {"timeoutSeconds": 2}})
    after = admission.read_validating_webhook_configuration(release.cluster_name)
    assert {webhook.timeout_seconds for webhook in after.webhooks} == {2}
    assert {webhook.client_config.ca_bundle for webhook in after.webhooks} == {bundle}


def allowed(
    api_client: client.ApiClient, release: Release, verb: str, resource: str, namespace: str | None, name: str = ""
) -> bool:
    """Whether RBAC lets the operator's ServiceAccount do this; ``resource`` is ``plural[/subresource].group``."""
    plural, _, group = resource.partition(".")
    plural, _, subresource = plural.partition("/")
    attributes: Mapping[str, str | None] = {
        "verb": verb,
        "group": group,
        "resource": plural,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    user = f"system:serviceaccount:{release.namespace}:{release.name}-sluice"
    review = client.AuthorizationV1Api(api_client).create_subject_access_review(
        {"spec": {"user": user, "resourceAttributes": attributes}}
    )
    return bool(review.status.allowed)


NEEDED = [
    ("watch", "topics.sluice.dev"),
    ("patch", "topics.sluice.dev"),
    ("patch", "replayjobs/status.sluice.dev"),
    ("delete", "replayjobs.sluice.dev"),
    ("patch", "statefulsets.apps"),
    ("create", "secrets"),
    ("patch", "persistentvolumeclaims"),
    ("delete", "pods"),
    ("create", "jobs.batch"),
    ("patch", "jobs.batch"),
    ("create", "events.events.k8s.io"),
    ("create", "networkpolicies.networking.k8s.io"),
    ("create", "poddisruptionbudgets.policy"),
]
REFUSED = [
    ("create", "topics.sluice.dev"),
    ("delete", "topics.sluice.dev"),
    ("delete", "messagingclusters.sluice.dev"),
    ("approve", "replayjobs.sluice.dev"),
    ("break-glass", "replayjobs.sluice.dev"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("create", "deployments.apps"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("list", "nodes"),
    ("watch", "configmaps"),
    ("watch", "networkpolicies.networking.k8s.io"),
    ("delete", "poddisruptionbudgets.policy"),
    ("patch", "events.events.k8s.io"),
]


def test_the_operator_may_do_what_it_must_and_no_more(release: Release, api_client: client.ApiClient) -> None:
    assert [need for need in NEEDED if not allowed(api_client, release, *need, "elsewhere")] == []
    assert [verb for verb in REFUSED if allowed(api_client, release, *verb, "elsewhere")] == []
    own = release.namespace
    lease = f"{release.name}-sluice-operator"
    assert allowed(api_client, release, "patch", "leases.coordination.k8s.io", own, lease)
    assert not allowed(api_client, release, "patch", "leases.coordination.k8s.io", own, "sluice-operator")
    assert not allowed(api_client, release, "patch", "leases.coordination.k8s.io", "kube-system", lease)
    webhooks = "validatingwebhookconfigurations.admissionregistration.k8s.io"
    assert allowed(api_client, release, "patch", webhooks, None, release.cluster_name)
    assert not allowed(api_client, release, "patch", webhooks, None, "another")
    assert allowed(api_client, release, "create", "subjectaccessreviews.authorization.k8s.io", None)
    assert not allowed(api_client, release, "create", "tokenreviews.authentication.k8s.io", None)


def test_with_a_list_of_namespaces_it_may_do_nothing_elsewhere(release: Release, api_client: client.ApiClient) -> None:
    core = client.CoreV1Api(api_client)
    watched = core.create_namespace({"metadata": {"generateName": "chart-watched-"}}).metadata.name
    release.upgrade({"watchNamespaces": [watched]})
    assert [need for need in NEEDED if not allowed(api_client, release, *need, watched)] == []
    assert [need for need in NEEDED if allowed(api_client, release, *need, "elsewhere")] == []
    own = release.namespace
    assert allowed(api_client, release, "patch", "secrets", own, f"{release.name}-sluice-webhook")
    assert not allowed(api_client, release, "get", "secrets", own, "another")
    release.uninstall()
    core.delete_namespace(watched)


async def test_what_uninstalling_runs_removes_the_operators_finalizers_and_no_others(
    release: Release, api_client: client.ApiClient, kubeconfig: Path
) -> None:
    topic(api_client, release.namespace, "held", ["sluice.dev/topic", "example.org/other"])
    topic(api_client, release.namespace, "free")
    release.uninstall()
    kube = await Kube.connect(kubeconfig=str(kubeconfig))
    try:
        assert await let_go(kube, (release.namespace,)) == 1
        assert await let_go(kube, (release.namespace,)) == 0
    finally:
        await kube.close()
    assert read_topic(api_client, release.namespace, "held")["metadata"]["finalizers"] == ["example.org/other"]
