"""The Kafka that other integration tests stand on."""

from __future__ import annotations

from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.support.kafka import KafkaCluster, start_cluster


def test_a_node_serves_as_soon_as_the_fixture_is_there(kafka: KafkaCluster) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        assert admin.describe_cluster()["cluster_id"] == kafka.cluster_id
    finally:
        admin.close()


def test_clients_can_come_by_certificate_and_by_password(kafka_tls: KafkaCluster, tmp_path: Path) -> None:
    assert kafka_tls.ca is not None
    ca, pair = tmp_path / "ca.pem", kafka_tls.certificate("someone")
    ca.write_text(kafka_tls.ca.ca_pem)
    (tmp_path / "cert.pem").write_text(pair.cert_pem)
    (tmp_path / "key.pem").write_text(pair.key_pem)
    by_certificate = KafkaAdminClient(
        bootstrap_servers=kafka_tls.bootstrap_of("TLS"),
        security_protocol="SSL",
        ssl_cafile=str(ca),
        ssl_certfile=str(tmp_path / "cert.pem"),
        ssl_keyfile=str(tmp_path / "key.pem"),
    )
    by_certificate.close()
    by_password = KafkaAdminClient(
        bootstrap_servers=kafka_tls.bootstrap_of("SCRAM"),
        security_protocol="SASL_SSL",
        ssl_cafile=str(ca),
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username="admin",
        sasl_plain_password="secret",
    )
    by_password.close()


def test_a_killed_node_comes_back_with_its_data(tmp_path: Path) -> None:
    with start_cluster(tmp_path / "kafka", brokers=3) as kafka:
        admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        try:
            admin.create_topics([NewTopic("kept", 3, 3)])
            kafka.kill(1)
            assert not kafka.nodes[1].running
            kafka.start(1)
            assert "kept" in admin.list_topics()
        finally:
            admin.close()
