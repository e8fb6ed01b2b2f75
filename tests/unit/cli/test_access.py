"""A command that finds no way to Kubernetes says so in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.aio.config import kube_config
from typer.testing import CliRunner

from sluice.cli.access import current_namespace
from sluice.cli.main import app

HALF = "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\nclusters: []\nusers: []\n"
WHOLE = """
current-context: a
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts:
- {name: a, context: {cluster: c, user: u, namespace: mine}}
- {name: b, context: {cluster: c, user: u}}
"""


@pytest.mark.parametrize("command", [["status"], ["status", "-A"], ["replay", "plan", "x"], ["replay", "watch", "x"]])
@pytest.mark.parametrize("config", [None, "apiVersion: v1\nkind: Config\n", HALF, ": : {"])
def test_a_kubeconfig_that_is_missing_or_wrong_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], config: str | None
) -> None:
    path = tmp_path / "config"
    if config is not None:
        path.write_text(config)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "no way to Kubernetes" in result.output


def test_the_namespace_is_the_contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(WHOLE)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert (current_namespace(None), current_namespace("b")) == ("mine", "default")
