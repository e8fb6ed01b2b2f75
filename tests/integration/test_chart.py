"""The Helm chart as helm renders it: confined, least privileged, free of secrets, and as it was."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from e2e.cluster.embedded import binaries
from sluice.api.objects import KINDS
from sluice.engine.settings import Settings
from sluice.handlers.owned import OWNED
from sluice.plan.replay_approval import GUARDED
from sluice.versions import KAFKA_VERSIONS
from tests.support.helm import CHART, KUBE_VERSION, Body, Helm, HelmError, Values

GOLDEN = Path(__file__).parent / "golden"

LISTED: Values = {"watchNamespaces": ["chart-a", "chart-b"]}
FULL: Values = LISTED | {
    "replicas": 2,
    "image": {"repository": "registry.example/sluice", "tag": "1.2.3", "pullPolicy": "Always"},
    "broker": {"repository": "registry.example/kafka", "tag": "v1-{version}"},
    "imagePullSecrets": ["pull"],
    "logLevel": "DEBUG",
    "serviceAccount": {"annotations": {"a": "b"}},
    "metrics": {"annotations": {"scrape": "yes"}, "serviceMonitor": {"enabled": True, "labels": {"team": "kafka"}}},
    "networkPolicy": {"enabled": True, "metricsPeers": [{"podSelector": {}}]},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "kafka"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm of the version that the local cluster's tools pin."""
    return Helm(binaries.helm(), tmp_path_factory.mktemp("helm"))


def of_kind(bodies: list[Body], *kinds: str) -> list[Body]:
    return [body for body in bodies if body["kind"] in kinds]


def the(bodies: list[Body], kind: str, name: str) -> Body:
    [found] = [body for body in bodies if body["kind"] == kind and body["metadata"]["name"] == name]
    return found


