"""Users on a real Kafka with an authorizer, and a real API server: what their Secrets hold works."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from cryptography import x509

from sluice.api.base import Reason
from sluice.engine.errors import UserError
from sluice.engine.reconciler import Outcome
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaError
from sluice.kube.pki import make_authority
from sluice.plan.observed import AclBinding, NewTopic
from tests.integration.support.world import World, world
from tests.support.certificates import _pem
from tests.support.kafka import KafkaCluster, java, start_cluster
from tests.support.processes import Process

LIST_TOPICS = """
import java.io.FileReader;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;

class ListTopics {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.load(new FileReader(arguments[0]));
        try (Admin admin = Admin.create(properties)) {
            System.out.println("topics: " + admin.listTopics().names().get());
        }
    }
}
"""
JAVA_COMPILER = "jdk.compiler" in subprocess.run(["java", "--list-modules"], capture_output=True, text=True).stdout
POOL = {"name": "kafka", "roles": ["controller", "broker"], "replicas": 1, "storage": {"size": "1Gi"}}
READ = [{"resource": "Topic", "name": "orders", "operations": ["Read", "Describe"]}]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that allows only what ACLs say, with TLS; the plain listener is the administrator's."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
    }
    with start_cluster(tmp_path_factory.mktemp("guarded") / "cluster", config=config, tls=True) as cluster:
        yield cluster


@pytest.fixture
async def here(kubeconfig: Path, guarded: KafkaCluster) -> AsyncIterator[World]:
    """A namespace whose cluster runs in Sluice's way: listeners with TLS and SCRAM, authorities in Secrets."""
    spec = {
        "nodePools": [POOL],
        "listeners": [
            {"name": "tls", "port": 9093},
            {"name": "scram", "port": 9094, "authentication": "SCRAM-SHA-512"},
        ],
    }
    async with world(kubeconfig, guarded, spec) as made:
        assert guarded.ca is not None
        listeners = [
            {"name": name, "bootstrapServers": guarded.bootstrap_of(name.upper())} for name in ("tls", "scram")
        ]
        await made.kube.patch(
            "sluice.dev/v1alpha1",
            "MessagingCluster",
            made.namespace,
            "demo",
            {"status": {"listeners": listeners}},
            subresource="status",
        )
        await made.make_secret("demo-ca-cert", {"ca.crt": guarded.ca.ca_pem})
        await made.make_secret("demo-clients-ca", {"ca.crt": guarded.ca.ca_pem, "ca.key": _pem(guarded.ca._key)})
        await made.admin.create_topics([NewTopic("orders", 1, 1)])
        yield made


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


def config_in(secret: dict[str, str] | None, name: str) -> dict[str, Any]:
    assert secret is not None
    return dict(json.loads(secret[name]))


def produce(config: dict[str, Any], topic: str) -> str | None:
    """Produce one record; the error, if it wasn't taken."""
    errors: list[str | None] = []
    producer = Producer(config)
    producer.produce(
        topic, b"value", b"key", on_delivery=lambda error, _: errors.append(error.name() if error else None)
    )
    producer.flush(15)
    return errors[0] if errors else "timed out"


