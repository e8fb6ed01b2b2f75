"""A MessagingCluster that is deleted and applied again, as an Argo prune does, comes back as itself."""

from __future__ import annotations

from e2e.support import kafka, objects
from e2e.support.cluster import KafkaCluster, numbered
from e2e.support.environment import Environment
from e2e.support.kubectl import Kubectl


def test_a_cluster_applied_again_is_the_same_cluster(environment: Environment, space: Kubectl) -> None:
    manifests = [
        objects.cluster("ledger", host=environment.node_address),
        objects.topic("entries", {"name": "ledger"}, partitions=2),
        objects.user("clerk", {"name": "ledger"}),
        objects.user("teller", {"name": "ledger"}, authentication="SCRAM-SHA-512"),
    ]
    space.apply(manifests)
    before = space.wait_ready("messagingcluster", "ledger")
    for kind, name in (("topic", "entries"), ("user.sluice.dev", "clerk"), ("user.sluice.dev", "teller")):
        space.wait_ready(kind, name, timeout=60)
    ledger = KafkaCluster(space, "ledger", "clerk")
    by_certificate, by_password = ledger.client(), ledger.client("teller", listener="password")
    ledger.produce("entries", numbered(500))

    # Everything goes, but in the order of a prune: the cluster with its users and topics.
    space.run("delete", "messagingclusters,topics,users.sluice.dev", "--all", timeout=120)
    _wait_until_no_pod_is_left(ledger)
    space.apply(manifests)
    after = ledger.wait_ready()
    space.wait_ready("topic", "entries", timeout=60)

    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["clusterId"] == before["status"]["clusterId"]
    # Clients that knew the old cluster go on with the certificate, password and CA that they have; the
    # node ports may be others.
    for config, listener in ((by_certificate, "outside"), (by_password, "password")):
        same_credentials = {**config, "bootstrap.servers": kafka.bootstrap_servers(after, listener)}
        assert {read.value for read in kafka.read_topic(same_credentials, "entries")} == {
            b"%d" % number for number in range(500)
        }


def _wait_until_no_pod_is_left(cluster: KafkaCluster) -> None:
    for pod in cluster.pods():
        cluster.space.wait_gone("pod", pod["metadata"]["name"], timeout=90)
