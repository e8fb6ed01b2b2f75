"""The Secret of a User."""

from __future__ import annotations

import base64
import json

from sluice.manifests.client_config import (
    ClientAccess,
    belongs_to,
    java_properties,
    librdkafka_json,
    secret_data,
    user_secret,
)

TLS = ClientAccess("alice", "kafka:9093", ca_pem="CA\nCA\n", cert_pem="CERT\n", key_pem="KEY\n")
SCRAM = ClientAccess("alice", "kafka:9094", ca_pem="CA\n", password='se"cret\\')


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_java_reads_certificates_inline() -> None:
    found = properties(java_properties(TLS))
    assert found["security.protocol"] == "SSL"
    assert found["ssl.truststore.certificates"] == "CA\\nCA\\n"
    assert found["ssl.keystore.key"] == "KEY\\n"
    assert found["isolation.level"] == "read_committed"


def test_a_password_is_quoted_for_jaas_and_escaped_for_properties() -> None:
    found = properties(java_properties(SCRAM))
    assert found["security.protocol"] == "SASL_SSL"
    assert found["sasl.jaas.config"].endswith(r'username="alice" password="se\\"cret\\\\";')


def test_librdkafka_places_keys_as_java_does() -> None:
    config = json.loads(librdkafka_json(TLS, producer=True))
    assert config["partitioner"] == "murmur2_random"
    assert config["acks"] == "all"
    assert config["ssl.key.pem"] == "KEY\n"
    assert "partitioner" not in json.loads(librdkafka_json(TLS))


def test_a_secret_has_only_what_the_user_proves_itself_with() -> None:
    assert "password" not in secret_data(TLS)
    assert not {"user.crt", "user.key"} & set(secret_data(SCRAM))
    assert "se" not in repr(SCRAM).replace("user", "").replace("servers", "")


def test_a_secret_is_recognised_by_its_user() -> None:
    long = "a" * 100
    secret = user_secret(
        name="x", namespace="ns", user=long, cluster="demo", data={"k": "v"}, annotations={}, owner=None
    )
    assert belongs_to(secret, "ns", long)
    assert not belongs_to(secret, "other", long)
    assert not belongs_to({"metadata": {"name": "x"}}, "ns", long)
    assert "sluice.dev/user" not in secret["metadata"]["labels"]
    assert "ownerReferences" not in secret["metadata"]
    assert base64.b64decode(secret["data"]["k"]) == b"v"
