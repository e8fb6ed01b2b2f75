"""How a Kafka cluster is reached: addresses, trust and credentials, for each client library."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import ssl
import tempfile
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from sluice.api.base import Reason
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError

CLIENT_ID: Final = "sluice"
ADDRESS: Final = re.compile(r"(\[[^\[\]]+\]|[^:\[\]\s]+)(:(?P<port>[0-9]{1,5}))?")
DEFAULT_PORT: Final = 9092
"""What client libraries take where an address has no port."""


@dataclass(frozen=True)
class ConnectionSettings:
    """Addresses and credentials of a cluster. Secrets are not in its ``repr``.

    ``ca_pem`` are the certificates to trust (the system's if None); ``cert_pem`` and ``key_pem`` (PKCS#8) prove who we
    are under mTLS; ``sasl_mechanism`` is one of ``SCRAM-SHA-512``, ``SCRAM-SHA-256``, ``PLAIN``.
    """

    bootstrap_servers: tuple[str, ...]
    tls: bool = False
    ca_pem: str | None = field(default=None, repr=False)
    cert_pem: str | None = field(default=None, repr=False)
    key_pem: str | None = field(default=None, repr=False)
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def security_protocol(self) -> str:
        """Kafka's name of the protocol: ``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``."""
        transport = "SSL" if self.tls else "PLAINTEXT"
        return f"SASL_{transport}" if self.sasl_mechanism else transport

    @property
    def own_names(self) -> frozenset[str]:
        """Names that the cluster may know us by: user name, or a certificate's as rules may change its letters."""
        if self.username:
            return frozenset({self.username})
        name = _common_name(self.cert_pem) if self.cert_pem else None
        return frozenset({name, name.lower(), name.upper()} if name else ())

    def ssl_context(self) -> ssl.SSLContext:
        """TLS as these settings ask for; at least 1.2, host names checked.

        Raises:
            KafkaUnreachableError: certificate or key can't be used.
        """
        try:
            context = ssl.create_default_context(cadata=self.ca_pem)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_pem and self.key_pem:
                _load_key(context, self.cert_pem, self.key_pem)
        except (ssl.SSLError, ValueError) as error:
            raise KafkaUnreachableError(f"the CA, certificate or key can't be used: {error}") from error
        return context

    def kafka_python_config(self) -> dict[str, Any]:
        """Options of kafka-python's clients.

        Raises:
            KafkaRefusedError: an address isn't one.
            KafkaUnreachableError: certificate or key can't be used.
        """
        config: dict[str, Any] = {
            "bootstrap_servers": [_address(server) for server in self.bootstrap_servers],
            "client_id": CLIENT_ID,
            "security_protocol": self.security_protocol,
        }
        if self.tls:
            config["ssl_context"] = self.ssl_context()
        if self.sasl_mechanism:
            config |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return config

    def librdkafka_config(self) -> dict[str, str]:
        """Options of librdkafka's clients; PEM inline, so no file is written."""
        config = {
            "bootstrap.servers": ",".join(self.bootstrap_servers),
            "client.id": CLIENT_ID,
            "security.protocol": self.security_protocol,
        }
        optional = {
            "ssl.ca.pem": self.ca_pem,
            "ssl.certificate.pem": self.cert_pem,
            "ssl.key.pem": self.key_pem,
            "sasl.mechanisms": self.sasl_mechanism,
            "sasl.username": self.username,
            "sasl.password": self.password,
        }
        return config | {key: value for key, value in optional.items() if value}


def _address(server: str) -> str:
    """An address as it is; client libraries fail in the midst of their work on one that can't be read."""
    found = ADDRESS.fullmatch(server)
    if not _is_ip(server) and (found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 65536):
        raise KafkaRefusedError(
            Reason.INVALID_SPEC, f"{server!r} isn't the address of a broker: correct it; it has to be host:port"
        )
    return server


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _common_name(cert_pem: str) -> str | None:
    try:
        subject = x509.load_pem_x509_certificate(cert_pem.encode()).subject
    except ValueError:  # said where it is used
        return None
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


def _load_key(context: ssl.SSLContext, cert_pem: str, key_pem: str) -> None:
    """Give a context its certificate and key; the ``ssl`` module reads them only from a file, so it is gone at once."""
    descriptor, path = tempfile.mkstemp(prefix="sluice-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(cert_pem.rstrip("\n") + "\n" + key_pem)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)


DIAGNOSIS_SECONDS: Final = 3.0


def _silence(settings: ConnectionSettings) -> str:
    """What it may mean that a server connects and then doesn't go on (brokers hang up on whom they don't know)."""
    if settings.sasl_mechanism:
        return "connects, but then hangs up: the credentials may not be accepted (username, password or mechanism)"
    if settings.cert_pem:
        return "connects, but then hangs up: the client certificate may not be accepted"
    return "connects, but then doesn't answer as Kafka: it may want TLS or credentials"


async def diagnose(settings: ConnectionSettings) -> str:
    """Why a cluster can't be reached, address by address, in a sentence; client libraries only say "timed out"."""
    context = settings.ssl_context() if settings.tls else None

    async def attempt(server: str) -> str:
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        try:
            async with asyncio.timeout(DIAGNOSIS_SECONDS):
                _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.close()
        except TimeoutError:
            return f"{server}: no answer within {DIAGNOSIS_SECONDS:g} s"
        except (OSError, ValueError) as error:
            return f"{server}: {str(error) or type(error).__name__}"
        else:
            return f"{server}: {_silence(settings)}"

    return "; ".join(await asyncio.gather(*(attempt(server) for server in settings.bootstrap_servers)))
