"""Configuration of topics and brokers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka.protocol.admin import DescribeConfigsRequest, IncrementalAlterConfigsRequest

from sluice.kafka.admin_topics import Results, describe_topics_request
from sluice.kafka.errors import Answers, check, code_name, from_code
from sluice.kafka.requests import Channel, chunks
from sluice.plan.observed import ConfigValue

TOPIC: Final = 2
BROKER: Final = 4
SET: Final = 0
DELETE: Final = 1
TOPIC_SOURCE: Final = 1
"""``ConfigSource`` of a value set on the topic."""
BROKER_SOURCES: Final = frozenset({2, 3})
"""``ConfigSource`` of a value set dynamically on a broker, or as default of all."""
BROKER_DEFAULT_SOURCE: Final = 3
ALL_BROKERS: Final = ""
"""Name of the resource that holds the cluster-wide default of dynamic broker configuration."""


class ConfigAdmin(Channel):
    """Reads and changes configuration, only the keys that are named."""

    async def describe_topic_configs(
        self, keys: Mapping[str, Sequence[str] | None]
    ) -> dict[str, dict[str, ConfigValue]]:
        """Values of the named keys of each topic (all keys for None); topics that don't exist are left out.

        Asking only for keys that matter makes the answer for a thousand topics some 30 times smaller.
        """
        return (await self.each_topic_config(keys)).all()

    async def each_topic_config(self, keys: Mapping[str, Sequence[str] | None]) -> Answers[str, dict[str, ConfigValue]]:
        """As `describe_topic_configs`, each topic with its own error."""
        answers: Answers[str, dict[str, ConfigValue]] = Answers()
        for chunk in chunks(list(keys.items())):
            request = describe_configs_request([(TOPIC, name, wanted) for name, wanted in chunk])
            response = await self.read(request, "topic configurations")
            for result in response.results:
                name = result.resource_name
                if not result.error_code:
                    answers.found[name] = _values(result, {TOPIC_SOURCE})
                elif code_name(result.error_code) != "UNKNOWN_TOPIC_OR_PARTITION":
                    what = f"configuration of topic {name}"
                    answers.errors[name] = from_code(result.error_code, what, result.error_message)
        return answers

    async def topics_fingerprint(self, keys: Mapping[str, Sequence[str]]) -> bytes:
        """Changes when the placement of these topics or the value of one of their keys does (or by chance: a broker's
        answer also names a random controller, so a few values mean the same)."""
        digest = hashlib.sha256()
        for chunk in chunks(list(keys.items())):
            digest.update(await self.read_raw(describe_topics_request([name for name, _ in chunk]), "topics"))
            wanted = [(TOPIC, name, keys_of) for name, keys_of in chunk if keys_of]
            if wanted:
                digest.update(await self.read_raw(describe_configs_request(wanted), "topic configurations"))
        return digest.digest()

    async def alter_topic_configs(self, changes: Mapping[str, Mapping[str, str | None]]) -> Results:
        """Set keys of topics, or reset them to the cluster's default (None); other keys stay (KIP-339)."""
        return await self._alter(TOPIC, changes, "topic", node=None)

    async def describe_broker_configs(self, brokers: Sequence[int]) -> dict[int, dict[str, ConfigValue]]:
        """All values in effect on each broker; ``overridden`` are those set dynamically, on it or as default of all."""
        found: dict[int, dict[str, ConfigValue]] = {}
        for broker in brokers:
            request = describe_configs_request([(BROKER, str(broker), None)])
            response = await self.read(request, f"configuration of broker {broker}", node=broker)
            for result in response.results:
                check(result.error_code, f"configuration of broker {broker}", result.error_message)
                found[broker] = _values(result, BROKER_SOURCES)
        return found

    async def describe_broker_defaults(self) -> dict[str, ConfigValue]:
        """Dynamic configuration that is set as default of all brokers."""
        request = describe_configs_request([(BROKER, ALL_BROKERS, None)])
        response = await self.read(request, "configuration of all brokers")
        values: dict[str, ConfigValue] = {}
        for result in response.results:
            check(result.error_code, "configuration of all brokers", result.error_message)
            values |= _values(result, {BROKER_DEFAULT_SOURCE})
        return values

    async def alter_broker_configs(self, changes: Mapping[str, str | None], *, broker: int | None = None) -> None:
        """Set or reset (None) dynamic configuration of one broker, or the default of all (``broker`` None).

        Setting a keystore's path to what it is makes the broker read the file again. It answers success even when it
        couldn't use the new store: only a handshake proves it.

        Raises:
            KafkaRefusedError: Kafka doesn't accept a value, or the key can't be changed while it runs.
        """
        name = ALL_BROKERS if broker is None else str(broker)
        what = "all brokers" if broker is None else "broker"
        for error in (await self._alter(BROKER, {name: changes}, what, node=broker)).values():
            if error is not None:
                raise error

    async def _alter(
        self, kind: int, changes: Mapping[str, Mapping[str, str | None]], what: str, *, node: int | None
    ) -> Results:
        resource = IncrementalAlterConfigsRequest.AlterConfigsResource
        results: Results = {}
        for chunk in chunks(list(changes.items())):
            request = IncrementalAlterConfigsRequest(
                resources=[
                    resource(
                        resource_type=kind,
                        resource_name=name,
                        configs=[
                            resource.AlterableConfig(
                                name=key, config_operation=DELETE if value is None else SET, value=value
                            )
                            for key, value in entries.items()
                        ],
                    )
                    for name, entries in chunk
                ],
                validate_only=False,
            )
            response = await self.write(request, f"{what} configurations", node=node)
            for result in response.responses:
                thing = f"{what} {result.resource_name}".rstrip()
                results[result.resource_name] = (
                    from_code(result.error_code, thing, result.error_message) if result.error_code else None
                )
        return results


def describe_configs_request(resources: Sequence[tuple[int, str, Sequence[str] | None]]) -> DescribeConfigsRequest:
    """Ask for the configuration of ``(type, name, keys)``."""
    resource = DescribeConfigsRequest.DescribeConfigsResource
    return DescribeConfigsRequest(
        resources=[
            resource(
                resource_type=kind,
                resource_name=name,
                configuration_keys=None if keys is None else list(keys),
            )
            for kind, name, keys in resources
        ],
        include_synonyms=False,
        include_documentation=False,
        min_version=1,
    )


def _values(result: Any, overriding: set[int] | frozenset[int]) -> dict[str, ConfigValue]:
    return {
        config.name: ConfigValue(
            value=config.value,
            overridden=config.config_source in overriding,
            read_only=config.read_only,
            sensitive=config.is_sensitive,
        )
        for config in result.configs
    }
