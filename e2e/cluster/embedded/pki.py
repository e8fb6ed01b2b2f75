"""Certificates and kubeconfigs of the embedded Kubernetes."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A new certificate authority that writes into ``folder`` (``ca.crt``, ``<name>.crt``, ``<name>.key``)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local-kubernetes")])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = _write(folder, "ca", certificate, self._key)

    def client(self, name: str, user: str, group: str | None = None) -> Pair:
        """A client certificate: Kubernetes takes CN as the user and O as the group."""
        return self._issue(name, user, group, [])

    def server(self, name: str, hosts: Iterable[str]) -> Pair:
        """A server certificate for names and addresses."""
        return self._issue(name, name, None, hosts)

    def kubeconfig(self, path: Path, server: str, name: str, user: str, group: str | None = None) -> Path:
        """A kubeconfig with a client certificate of its own; everything is inside the one file."""
        pair = self.client(name, user, group)
        ca, cert, key = (_base64(file) for file in (self.pair.cert, pair.cert, pair.key))
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": name, "user": {"client-certificate-data": cert, "client-key-data": key}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": name}}],
            "current-context": "local",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(body))
        return path

    def _issue(self, name: str, common_name: str, organization: str | None, hosts: Iterable[str]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        alternatives = [_general_name(host) for host in hosts]
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(x509.Name(subject), self._name, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return _write(self.folder, name, builder.sign(self._key, hashes.SHA256()), key)


def signing_key(folder: Path) -> Pair:
    """Keys that sign service-account tokens: here ``cert`` is the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pair = Pair(folder / "service-accounts.pub", folder / "service-accounts.key")
    pair.cert.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    _write_key(pair.key, key)
    return pair


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(pair.key, key)
    return pair


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    # "EC PRIVATE KEY" and not PKCS 8: the service-account keys of Kubernetes are read in that form.
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
