"""The loop: takes due keys lane by lane, has them reconciled, and turns outcomes into status and the next look."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.objects import InvalidSpecError, Key, Resource, parse
from sluice.engine import status
from sluice.engine.errors import NotLeaderError, UserError, WaitingError
from sluice.engine.finalizers import let_go
from sluice.engine.queue import Batch, Lane, Schedule
from sluice.engine.reconciler import Context, Outcome, Reconciler
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.kube.errors import ForbiddenError, KubeError
from sluice.observability.logs import reconcile_id

_LOG = logging.getLogger(__name__)

FAILURES_TOLD: Final = 3
"""From this many failures in a row on, the world's errors are told in the condition of an object that was Ready."""
_REFUSED_RETRY: Final = 300.0
"""Seconds until something that Kafka refused is tried again: what made it refuse may have been put right there."""
_DEADLINE: Final = 900.0
"""Seconds after which a reconciliation counts as stuck and is ended (the next one continues)."""
_TOLD: Final = (UserError, WaitingError, KafkaRefusedError, NotLeaderError)
"""What the object's condition says, or what is nobody's error."""
_STOP_GRACE: Final = 20.0
"""Seconds that running reconciliations have to finish when the operator stops."""


class Workers:
    """Runs reconcilers for due keys, while this replica leads.

    Keys can be added at any time; while this replica doesn't lead they are ignored, since a new leader looks at
    everything anyway.
    """

    def __init__(self, *, concurrency: int, queue_limit: int, chance: random.Random | None = None) -> None:
        self._schedule = Schedule(chance)
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._concurrency = concurrency
        self._limit = queue_limit
        self._reconcilers: dict[str, Reconciler] = {}
        self._context: Context | None = None
        self._leads = False
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._ids = itertools.count(1)

    def equip(self, context: Context, reconcilers: Iterable[Reconciler]) -> None:
        """Give what was made later: the context (which knows ``enqueue``) and the reconcilers."""
        self._context = context
        self._reconcilers = {reconciler.kind: reconciler for reconciler in reconcilers}

    @property
    def context(self) -> Context:
        """The context; there is one from ``equip`` on."""
        if self._context is None:
            raise RuntimeError("Workers.equip must be called before anything runs")
        return self._context

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing is due."""
        return not self._running and self._schedule.depth() == 0

    def enqueue(self, key: Key, delay: float = 0.0) -> None:
        """Have a look at this object soon, or in ``delay`` seconds."""
        if not self._leads or key.kind not in self._reconcilers:
            return
        now = asyncio.get_running_loop().time()
        self._schedule.add(key, self._lane(key), now + delay, now)
        self._wake.set()

    def enqueue_all(self, spread: float = 0.0) -> None:
        """Have a look at every object that is known, within ``spread`` seconds; keys of a lane stay together."""
        for kind, reconciler in self._reconcilers.items():
            delays: dict[str, float] = {}
            for key in self.context.index.keys(kind):
                delay = delays.setdefault(reconciler.lane(key), self._chance.uniform(0.0, spread))
                self.enqueue(key, delay)

    async def room(self) -> None:
        """Wait while too much is due: a full queue slows whoever fills it."""
        while self._leads and not self._stopping and self._schedule.depth() > self._limit:
            self._drained.clear()
            await self._drained.wait()

    def lead(self, leads: bool) -> None:
        """This replica has become, or is no longer, the leader."""
        self._leads = leads
        if leads:
            self.enqueue_all()
        else:
            self._schedule.clear()
        self._drained.set()
        self._wake.set()

    async def run(self) -> None:
        """Hand out due keys until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._leads and not self._stopping and len(self._running) < self._concurrency:
                batch = self._schedule.take(loop.time())
                if batch is None:
                    break
                task = loop.create_task(self._work(batch), name=f"reconcile {batch.lane.kind} {batch.lane.name}")
                self._running.add(task)
                task.add_done_callback(self._ended)
            self._measure()
            due = self._schedule.next_due(loop.time()) if len(self._running) < self._concurrency else None
            timeout = None if due is None or not self._leads or self._stopping else max(0.0, due - loop.time())
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Take nothing new, let what runs finish (in bounded time), then end it."""
        self._stopping = True
        self._drained.set()
        self._wake.set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_STOP_GRACE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=5)

    def _lane(self, key: Key) -> Lane:
        """The key's lane by now: it may have become another since the key was taken, as by a deletion."""
        return Lane(key.kind, self._reconcilers[key.kind].lane(key))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s: the engine itself failed: %s", task.get_name(), error, exc_info=error)

    def _measure(self) -> None:
        depths = self._schedule.depth_by_kind()
        for kind in self._reconcilers:
            self.context.metrics.queue_depth.labels(kind).set(depths.get(kind, 0))
        if self._schedule.depth() <= self._limit:
            self._drained.set()

    async def _work(self, batch: Batch) -> None:
        """Reconcile a batch; whatever happens, its lane is given back and every key has its next look."""
        reconcile_id.set(f"{batch.lane.kind.lower()}-{next(self._ids)}")
        loop = asyncio.get_running_loop()
        started = loop.time()
        results: dict[Key, Outcome | Exception] = {}
        try:
            keys = [key for key in batch.keys if await self._passes(key, results)]
            if keys:
                results.update(await self._reconcile(batch.lane.kind, keys))
            self._log(results)
            await self._settle_all(results)
        finally:
            self._schedule.done(batch.lane)
            self.context.metrics.reconcile_seconds.labels(batch.lane.kind).observe(loop.time() - started)

    async def _settle_all(self, results: Mapping[Key, Outcome | Exception]) -> None:
        """Settle each key for itself: one whose status can't be written is tried again, and troubles no other."""
        # One stretch for all: what waits together is looked at together again, in one batch.
        stretch = self._chance.uniform(0.8, 1.2)
        unwritten: dict[Key, Outcome | Exception] = {}
        for key, result in results.items():
            try:
                outcome = await self._settle(key, result, stretch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the key has its next look
                unwritten[key] = error
                outcome = "error"
                self._schedule.failed(key, self._lane(key), asyncio.get_running_loop().time())
            self.context.metrics.reconciles.labels(key.kind, outcome).inc()
        self._log(unwritten)

    async def _reconcile(self, kind: str, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        try:
            async with asyncio.timeout(_DEADLINE):
                results = await self._reconcilers[kind].reconcile(keys)
        except Exception as error:  # noqa: BLE001 - every error is classified by _settle
            return dict.fromkeys(keys, error)
        return {key: results.get(key, Outcome()) for key in keys}

    async def _passes(self, key: Key, results: dict[Key, Outcome | Exception]) -> bool:
        """Whether the reconciler should see this key; what the engine answers by itself goes into ``results``."""
        body = self.context.index.get(key)
        if body is None:
            return True
        try:
            resource = parse(body)
            if not resource.paused or resource.deleting:
                return True
            await status.write_paused(self.context, resource)
        except InvalidSpecError as error:
            results[key] = UserError(Reason.INVALID_SPEC, f"the spec can't be read: {error}")
        except Exception as error:  # noqa: BLE001 - classified by _settle
            results[key] = error
        else:
            results[key] = Outcome()
        return False

    async def _settle(self, key: Key, result: Outcome | Exception, stretch: float) -> str:
        """Turn one outcome into condition, metrics and the next look; returns the metrics' word for it.

        What is told comes first: if that fails, nothing else is done yet. ``stretch`` is the jitter of calm retries.
        """
        match result:
            case Outcome(requeue_after=after):
                self._date(key)
                self._calm(key, after)
                return "success"
            case WaitingError(retry_after=after):
                await self._tell(key, result.reason, result.message, stalled=False)
                self._calm(key, after * stretch)
                return "waiting"
            case UserError() | KafkaRefusedError():
                await self._tell(key, result.reason, result.message, stalled=True)
                self._calm(key, _REFUSED_RETRY * stretch if isinstance(result, KafkaRefusedError) else None)
                return "user_error"
            case NotLeaderError():
                outcome = "not_leader"
            case _:
                outcome = "error"
                if self._is_worth_telling(key) and not _terminating(result):
                    await self._tell(key, *_explain(result), stalled=False)
        self._schedule.failed(key, self._lane(key), asyncio.get_running_loop().time())
        return outcome

    def _is_worth_telling(self, key: Key) -> bool:
        """A hiccup is kept from what is Ready; whoever waits for an object to become so is told at once."""
        resource = self._readable(key)
        ready = resource is not None and any(
            c.type == "Ready" and c.status == "True" for c in resource.status.conditions
        )
        return not ready or self._schedule.failures(key) + 1 >= FAILURES_TOLD

    def _calm(self, key: Key, after: float | None) -> None:
        """Forget the key's failures; look at it again in ``after`` seconds, or when something happens."""
        self._schedule.succeeded(key)
        if after is not None:
            now = asyncio.get_running_loop().time()
            self._schedule.add(key, self._lane(key), now + after, now)

    def _date(self, key: Key) -> None:
        """Measure when the object was last reconciled well, as long as there is one."""
        metrics = self.context.metrics
        if self.context.index.get(key) is None:
            metrics.forget(key)
        else:
            labels = (key.kind, key.namespace, key.name)
            metrics.replace(key, metrics.last_success, {labels: self.context.clock().timestamp()})

    async def _tell(self, key: Key, reason: Reason, message: str, *, stalled: bool) -> None:
        """Write the condition of an object that isn't as it should be, and an Event if that is news."""
        resource = self._readable(key)
        if resource is None:
            return
        if reason is Reason.INVALID_SPEC and resource.deleting:
            # Nothing can be undone by a spec that can't be read, and the object must not hang for ever.
            await let_go(self.context, resource)
            return
        build = status.stalled if stalled else status.reconciling
        before = {(c.type, c.status, c.reason) for c in resource.status.conditions}
        conditions = build(resource, self.context.clock(), reason, message)
        await status.write_conditions(self.context, resource, conditions)
        if stalled and not before.issuperset((c.type, c.status, c.reason) for c in conditions):
            self.context.events.publish(resource, "Warning", reason, message)

    def _readable(self, key: Key) -> Resource[Any, Any] | None:
        """The object as it is known; with an empty spec where the stored one can't be read."""
        body = self.context.index.get(key)
        if body is None:
            return None
        try:
            return parse(body)
        except InvalidSpecError:
            return status.without_spec(body)

    def _log(self, results: Mapping[Key, Outcome | Exception]) -> None:
        """Log the world's errors; one that many objects share, as when Kafka is down, is one line."""
        shared: dict[tuple[type[Exception], str], list[Key]] = {}
        for key, result in results.items():
            if isinstance(result, Exception) and not isinstance(result, _TOLD):
                shared.setdefault((type(result), str(result)), []).append(key)
        for (kind, text), keys in shared.items():
            first = keys[0]
            extra = {"kind": first.kind, "namespace": first.namespace, "object": first.name, "count": len(keys)}
            if issubclass(kind, (KafkaUnreachableError, KubeError, TimeoutError)):
                _LOG.warning("%s: %s", first, text or kind.__name__, extra=extra)
            else:
                error = results[first]
                trace = error if isinstance(error, Exception) else None
                _LOG.error("%s: %s: %s", first, kind.__name__, text, extra=extra, exc_info=trace)


def _terminating(error: Exception) -> bool:
    return isinstance(error, ForbiddenError) and error.namespace_terminating


def _explain(error: Exception) -> tuple[Reason, str]:
    """Reason and sentence of an error of the world's."""
    if isinstance(error, KafkaUnreachableError):
        return Reason.KAFKA_UNREACHABLE, error.message
    if isinstance(error, KubeError):
        return Reason.INTERNAL_ERROR, f"the Kubernetes API refuses or doesn't answer, it is tried again: {error}"[:1000]
    # The text of an error that nobody foresaw may hold anything; the log is for those who may read it.
    return Reason.INTERNAL_ERROR, f"{type(error).__name__}, it is tried again; the operator's log says more"
