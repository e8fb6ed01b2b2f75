"""The probe: a record is written through every broker all the time, read back and committed, and the time measured."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from sluice.api.objects import Key
from sluice.engine.errors import NotLeaderError
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaError
from sluice.kafka.probe import PROBE_GROUP, ProbeClient
from sluice.observability.probe import ProbeMetrics
from sluice.plan.probe import plan_probe

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
"""How often the topic is looked at although nothing failed: leaders move, and nobody tells us."""
OPERATION_SECONDS: Final = 10.0
"""When one operation counts as failed: the last bucket of the histograms."""
NO_BROKER: Final = ""
"""Label of errors that are no single broker's."""
INTERNAL: Final = "internal"
"""Operation of errors that nobody has foreseen: faults of the probe's own."""


@dataclass
class _Probe:
    """One cluster that is probed."""

    key: Key
    settings: ConnectionSettings
    interval: float
    brokers: tuple[int, ...]
    client: ProbeClient
    routes: Mapping[int, int] = field(default_factory=dict)
    looked: float | None = None
    """When the topic was last looked at; None: it must be before the next round."""
    failing: set[str] = field(default_factory=set)
    """Operations that failed in the last round: what changes is logged, not what stays."""
    task: asyncio.Task[None] | None = None


class Prober:
    """Probes any number of clusters from one event loop, over connections that are kept."""

    def __init__(
        self,
        metrics: ProbeMetrics,
        *,
        fence: Callable[[], None] = lambda: None,
        on_request: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``fence`` and ``on_request`` are those of every Kafka client: see `sluice.kafka.requests.Channel`."""
        self._metrics = metrics
        self._fence = fence
        self._on_request = on_request
        self._probes: dict[Key, _Probe] = {}
        self._running = False
        self._stopped = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Probe until `stop` is called or this task is cancelled."""
        self._stopped.clear()
        self._running = True
        for probe in self._probes.values():
            self._start(probe)
        try:
            await self._stopped.wait()
        finally:
            self._running = False
            for probe in self._probes.values():
                self._end(probe)
            if self._ending:
                await asyncio.wait(self._ending)

    def stop(self) -> None:
        """Let `run` end; what it probes is remembered for the next `run`."""
        self._stopped.set()

    def update(
        self, cluster: Key, settings: ConnectionSettings | None, interval: float, brokers: Sequence[int]
    ) -> None:
        """Probe ``cluster`` every ``interval`` seconds through ``brokers``; not any more if ``settings`` is None.

        ``brokers`` are those that the cluster should have, whether they are up or not. Cheap if nothing is new.
        """
        probe = self._probes.get(cluster)
        if probe is not None and (settings is None or settings != probe.settings):
            self._end(self._probes.pop(cluster))
            probe = None
            if settings is None:
                self._metrics.forget(cluster.namespace, cluster.name)
        if settings is None:
            return
        wanted = tuple(sorted(set(brokers)))
        if probe is None:
            client = ProbeClient(settings, fence=self._fence, on_request=self._on_request)
            self._probes[cluster] = probe = _Probe(cluster, settings, interval, wanted, client)
            if self._running:
                self._start(probe)
            return
        probe.interval = interval
        if wanted != probe.brokers:
            for gone in set(probe.brokers) - set(wanted):
                self._metrics.forget(cluster.namespace, cluster.name, gone)
            probe.brokers, probe.looked = wanted, None

    def clear(self) -> None:
        """Probe nothing any more, and show nothing: another replica leads."""
        for probe in self._probes.values():
            self._end(probe)
        self._probes.clear()
        self._metrics.clear()

    def _start(self, probe: _Probe) -> None:
        probe.task = asyncio.create_task(self._probe(probe), name=f"probe of {probe.key}")
        probe.task.add_done_callback(_report)

    def _end(self, probe: _Probe) -> None:
        task, probe.task = probe.task, None
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _probe(self, probe: _Probe) -> None:
        try:
            # Clusters don't all have their turn at the same moment.
            await asyncio.sleep(random.random() * min(1.0, probe.interval))  # noqa: S311
            while True:
                started = monotonic()
                await self._attempt(probe)
                await asyncio.sleep(max(0.0, probe.interval - (monotonic() - started)))
        finally:
            await probe.client.close()

    async def _attempt(self, probe: _Probe) -> None:
        """One round; whatever becomes of it, there is a next one."""
        try:
            self._fence()
            await self._round(probe)
        except NotLeaderError:
            # Another replica probes now, or will; if it is us again, the next round tells.
            logger.debug("probe of %s: this replica may not act", probe.key)
        except Exception as error:  # a probe that ended would look like a cluster that has none
            self._metrics.errors.labels(probe.key.namespace, probe.key.name, NO_BROKER, INTERNAL).inc()
            if INTERNAL not in probe.failing:
                logger.error("probe of %s: a fault of its own, it goes on: %s", probe.key, error, exc_info=error)
            probe.failing.add(INTERNAL)
            probe.looked = None

    async def _round(self, probe: _Probe) -> None:
        failed: dict[str, str] = {}
        if probe.looked is None or monotonic() - probe.looked > LOOK_SECONDS:
            await self._measure(probe, NO_BROKER, "topic", self._look(probe), failed)
        positions: dict[int, int] = {}
        await asyncio.gather(*(self._probe_broker(probe, broker, positions, failed) for broker in probe.brokers))
        if positions:
            await self._commit(probe, positions, failed)
        if failed:
            probe.looked = None
        self._log(probe, failed)

    async def _look(self, probe: _Probe) -> None:
        """See where the topic's partitions are, and put them where they should be."""
        brokers = probe.brokers
        topic = await probe.client.describe()
        plan = plan_probe(brokers, topic)
        probe.routes = plan.routes
        if plan.changes:
            await probe.client.change(plan, len(topic.partitions) if topic else 0)
            probe.routes = plan_probe(brokers, await probe.client.describe()).routes
        # After a change, while something moves, or if brokers changed under us, the next round looks again.
        settled = not plan.changes and brokers == probe.brokers and set(brokers) == set(probe.routes)
        probe.looked = monotonic() if settled else None

    async def _probe_broker(
        self, probe: _Probe, broker: int, positions: dict[int, int], failed: dict[str, str]
    ) -> None:
        partition = probe.routes.get(broker)
        if partition is None:
            self._fail(probe, str(broker), "leader", "the broker doesn't lead its partition", failed)
            return
        namespace, name = probe.key.namespace, probe.key.name
        value = os.urandom(16)
        written: list[int] = []

        async def produce() -> None:
            written.append(await probe.client.produce(broker, partition, value))

        started = monotonic()
        if not await self._measure(probe, str(broker), "produce", produce(), failed):
            return
        self._metrics.produce.labels(namespace, name, broker).observe(monotonic() - started)
        reading = probe.client.read_back(broker, partition, written[0], value)
        if not await self._measure(probe, str(broker), "end_to_end", reading, failed):
            return
        self._metrics.end_to_end.labels(namespace, name, broker).observe(monotonic() - started)
        positions[partition] = written[0] + 1

    async def _commit(self, probe: _Probe, positions: Mapping[int, int], failed: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(OPERATION_SECONDS):
                coordinator = str(await probe.client.coordinator())
        except (KafkaError, TimeoutError) as error:
            self._fail(probe, NO_BROKER, "commit", str(error) or "no answer", failed)
            return
        started = monotonic()
        if await self._measure(probe, coordinator, "commit", probe.client.commit(positions), failed):
            labels = (probe.key.namespace, probe.key.name, coordinator)
            self._metrics.commit.labels(*labels).observe(monotonic() - started)
        else:
            probe.client.forget_coordinators([PROBE_GROUP])

    async def _measure(
        self,
        probe: _Probe,
        broker: str,
        operation: str,
        work: Coroutine[object, object, None],
        failed: dict[str, str],
    ) -> bool:
        try:
            async with asyncio.timeout(OPERATION_SECONDS):
                await work
        except TimeoutError:
            self._fail(probe, broker, operation, f"no answer within {OPERATION_SECONDS:g} s", failed)
        except KafkaError as error:
            self._fail(probe, broker, operation, error.message, failed)
        else:
            return True
        return False

    def _fail(self, probe: _Probe, broker: str, operation: str, why: str, failed: dict[str, str]) -> None:
        self._metrics.errors.labels(probe.key.namespace, probe.key.name, broker, operation).inc()
        failed[f"{operation} through broker {broker}" if broker else operation] = why

    def _log(self, probe: _Probe, failed: Mapping[str, str]) -> None:
        for what in failed.keys() - probe.failing:
            logger.warning("probe of %s: %s fails: %s", probe.key, what, failed[what])
        for what in probe.failing - failed.keys():
            logger.info("probe of %s: %s works again", probe.key, what)
        probe.failing = set(failed)


def _report(task: asyncio.Task[None]) -> None:
    """A probe ends only by being cancelled; anything else is a fault of ours, and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the %s ended", task.get_name(), exc_info=error)
