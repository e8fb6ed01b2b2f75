"""How a cluster is reached."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import pytest

from sluice.api.base import Reason
from sluice.kafka.connection import ConnectionSettings, diagnose
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from tests.support.certificates import CertificateAuthority


def test_secrets_are_not_printed() -> None:
    settings = ConnectionSettings(("a:1",), tls=True, ca_pem="C1", cert_pem="C2", key_pem="K3", password="P4")
    assert not any(secret in repr(settings) for secret in ("C1", "C2", "K3", "P4"))


@pytest.mark.parametrize(
    ("tls", "mechanism", "protocol"),
    [
        (False, None, "PLAINTEXT"),
        (True, None, "SSL"),
        (False, "PLAIN", "SASL_PLAINTEXT"),
        (True, "SCRAM-SHA-512", "SASL_SSL"),
    ],
)
def test_the_protocol_follows(tls: bool, mechanism: str | None, protocol: str) -> None:
    settings = ConnectionSettings(("a:1", "b:2"), tls=tls, sasl_mechanism=mechanism, username="u", password="p")
    assert settings.kafka_python_config()["security_protocol"] == protocol
    config = settings.librdkafka_config()
    assert config["security.protocol"] == protocol
    assert config["bootstrap.servers"] == "a:1,b:2"


def test_key_material_is_on_disk_for_no_longer_than_it_takes_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ca = CertificateAuthority("test")
    pair = ca.issue("me")
    settings = ConnectionSettings(("a:1",), tls=True, ca_pem=ca.ca_pem, cert_pem=pair.cert_pem, key_pem=pair.key_pem)
    context = settings.kafka_python_config()["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert list(tmp_path.iterdir()) == []
    broken = ConnectionSettings(("a:1",), tls=True, ca_pem=ca.ca_pem, cert_pem="no", key_pem="no")
    with pytest.raises(KafkaUnreachableError, match="can't be used"):
        broken.ssl_context()
    assert list(tmp_path.iterdir()) == []


async def test_a_diagnosis_names_each_address() -> None:
    told = await diagnose(ConnectionSettings(("127.0.0.1:1", "127.0.0.1:bad")))
    assert told.startswith("127.0.0.1:1: ")
    assert "; 127.0.0.1:bad: " in told


@pytest.mark.parametrize("server", ["host:abc", "host:", "host:0", "host:65536", "[::1", ""])
def test_an_address_that_is_none_is_the_users_error(server: str) -> None:
    with pytest.raises(KafkaRefusedError, match="host:port") as refused:
        ConnectionSettings(("fine:9092", server)).kafka_python_config()
    assert refused.value.reason is Reason.INVALID_SPEC


@pytest.mark.parametrize("server", ["host:9092", "host", "::1", "[::1]", "[::1]:9092"])
def test_addresses_as_client_libraries_take_them_are_let_through(server: str) -> None:
    assert ConnectionSettings((server,)).kafka_python_config()["bootstrap_servers"] == [server]


def test_we_know_the_principals_that_we_may_be() -> None:
    pair = CertificateAuthority("test").issue("Me")
    by_certificate = ConnectionSettings(("a:1",), tls=True, cert_pem=pair.cert_pem, key_pem=pair.key_pem)
    # Rules on the broker may make capitals small, or the other way round.
    assert by_certificate.own_names == {"Me", "me", "ME"}
    assert ConnectionSettings(("a:1",), sasl_mechanism="PLAIN", username="Me").own_names == {"Me"}
    assert ConnectionSettings(("a:1",)).own_names == frozenset()
