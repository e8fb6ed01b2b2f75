"""A Kafka cluster's administration: everything the operator asks of, or does to, one cluster."""

from __future__ import annotations

from sluice.kafka.admin_cluster import ClusterAdmin
from sluice.kafka.admin_configs import ConfigAdmin
from sluice.kafka.admin_groups import GroupAdmin
from sluice.kafka.admin_security import SecurityAdmin
from sluice.kafka.admin_transactions import TransactionAdmin


class KafkaAdmin(ClusterAdmin, TransactionAdmin, ConfigAdmin, SecurityAdmin, GroupAdmin):
    """Asynchronous administration of one cluster; `sluice.kafka.requests.Channel` says how requests travel.

    Methods take and return the values of `sluice.plan.observed`, put up to a thousand things in one request, and raise
    `KafkaUnreachableError` (the world's; try again) or `KafkaRefusedError` (a person has to change something).
    """
