"""The controllers' quorum as Kafka itself describes it."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass

from kafka import KafkaAdminClient

from e2e.support.kafka import Config


@dataclass(frozen=True)
class Voter:
    """One voter; ``lag`` in records of the metadata log behind the leader."""

    id: int
    directory: str
    lag: int


def voters(config: Config) -> list[Voter]:
    """Voters of the metadata log, by id; ``config`` is that of a TLS client with Describe on the cluster."""
    context = ssl.create_default_context(cadata=config["ssl.ca.pem"])
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{config['ssl.certificate.pem']}\n{config['ssl.key.pem']}")
        file.flush()
        context.load_cert_chain(file.name)
    admin = KafkaAdminClient(
        bootstrap_servers=config["bootstrap.servers"].split(","), security_protocol="SSL", ssl_context=context
    )
    try:
        partition = admin.describe_metadata_quorum()["topics"][0]["partitions"][0]
    finally:
        admin.close()
    found = partition["current_voters"]
    end = max(voter["log_end_offset"] for voter in found)
    return sorted(
        (
            Voter(voter["replica_id"], str(voter["replica_directory_id"]), end - voter["log_end_offset"])
            for voter in found
        ),
        key=lambda voter: voter.id,
    )
