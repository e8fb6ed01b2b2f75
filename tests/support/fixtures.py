"""Fixtures for every test: a plugin that the root ``conftest.py`` names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kafka import KafkaCluster, start_cluster


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One Kafka node of the default version, without authorization, shared by the session: use names of your own."""
    with start_cluster(tmp_path_factory.mktemp("kafka") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """As ``kafka``, with the listeners TLS and SCRAM and the SCRAM user ``admin`` (password ``secret``)."""
    with start_cluster(
        tmp_path_factory.mktemp("kafka-tls") / "cluster", tls=True, scram={"admin": "secret"}
    ) as cluster:
        yield cluster
