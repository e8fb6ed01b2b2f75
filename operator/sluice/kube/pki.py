"""Keys and certificates of a cluster: authorities, nodes, operator. Random, so it is an effect; plans decide when."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice.plan.certificates import AUTHORITY_LIFETIME, LIFETIME, CertificateFacts

_BACKDATED: Final = timedelta(minutes=10)
"""Clocks of nodes may be behind ours."""


class AuthorityError(Exception):
    """An authority's certificate or key can't be used; the text says which and why."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key (PKCS#8, as Kafka wants it), both PEM."""

    cert_pem: str
    key_pem: str = field(repr=False)


def make_authority(common_name: str, now: datetime) -> KeyPair:
    """A certificate authority of ten years that signs leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _key_pem(key))


def issue(
    authority: KeyPair, common_name: str, names: Iterable[str], now: datetime, lifetime: timedelta = LIFETIME
) -> KeyPair:
    """A certificate for servers and clients, valid for DNS names and IP addresses; never longer than its authority.

    Raises:
        AuthorityError: the authority can't sign.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority.cert_pem.encode())
        signer = serialization.load_pem_private_key(authority.key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"the authority's certificate or key can't be read: {error}") from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey) or signer.public_key() != issuer.public_key():
        raise AuthorityError("the authority's key isn't the elliptic-curve key of its certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    alternatives = [_general_name(name) for name in sorted(names)]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return KeyPair(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))


def inspect(pair: KeyPair, authority_pem: str) -> CertificateFacts | None:
    """What matters of a certificate, or None if it can't be read."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.cert_pem.encode())
        key = serialization.load_pem_private_key(pair.key_pem.encode(), password=None)
        authority = x509.load_pem_x509_certificate(authority_pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    try:
        certificate.verify_directly_issued_by(authority)
        trusted = certificate.public_key() == key.public_key()
    except (ValueError, TypeError, InvalidSignature):
        trusted = False
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return CertificateFacts(
        common_name=str(common[0].value) if common else "",
        names=_names_of(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        trusted=trusted,
    )


def _names_of(certificate: x509.Certificate) -> frozenset[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
    return frozenset((*found.get_values_for_type(x509.DNSName), *addresses))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
