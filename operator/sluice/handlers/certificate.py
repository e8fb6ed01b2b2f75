"""The webhook's certificate: made by the operator, kept in a Secret, renewed, and trusted by the API server.

The certificate is its own CA. When it is renewed, the former one stays in the trusted bundle, and the bundle is in
place before any replica serves the new one, so that no call fails in between.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.kube.client import Kube
from sluice.kube.errors import ConflictError, KubeError

_LOG = logging.getLogger(__name__)

_VALID: Final = datetime.timedelta(days=365)
_RENEW_BEFORE: Final = datetime.timedelta(days=90)
_CHECK_SECONDS: Final = 300.0
_CONFIGURATIONS: Final = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


class WebhookCertificate:
    """Certificate and key for the webhook server, as one file that is replaced when they are renewed.

    Every replica does the same; which one makes or renews the Secret is decided by the API server.

    Args:
        kube: a client that isn't fenced: admission runs in every replica.
        secret: name of the Secret, in ``namespace``.
        service: name of the webhook's Service.
        configuration: name of the webhook configurations that must trust the certificate; empty: none.
    """

    def __init__(self, kube: Kube, *, namespace: str, secret: str, service: str, configuration: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._secret = secret
        self._service = service
        self._configuration = configuration
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-webhook-"))
        self.path = self._folder / "tls.pem"
        """Certificate and key, PEM."""

    async def keep(self) -> None:
        """Renew and check until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.ensure()
            except KubeError as error:
                _LOG.warning("webhook certificate not checked: %s", error)

    async def ensure(self) -> None:
        """Have a valid certificate in the Secret, then in the bundles that trust it, then in the file.

        Raises:
            KubeError: the API server doesn't answer, or refuses.
        """
        data = await self._current()
        while not await self._trusted(data):
            data = await self._current()
        content = base64.b64decode(data["tls.crt"]) + base64.b64decode(data["tls.key"])
        if not self.path.exists() or self.path.read_bytes() != content:
            draft = self._folder / "draft.pem"
            draft.touch(mode=0o600)
            draft.write_bytes(content)
            os.replace(draft, self.path)

    def remove(self) -> None:
        """Remove the file."""
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    async def _current(self) -> Mapping[str, str]:
        while True:
            names = [f"{self._service}.{self._namespace}.svc", f"{self._service}.{self._namespace}.svc.cluster.local"]
            secret = await self._kube.get("v1", "Secret", self._namespace, self._secret)
            if secret is None:
                metadata = {"name": self._secret, "namespace": self._namespace}
                secret, made = await self._kube.create_if_absent(
                    {
                        "apiVersion": "v1",
                        "kind": "Secret",
                        "metadata": metadata,
                        "type": "kubernetes.io/tls",
                        "data": make(names, _now()),
                    }
                )
                if made:
                    _LOG.info("webhook certificate made")
            data: dict[str, str] = secret.get("data") or {}
            if not due(data, names, _now()):
                return data
            renewed = make(names, _now(), former=data.get("tls.crt"))
            version = secret["metadata"]["resourceVersion"]
            try:
                written = await self._kube.patch(
                    "v1",
                    "Secret",
                    self._namespace,
                    self._secret,
                    {"metadata": {"resourceVersion": version}, "data": renewed},
                )
            except ConflictError:
                continue  # another replica was faster: take its certificate
            _LOG.info("webhook certificate renewed")
            result: dict[str, str] = written["data"]
            return result

    async def _trusted(self, data: Mapping[str, str]) -> bool:
        """Have the API server trust this certificate; False if another client has written at the same time."""
        if not self._configuration:
            return True
        for kind in _CONFIGURATIONS:
            found = await self._kube.get("admissionregistration.k8s.io/v1", kind, None, self._configuration)
            if found is None:
                _LOG.warning("%s %s doesn't exist: nothing calls the webhook", kind, self._configuration)
                continue
            webhooks: list[dict[str, Any]] = found.get("webhooks") or []
            # More may be trusted than we know of: another replica may have renewed the certificate just now.
            if all(trusts(webhook["clientConfig"], data["tls.crt"]) for webhook in webhooks):
                continue
            bundle = data["ca.crt"]
            trusting = [{**w, "clientConfig": {**w["clientConfig"], "caBundle": bundle}} for w in webhooks]
            version = found["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "webhooks": trusting}
            try:
                await self._kube.patch("admissionregistration.k8s.io/v1", kind, None, self._configuration, patch)
            except ConflictError:
                _LOG.debug("%s has changed meanwhile", kind)  # by another replica, as a rule
                return False
        return True


def trusts(client_config: Mapping[str, Any], certificate: str) -> bool:
    """Whether the bundle of a webhook has this certificate (both base64)."""
    return base64.b64decode(certificate) in base64.b64decode(client_config.get("caBundle", ""))


def make(names: list[str], now: datetime.datetime, former: str | None = None) -> dict[str, str]:
    """Data of the Secret: a new certificate for these DNS names, and the bundle that trusts it and the former one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sluice-webhook")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    bundle = pem + (base64.b64decode(former) if former else b"")
    return {
        "tls.crt": base64.b64encode(pem).decode(),
        "tls.key": base64.b64encode(private).decode(),
        "ca.crt": base64.b64encode(bundle).decode(),
    }


def due(data: Mapping[str, str], names: list[str], now: datetime.datetime) -> bool:
    """Whether another certificate is needed: there is none, it ends soon, or it is for other names."""
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (KeyError, ValueError, x509.ExtensionNotFound):
        return True
    covered = set(sans.get_values_for_type(x509.DNSName))
    complete = "tls.key" in data and "ca.crt" in data
    return not complete or not covered.issuperset(names) or certificate.not_valid_after_utc - now < _RENEW_BEFORE


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
