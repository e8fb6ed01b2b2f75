"""The chart's webhook for replays in front of a replica, and people with rights of their own.

No pod serves here: the API server calls a listener of the test, which passes on to the replica what it is asked.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web
from kubernetes import client, config

from sluice.kube.client import Kube
from tests.integration.support.replica import Replica, free_port
from tests.support.certificates import CertificateAuthority
from tests.support.helm import Body

ROLES: Final = ("sluice-edit", "sluice-replay-approver", "sluice-replay-break-glass")


class Front:
    """The listener; it can be closed, as if no replica answered."""

    def __init__(self, replica: Replica, trust: ssl.SSLContext, host: str, folder: Path) -> None:
        self._replica, self._trust, self._host, self._folder = replica, trust, host, folder
        self._authority = CertificateAuthority("front")
        self._runner: web.AppRunner | None = None
        self.port = free_port()
        self.ca = base64.b64encode(self._authority.ca_pem.encode()).decode()

    async def open(self) -> None:
        """Listen."""
        pair = self._authority.issue("front")
        file = self._folder / "front.pem"
        file.write_text(pair.cert_pem + pair.key_pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        app = web.Application()
        app.router.add_post("/{handler}", self._pass_on)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        url = f"https://127.0.0.1:{self._replica.webhook_port}/{request.match_info['handler']}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=await request.read(), ssl=self._trust, server_hostname=self._host) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")


@asynccontextmanager
async def admission(
    kube: Kube, namespace: str, replica: Replica, chart: Sequence[Body], folder: Path
) -> AsyncIterator[Front]:
    """The mutating webhooks of the chart (``chart`` are its objects), for one namespace."""
    secret = await kube.get("v1", "Secret", namespace, "sluice-webhook")
    assert secret is not None
    trust = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    front = Front(replica, trust, f"sluice-webhook.{namespace}.svc", folder)
    await front.open()
    [body] = [found for found in chart if found["kind"] == "MutatingWebhookConfiguration"]
    webhooks = [
        {
            **webhook,
            "clientConfig": {
                "url": f"https://127.0.0.1:{front.port}{webhook['clientConfig']['service']['path']}",
                "caBundle": front.ca,
            },
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        }
        for webhook in body["webhooks"]
    ]
    kind = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
    await kube.apply({**kind, "metadata": {"name": namespace}, "webhooks": webhooks})
    try:
        yield front
    finally:
        await kube.delete(kind["apiVersion"], kind["kind"], None, namespace)
        await front.close()


def people(
    kubeconfig: Path, namespace: str, chart: Sequence[Body], roles: Mapping[str, Sequence[str]], folder: Path
) -> dict[str, Path]:
    """A kubeconfig for each, who has the rights of these ClusterRoles of the chart in the namespace."""
    rules = {body["metadata"]["name"]: body["rules"] for body in chart if body["kind"] == "ClusterRole"}
    found = {}
    with config.new_client_from_config(str(kubeconfig)) as api:
        core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
        for user, names in roles.items():
            core.create_namespaced_service_account(namespace, {"metadata": {"name": user}})
            role = {"metadata": {"name": user}, "rules": [rule for name in names for rule in rules[name]]}
            rbac.create_namespaced_role(namespace, role)
            binding: dict[str, Any] = {
                "metadata": {"name": user},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
                "subjects": [{"kind": "ServiceAccount", "name": user, "namespace": namespace}],
            }
            rbac.create_namespaced_role_binding(namespace, binding)
            token = core.create_namespaced_service_account_token(user, namespace, {"spec": {}}).status.token
            body: Any = yaml.safe_load(kubeconfig.read_text())
            body["users"] = [{"name": user, "user": {"token": token}}]
            for context in body["contexts"]:
                context["context"]["user"] = user
            found[user] = folder / f"{user}.kubeconfig"
            found[user].write_text(yaml.safe_dump(body))
    return found
