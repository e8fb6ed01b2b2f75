"""One attempt at a shard: fence predecessors, read the position, and copy in bounded transactions.

A session never repairs itself. On any doubt it is given up as if the process had died, and the next one goes on from
the committed position; what makes a SIGKILL safe makes everything else safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError
from sluice.plan.observed import TopicPartition
from sluice.replay.assignment import Assignment, Slice, TopicRoute
from sluice.replay.cluster import ReplayCluster, as_doubt
from sluice.replay.errors import DoubtError, FencedError, GaveUpError, PositionLostError, ReplayError
from sluice.replay.partition import PartitionCopy
from sluice.replay.positions import Counts
from sluice.replay.selection import Selection
from sluice.replay.source import Source
from sluice.replay.target import Target
from sluice.replay.together import together
from sluice.replay.transaction import NOBODY, Identity, Position, Transactions

log = logging.getLogger(__name__)

_RECOMMIT_SECONDS: Final = 600.0
"""Positions expire from their own commit on, so that those that don't move are committed again from time to time."""
_ABORT_SECONDS: Final = 5.0
_SHORTEST_WAIT: Final = 0.001
_LONGEST_WAIT: Final = 1.0


class Session:
    """One attempt; ``run`` returns when every partition of the shard is at its end, or when asked to stop."""

    def __init__(
        self,
        assignment: Assignment,
        shard: int,
        source_settings: Callable[[], ConnectionSettings],
        target_settings: Callable[[], ConnectionSettings],
        on_progress: Callable[[], None],
        previous: Identity = NOBODY,
    ) -> None:
        """``previous`` is the identity of this process's former session."""
        self._assignment = assignment
        self._shard = shard
        self._limits = assignment.limits
        self._on_progress = on_progress
        self._stop = False
        self._wake = asyncio.Event()
        self._source_cluster = ReplayCluster(source_settings, "source")
        self._target_cluster = ReplayCluster(target_settings, "target")
        self._transactions = Transactions(
            self._target_cluster,
            assignment.transactional_id(shard),
            assignment.group,
            self._limits.transaction_timeout_ms,
            previous,
        )
        self._error: Exception | None = None
        self._moved = time.monotonic()
        self._transaction_start: float | None = None
        self._recommitted = time.monotonic()
        self.partitions: list[PartitionCopy] = []

    @property
    def identity(self) -> Identity:
        """Who we are, for the session after this one."""
        return self._transactions.identity

    @property
    def counts(self) -> Counts:
        """What has been written for this shard's partitions, in all sessions of all workers."""
        return sum((p.counts for p in self.partitions), Counts())

    def stop(self) -> None:
        """Commit what has been written, then return."""
        self._stop = True
        self._wake.set()

    async def run(self) -> bool:
        """Copy to the end; False if stopped before.

        Raises:
            DoubtError: start another session.
            ReplayError: it can't go on.
        """
        try:
            await self._open()
            try:
                return await self._copy_while_fetching()
            except FencedError:
                raise
            except ReplayError:
                await self._leave_nothing_open()
                raise
        except (KafkaUnreachableError, KafkaRefusedError) as error:
            raise as_doubt(error) from error
        finally:
            self._source_cluster.close()
            self._target_cluster.close()

    async def _open(self) -> None:
        routes = self._assignment.routes
        await together(self._source_cluster.start(), self._target_cluster.start())
        # The order is what makes it exact: first nobody else can write or commit, then the position is read.
        await together(
            self._transactions.start(),
            self._source_cluster.load((r.source, r.source_id) for r in routes),
            self._target_cluster.load((r.target, r.target_id) for r in routes),
        )
        slices = [s for s in self._assignment.slices if s.shard == self._shard]
        committed = await self._transactions.positions(
            TopicPartition(routes[s.topic].positions, s.partition) for s in slices
        )
        self.partitions += [self._partition(routes[s.topic], s, committed) for s in slices]
        self._source = Source(self._source_cluster, self.partitions, self._limits, self._fetched)
        self._target = Target(self._target_cluster, self.partitions, self._transactions, self._limits, self._answered)
        await self._target.connect()

    def _partition(self, route: TopicRoute, s: Slice, committed: Mapping[TopicPartition, Position]) -> PartitionCopy:
        committed_as = TopicPartition(route.positions, s.partition)
        position = committed[committed_as]
        if not s.start <= position.offset <= s.end:
            raise PositionLostError(
                f"group {self._assignment.group} stands at offset {position.offset} of {committed_as}, outside of the"
                f" range from {s.start} to {s.end} that is copied: somebody moved it. Find out how far the target is,"
                " and make another ReplayJob from there"
            )
        source = TopicPartition(route.source, s.partition)
        return PartitionCopy(
            route=route,
            source=source,
            target=TopicPartition(route.target, s.partition),
            committed_as=committed_as,
            selection=Selection(
                end=s.end,
                from_ms=self._assignment.from_ms,
                to_ms=self._assignment.to_ms,
                max_batch_bytes=route.max_batch_bytes,
                where=str(source),
                rules=self._assignment.rules,
                source=f"{source.topic}/{source.partition}",
            ),
            position=position.offset,
            counts=position.counts,
            committed=position.offset,
            fetch_offset=position.offset,
        )

    # -- copying ------------------------------------------------------------------------------------------------------

    async def _copy_while_fetching(self) -> bool:
        fetching = asyncio.create_task(self._source.run())
        fetching.add_done_callback(self._fetching_ended)
        try:
            return await self._copy()
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    async def _copy(self) -> bool:
        while True:
            self._check()
            self._wake.clear()
            finished = all(p.done for p in self.partitions)
            closing = self._stop or finished or self._full()
            if not closing:
                await self._target.send()
                self._start_clock()
                closing = self._full()
            if closing:
                await self._commit()
                if finished or self._stop:
                    return finished
                continue
            await self._wait(self._time_left())

    def _start_clock(self) -> None:
        """From the first move on; positions that moved without anything to write (markers, records left out), too."""
        if self._transaction_start is None and any(p.dirty for p in self.partitions):
            self._transaction_start = time.monotonic()

    def _full(self) -> bool:
        if self._transaction_start is None:
            return self._recommit_due()
        age = time.monotonic() - self._transaction_start
        return self._target.full or age * 1000 >= self._limits.transaction_ms

    def _recommit_due(self) -> bool:
        return time.monotonic() - self._recommitted > _RECOMMIT_SECONDS

    def _time_left(self) -> float:
        """Until the open transaction is old enough to end, in seconds."""
        if self._transaction_start is None:
            return _LONGEST_WAIT
        left = self._transaction_start + self._limits.transaction_ms / 1000 - time.monotonic()
        return min(max(_SHORTEST_WAIT, left), _LONGEST_WAIT)

    async def _wait(self, seconds: float) -> None:
        """Until something was answered or fetched, or ``seconds`` have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _commit(self) -> None:
        """Let records and positions commit together.

        Positions go out while the last records may still be on their way. That is exact all the same: positions are
        pending like records until the transaction ends, and it ends well only after every record was acknowledged.
        """
        recommit = self._recommit_due()
        moving = [p for p in self.partitions if p.dirty or recommit]
        if not moving:
            return
        positions = {p.committed_as: p.as_position() for p in moving}
        await self._transactions.commit_positions(positions)
        await self._drain()
        fresh = await self._transactions.end()
        for p in moving:
            p.committed = positions[p.committed_as].offset
        self._target.ended(fresh=fresh)
        self._transaction_start = None
        if recommit:
            self._recommitted = time.monotonic()
        self._on_progress()

    async def _drain(self) -> None:
        """Until everything that was sent is acknowledged."""
        while self._target.in_flight:
            self._wake.clear()
            self._check()
            await self._wait(_LONGEST_WAIT)
        self._check()

    async def _leave_nothing_open(self) -> None:
        """Abort before the worker gives up: readers of the target wait for an open transaction, up to its timeout."""
        try:
            async with asyncio.timeout(_ABORT_SECONDS):
                while self._target.in_flight:  # what arrives after the end could begin another transaction
                    self._wake.clear()
                    await self._wake.wait()
                await self._transactions.abort()
        except (TimeoutError, DoubtError, ReplayError, KafkaUnreachableError, KafkaRefusedError) as error:
            log.warning(
                "the transaction isn't aborted, and holds up readers of the target for up to %d s: %s",
                self._limits.transaction_timeout_ms / 1000,
                str(error) or "no answer in time",
            )

    def _fetched(self) -> None:
        self._moved = time.monotonic()
        self._wake.set()

    def _answered(self, size: int) -> None:
        if size:
            self._moved = time.monotonic()
            self._source.release(size)
        self._wake.set()

    def _check(self) -> None:
        """Raise what went wrong meanwhile."""
        if error := self._error or self._target.error:
            raise error
        idle = time.monotonic() - self._moved
        if idle > self._limits.stall_seconds:
            waiting = [f"{p.source} at offset {p.fetch_offset} of {p.end}" for p in self.partitions if not p.done]
            raise GaveUpError(
                f"nothing moved for {idle:.0f} s: {', '.join(waiting[:5])}. Either the source lost records that were"
                " there when the range was frozen, or a transaction holds them back, or the target takes none"
            )

    def _fetching_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._error = error if isinstance(error, Exception) else DoubtError(repr(error))
        self._wake.set()
