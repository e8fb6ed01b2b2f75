"""Settings from the environment, as the chart writes it."""

from __future__ import annotations

import pytest

from sluice.engine.settings import Settings


def test_what_the_chart_sets() -> None:
    settings = Settings.from_environment(
        {
            "SLUICE_NAMESPACE": "sluice",
            "SLUICE_POD_NAME": "sluice-0",
            "SLUICE_WATCH_NAMESPACES": "a, b,",
            "SLUICE_LEASE": "my-operator",
            "SLUICE_SERVICE": "my-webhook",
            "SLUICE_WEBHOOK_SECRET": "my-webhook-tls",
            "SLUICE_WEBHOOK_CONFIGURATION": "my",
            "SLUICE_METRICS_PORT": "9",
            "SLUICE_BROKER_IMAGE": "broker:1-kafka-{version}",
            "SLUICE_IMAGE_PULL_SECRETS": "registry, mirror",
            "SLUICE_LOG_LEVEL": "debug",
        }
    )
    assert settings.watch_namespaces == ("a", "b")
    assert (settings.identity, settings.namespace) == ("sluice-0", "sluice")
    assert (settings.service, settings.webhook_secret, settings.webhook_configuration) == (
        "my-webhook",
        "my-webhook-tls",
        "my",
    )
    assert settings.lease == "my-operator"
    assert settings.image_pull_secrets == ("registry", "mirror")
    assert settings.metrics_port == 9
    assert settings.webhook_port == 8443
    assert settings.log_level == "DEBUG"
    assert settings.broker_image_for("4.4.0") == "broker:1-kafka-4.4.0"


def test_without_a_list_every_namespace_is_watched() -> None:
    assert Settings.from_environment({"SLUICE_NAMESPACE": "s"}).watch_namespaces == ()


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_number_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValueError, match="SLUICE_METRICS_PORT"):
        Settings.from_environment({"SLUICE_NAMESPACE": "s", "SLUICE_METRICS_PORT": value})