def pods(bodies: list[Body]) -> list[Body]:
    """Specs of all pods that the chart makes."""
    return [body["spec"]["template"]["spec"] for body in of_kind(bodies, "Deployment", "Job")]


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "everything"])
class TestRendered:
    def test_lint_is_content(self, helm: Helm, values: Values) -> None:
        assert "0 chart(s) failed" in helm("lint", "--strict", KUBE_VERSION, str(CHART), values=values)

    def test_it_is_as_it_was(self, helm: Helm, values: Values) -> None:
        """Set UPDATE_GOLDEN=1 to accept a change, and read the difference before it is committed."""
        golden = GOLDEN / f"chart-{'full' if values else 'defaults'}.yaml"
        bodies = [body for body in helm.render(values) if body["kind"] != "CustomResourceDefinition"]
        text = yaml.safe_dump_all(bodies, sort_keys=False, width=120)
        if os.environ.get("UPDATE_GOLDEN"):
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8")

    def test_no_certificate_and_no_secret_is_made_by_the_template_engine(self, helm: Helm, values: Values) -> None:
        text = json.dumps(helm.render(values))
        assert not of_kind(helm.render(values), "Secret")
        assert "caBundle" not in text
        assert "BEGIN" not in text

    def test_two_renderings_are_the_same(self, helm: Helm, values: Values) -> None:
        assert helm.template(values) == helm.template(values)

    def test_every_pod_is_confined(self, helm: Helm, values: Values) -> None:
        """The restricted Pod Security Standard, and a read-only root."""
        for pod in pods(helm.render(values)):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["limits"]["memory"]
                assert container["resources"]["requests"]

    def test_no_rule_has_a_wildcard(self, helm: Helm, values: Values) -> None:
        for role in of_kind(helm.render(values), "Role", "ClusterRole"):
            for rule in role["rules"]:
                assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"], role["metadata"]["name"]

    def test_the_operator_may_watch_what_it_watches_and_nothing_else(self, helm: Helm, values: Values) -> None:
        watchable = {
            resource
            for role in of_kind(helm.render(values), "Role", "ClusterRole")
            if role["metadata"]["name"] == "chart-sluice"
            for rule in role["rules"]
            if "watch" in rule["verbs"]
            for resource in rule["resources"]
        }
        assert watchable == {kind.plural for kind in KINDS.values()} | {plural for *_, plural in OWNED}

    def test_the_lease_that_it_asks_for_is_the_one_that_it_may_change(self, helm: Helm, values: Values) -> None:
        for release in ({}, {"fullnameOverride": "other"}):
            bodies = helm.render(values | release)
            [deployment] = of_kind(bodies, "Deployment")
            environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
            [lease] = [entry["value"] for entry in environment if entry["name"] == "SLUICE_LEASE"]
            changeable = [
                rule["resourceNames"]
                for role in of_kind(bodies, "Role")
                for rule in role["rules"]
                if "leases" in rule["resources"] and "patch" in rule["verbs"]
            ]
            assert changeable == [[lease]] == [[f"{deployment['metadata']['name']}-operator"]]

    def test_crds_are_kept(self, helm: Helm, values: Values) -> None:
        kept = of_kind(helm.render(values), "CustomResourceDefinition")
        assert len(kept) == len(KINDS)
        assert all(body["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for body in kept)

    def test_the_operator_can_read_its_settings(self, helm: Helm, values: Values) -> None:
        deployment = the(helm.render(values), "Deployment", "sluice")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sluice", "operator"]
        environment = {entry["name"]: entry.get("value", "chart") for entry in container["env"]}
        settings = Settings.from_environment(environment)
        assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))
        assert settings.service == settings.webhook_secret == "sluice-webhook"
        assert settings.operator_image == container["image"]
        images = {settings.broker_image_for(version) for version in KAFKA_VERSIONS}
        assert len(images) == len(KAFKA_VERSIONS)
        assert not any("{" in image for image in images)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"metrics": settings.metrics_port, "webhook": settings.webhook_port}

    def test_webhooks_call_a_service_that_selects_the_operator(self, helm: Helm, values: Values) -> None:
        bodies = helm.render(values)
        service = the(bodies, "Service", "sluice-webhook")
        labels = the(bodies, "Deployment", "sluice")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        [validating] = of_kind(bodies, "ValidatingWebhookConfiguration")
        [mutating] = of_kind(bodies, "MutatingWebhookConfiguration")
        paths = {
            webhook["rules"][0]["resources"][0]: webhook["clientConfig"]["service"]["path"]
            for webhook in validating["webhooks"]
        }
        assert paths == {kind.plural: f"/validate-{kind.plural}" for kind in KINDS.values()}
        called = [w["clientConfig"]["service"]["path"] for w in mutating["webhooks"]]
        assert called == ["/guard-replayjobs", "/mutate-replayjobs"]
        for webhook in validating["webhooks"] + mutating["webhooks"]:
            assert webhook["failurePolicy"] == ("Fail" if webhook["name"].startswith("guard-") else "Ignore")
            assert webhook["clientConfig"]["service"]["name"] == service["metadata"]["name"]
            assert ("namespaceSelector" in webhook) == bool(values)

    def test_what_lets_a_replay_begin_is_guarded_by_every_name(self, helm: Helm, values: Values) -> None:
        [mutating] = of_kind(helm.render(values), "MutatingWebhookConfiguration")
        [condition] = mutating["webhooks"][0]["matchConditions"]
        [listed] = re.findall(r"^\[(.*?)\]", condition["expression"])
        assert {f"sluice.dev/{name.strip(chr(39))}" for name in listed.split(", ")} == set(GUARDED)

    def test_the_operator_may_change_its_own_webhooks_only(self, helm: Helm, values: Values) -> None:
        bodies = helm.render(values)
        [validating] = of_kind(bodies, "ValidatingWebhookConfiguration")
        [rule] = [
            rule
            for role in of_kind(bodies, "ClusterRole")
            for rule in role["rules"]
            if "validatingwebhookconfigurations" in rule["resources"]
        ]
        assert rule["resourceNames"] == [validating["metadata"]["name"]]
        assert rule["verbs"] == ["get", "patch"]


def test_with_a_list_of_namespaces_nothing_is_allowed_everywhere(helm: Helm) -> None:
    bodies = helm.render(LISTED)
    everywhere = {
        resource
        for role in of_kind(bodies, "ClusterRole")
        if role["metadata"]["name"] == "chart-sluice"
        for rule in role["rules"]
        for resource in rule["resources"]
    }
    assert everywhere == {
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "subjectaccessreviews",
    }
    roles = [role["metadata"]["namespace"] for role in of_kind(bodies, "Role") if "own" not in role["metadata"]["name"]]
    assert sorted(set(roles)) == ["chart-a", "chart-b"]


def test_without_a_list_there_are_roles_in_its_own_namespace_only(helm: Helm) -> None:
    assert {role["metadata"]["namespace"] for role in of_kind(helm.render(), "Role")} == {"chart"}


def test_two_replicas_get_a_disruption_budget_and_one_does_not(helm: Helm) -> None:
    assert of_kind(helm.render({"replicas": 2}), "PodDisruptionBudget")
    assert not of_kind(helm.render(), "PodDisruptionBudget")


def test_crds_and_user_roles_can_be_left_to_others(helm: Helm) -> None:
    bodies = helm.render({"crds": {"install": False}, "rbac": {"userRoles": False}})
    assert not of_kind(bodies, "CustomResourceDefinition")
    assert not [body for body in bodies if body["metadata"]["name"] == "sluice-edit"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": "two"}, "replicas"),
        ({"logLevel": "LOUD"}, "logLevel"),
        ({"watchNamespaces": ["Not_a_name"]}, "watchNamespaces"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, values: Values, named: str) -> None:
    with pytest.raises(HelmError, match=named):
        helm.render(values)