def consume(config: dict[str, Any], topic: str) -> bytes | None:
    """Value of the first record."""
    consumer = Consumer(config | {"group.id": "any", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(20)
        if message is not None and (error := message.error()) is not None:
            raise KafkaException(error)
        return None if message is None else message.value()
    finally:
        consumer.close()


def admin_as(secret: dict[str, str]) -> KafkaAdmin:
    """Our own client, as that user."""
    return KafkaAdmin(
        ConnectionSettings(
            tuple(secret["bootstrap.servers"].split(",")),
            tls=True,
            ca_pem=secret["ca.crt"],
            cert_pem=secret.get("user.crt"),
            key_pem=secret.get("user.key"),
            sasl_mechanism="SCRAM-SHA-512" if "password" in secret else None,
            username=secret["username"] if "password" in secret else None,
            password=secret.get("password"),
        )
    )


@pytest.mark.parametrize("authentication", ["TLS", "SCRAM-SHA-512"])
async def test_a_user_can_do_what_its_acls_say_with_what_its_secret_holds(here: World, authentication: str) -> None:
    name = f"writer-{authentication[:3].lower()}"
    acls = [
        {"resource": "Topic", "name": "orders", "operations": ["Write", "Read", "Describe"]},
        {"resource": "Group", "name": "any", "operations": ["Read"]},
    ]
    key = await here.apply("User", name, {"authentication": authentication, "acls": acls})
    await here.settle(key)
    assert await here.condition(key) == ("True", "Ready")
    secret = await here.secret(f"{name}-kafka")
    assert await asyncio.to_thread(produce, config_in(secret, "librdkafka-producer.json"), "orders") is None
    assert await asyncio.to_thread(consume, config_in(secret, "librdkafka.json"), "orders") == b"value"
    before, version = here.writes(), (await here.body(key))["metadata"]["resourceVersion"]
    here.restart()
    await here.settle(key)
    assert here.writes() == before
    assert (await here.body(key))["metadata"]["resourceVersion"] == version
    await here.apply("User", name, {"authentication": authentication})
    await here.settle(key)

    async def refused() -> bool:
        return bool(await asyncio.to_thread(produce, config_in(secret, "librdkafka-producer.json"), "orders"))

    await eventually(refused)


@pytest.mark.skipif(not JAVA_COMPILER, reason="this Java has no compiler for the client")
@pytest.mark.parametrize("authentication", ["TLS", "SCRAM-SHA-512"])
async def test_java_clients_can_use_the_properties_as_they_are(
    here: World, guarded: KafkaCluster, tmp_path: Path, authentication: str
) -> None:
    acls = [{"resource": "Topic", "name": "orders", "operations": ["Describe"]}]
    name = f"java-{authentication[:3].lower()}"
    key = await here.apply("User", name, {"authentication": authentication, "acls": acls})
    await here.settle(key)
    secret = await here.secret(f"{name}-kafka")
    assert secret is not None
    (tmp_path / "client.properties").write_text(secret["client.properties"])
    (tmp_path / "ListTopics.java").write_text(LIST_TOPICS)
    command = [*java(guarded.version), str(tmp_path / "ListTopics.java"), str(tmp_path / "client.properties")]
    process = Process(command, tmp_path / "java.log")
    code = await asyncio.to_thread(process.wait)
    text = (tmp_path / "java.log").read_text()
    assert code == 0, text
    assert "topics: [orders]" in text


async def test_rights_are_exactly_those_listed(here: World) -> None:
    key = await here.apply("User", "exact", {"acls": READ})
    await here.settle(key)
    by_hand = AclBinding("Topic", "orders", "Literal", "User:exact", "*", "Delete", "Allow")
    await here.admin.create_acls([by_hand])

    async def seen() -> bool:
        return by_hand in await here.admin.describe_acls("User:exact")

    await eventually(seen)
    await here.settle(key)

    async def exact() -> bool:
        return {acl.operation for acl in await here.admin.describe_acls("User:exact")} == {"Read", "Describe"}

    await eventually(exact)


async def test_quotas_are_set_and_removed(here: World) -> None:
    key = await here.apply("User", "thrifty", {"quotas": {"producerByteRate": 1000, "requestPercentage": 50}})
    await here.settle(key)

    async def set_() -> bool:
        found = await here.admin.describe_user_quotas(["thrifty"])
        return found == {"thrifty": {"producer_byte_rate": 1000.0, "request_percentage": 50.0}}

    await eventually(set_)
    await here.apply("User", "thrifty", {"quotas": {"producerByteRate": 2000}})
    await here.settle(key)

    async def changed() -> bool:
        return await here.admin.describe_user_quotas(["thrifty"]) == {"thrifty": {"producer_byte_rate": 2000.0}}

    await eventually(changed)


async def test_a_certificate_is_renewed_after_two_thirds_of_its_life_and_when_the_authority_changes(
    here: World, guarded: KafkaCluster
) -> None:
    key = await here.apply("User", "old", {})
    outcome = (await here.reconcile(key))[key]
    assert isinstance(outcome, Outcome)
    assert outcome.requeue_after is not None
    first = (await here.secret("old-kafka") or {})["user.crt"]
    assert x509.load_pem_x509_certificate(first.encode()).subject.rfc4514_string() == "CN=old"
    await here.settle(key)
    assert (await here.secret("old-kafka") or {})["user.crt"] == first
    authority = make_authority("another", here.now)
    await here.kube.delete("v1", "Secret", here.namespace, "demo-clients-ca")
    await here.make_secret("demo-clients-ca", {"ca.crt": authority.cert_pem, "ca.key": authority.key_pem})
    await here.settle(key)
    second = (await here.secret("old-kafka") or {})["user.crt"]
    assert second != first
    here.now += timedelta(days=240)
    await here.settle(key)
    assert (await here.secret("old-kafka") or {})["user.crt"] == second
    here.now += timedelta(days=5)
    await here.settle(key)
    assert (await here.secret("old-kafka") or {})["user.crt"] != second


async def test_a_password_survives_and_a_changed_one_is_told_to_kafka(here: World) -> None:
    key = await here.apply("User", "secretive", {"authentication": "SCRAM-SHA-512"})
    await here.settle(key)
    secret = await here.secret("secretive-kafka")
    assert secret is not None
    await here.kube.patch(
        "v1", "Secret", here.namespace, "secretive-kafka", {"data": {"password": "Y2hvc2VuLWJ5LWhhbmQ="}}
    )
    await here.settle(key)
    changed = await here.secret("secretive-kafka")
    assert changed is not None
    assert changed["password"] == "chosen-by-hand"
    assert "chosen-by-hand" in changed["client.properties"]

    async def logs_in() -> bool:
        admin = admin_as(changed)
        try:
            return bool((await admin.describe_cluster()).brokers)
        except KafkaError:
            return False
        finally:
            await admin.close()

    await eventually(logs_in)
    former = admin_as(secret)
    with pytest.raises(KafkaError, match=r"credentials (are not|may not be) accepted"):
        await former.describe_cluster()
    await former.close()


async def test_a_user_that_goes_leaves_nothing_behind(here: World) -> None:
    key = await here.apply(
        "User",
        "leaver",
        {"authentication": "SCRAM-SHA-512", "acls": READ, "quotas": {"consumerByteRate": 5}},
    )
    await here.settle(key)
    await here.delete(key)
    await here.settle(key)
    assert await here.secret("leaver-kafka") is None
    assert await here.kube.get("sluice.dev/v1alpha1", "User", here.namespace, "leaver") is None

    async def gone() -> bool:
        return not (
            await here.admin.describe_acls("User:leaver")
            or await here.admin.describe_scram(["leaver"])
            or await here.admin.describe_user_quotas(["leaver"])
        )

    await eventually(gone)


async def test_credentials_outlive_a_pruned_cluster_and_are_adopted(here: World) -> None:
    key = await here.apply("User", "kept", {})
    await here.settle(key)
    before = await here.secret("kept-kafka")
    await here.kube.delete("sluice.dev/v1alpha1", "MessagingCluster", here.namespace, "demo")
    await here.delete(key)
    await here.settle(key)
    assert await here.kube.get("sluice.dev/v1alpha1", "User", here.namespace, "kept") is None
    assert await here.secret("kept-kafka") == before


async def test_a_secret_of_somebody_else_is_left_alone(here: World) -> None:
    await here.make_secret("taken", {"precious": "data"})
    key = await here.apply("User", "greedy", {"secretName": "taken"})
    result = (await here.reconcile(key))[key]
    assert isinstance(result, UserError)
    assert result.reason is Reason.CONFLICT
    assert await here.secret("taken") == {"precious": "data"}


async def test_a_principal_that_somebody_else_made_is_taken_over_only_with_consent(here: World) -> None:
    await here.admin.upsert_scram("settled", "former", "SCRAM-SHA-256")
    by_hand = AclBinding("Topic", "orders", "Literal", "User:settled", "*", "TwoPhaseCommit", "Allow")
    by_hand = by_hand._replace(resource="TransactionalId")
    await here.admin.create_acls([by_hand])

    async def there() -> bool:
        return bool(await here.admin.describe_scram(["settled"])) and by_hand in await here.admin.describe_acls()

    await eventually(there)
    spec = {"authentication": "SCRAM-SHA-512", "acls": READ}
    key = await here.apply("User", "settled", spec)
    result = (await here.reconcile(key))[key]
    assert isinstance(result, UserError)
    assert result.reason is Reason.CONFLICT
    assert "passwords (SCRAM) and ACLs" in result.message
    assert await here.secret("settled-kafka") is None
    assert await here.admin.describe_acls("User:settled") == {by_hand}
    await here.apply("User", "settled", {**spec, "adoptExisting": True})
    await here.settle(key)

    async def taken() -> bool:
        acls = {acl.operation for acl in await here.admin.describe_acls("User:settled")}
        scram = await here.admin.describe_scram(["settled"])
        return acls == {"Read", "Describe"} and scram == {"settled": frozenset({"SCRAM-SHA-512"})}

    await eventually(taken)


async def test_the_secret_can_be_renamed_and_the_password_stays(here: World) -> None:
    key = await here.apply("User", "mover", {"authentication": "SCRAM-SHA-512"})
    await here.settle(key)
    before = await here.secret("mover-kafka")
    await here.apply("User", "mover", {"authentication": "SCRAM-SHA-512", "secretName": "elsewhere"})
    await here.settle(key)
    assert await here.secret("elsewhere") == before
    assert await here.secret("mover-kafka") is None


async def test_one_principal_has_one_user(here: World) -> None:
    first = await here.apply("User", "a", {"userName": "same"})
    await here.settle(first)
    await asyncio.sleep(1.1)  # creation times have whole seconds
    second = await here.apply("User", "b", {"userName": "same"})
    result = (await here.reconcile(first, second))[second]
    assert isinstance(result, UserError)
    assert result.reason is Reason.CONFLICT


async def test_many_users_take_a_handful_of_requests_to_look_at(here: World) -> None:
    keys = [await here.apply("User", f"many-{number}", {"acls": READ}) for number in range(20)]
    await here.settle(*keys)
    here.kafka_requests.clear()
    await here.settle(*keys)
    assert sum(here.kafka_requests.values()) <= 3


async def test_certificates_cannot_be_made_for_an_external_cluster(kubeconfig: Path, guarded: KafkaCluster) -> None:
    async with world(kubeconfig, guarded) as here:
        key = await here.apply("User", "outsider", {})
        result = (await here.reconcile(key))[key]
        assert isinstance(result, UserError)
        assert "SCRAM-SHA-512" in result.message
