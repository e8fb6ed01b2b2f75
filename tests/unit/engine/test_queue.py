"""The queue's promises, under any order of events: nothing is lost, no lane runs twice at once, one entry a key."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sluice.api.objects import Key
from sluice.engine.queue import LONGEST_BACKOFF, Batch, Lane, Schedule, backoff

LANES = [Lane("Topic", "a"), Lane("Topic", "b"), Lane("User", "a")]


def key(name: str, kind: str = "Topic") -> Key:
    """A key in a lane of its kind."""
    return Key(kind, "ns", name)


class QueueMachine(RuleBasedStateMachine):
    """Adds, takes and ends batches in any order, and compares with a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.schedule = Schedule(random.Random(1))  # noqa: S311
        self.running: dict[Lane, Batch] = {}
        self.owed: dict[Key, tuple[float, float]] = {}  # key → when it may, and when it must be looked at
        self.lanes: dict[Key, Lane] = {}  # where it was asked for last

    @rule(name=st.sampled_from("pqrs"), lane=st.sampled_from(LANES), delay=st.sampled_from([0.0, 1.0, 5.0]))
    def add(self, name: str, lane: Lane, delay: float) -> None:
        wanted = key(name)
        self.schedule.add(wanted, lane, self.now + delay, self.now)
        self.owe(wanted, lane, self.now + delay, self.now + delay)

    def owe(self, wanted: Key, lane: Lane, earliest: float, latest: float) -> None:
        self.lanes[wanted] = lane
        known = self.owed.get(wanted, (float("inf"), float("inf")))
        self.owed[wanted] = (min(known[0], earliest), min(known[1], latest))

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        batch = self.schedule.take(self.now)
        if batch is None:
            blocked = {k for b in self.running.values() for k in b.keys}
            overdue = {k for k, (_, latest) in self.owed.items() if latest <= self.now} - blocked
            # What is due and can't be had must be in a lane that runs.
            assert {self.lanes[k] for k in overdue} <= self.running.keys()
            return
        assert batch.lane not in self.running, "a lane was handed out twice at once"
        assert len(set(batch.keys)) == len(batch.keys)
        busy = {k for b in self.running.values() for k in b.keys}
        assert not busy.intersection(batch.keys), "a key was handed out twice at once"
        assert {self.lanes[k] for k in batch.keys} == {batch.lane}, "a key was handed out in a lane that it has left"
        for taken in batch.keys:
            assert self.owed.pop(taken)[0] <= self.now, "a key was handed out that nobody asked for yet"
        self.running[batch.lane] = batch

    @rule(lane=st.sampled_from(LANES), fails=st.booleans(), then=st.sampled_from(LANES))
    def end(self, lane: Lane, fails: bool, then: Lane) -> None:
        batch = self.running.pop(lane, None)
        if batch is None:
            return
        for taken in batch.keys:
            if fails:
                self.schedule.failed(taken, then, self.now)
                self.owe(taken, then, self.now + 0.5, self.now + LONGEST_BACKOFF)
            else:
                self.schedule.succeeded(taken)
        self.schedule.done(lane)

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.owed and not self.running:
            due = self.schedule.next_due(self.now)
            assert due is not None
            assert due <= max(self.now, min(latest for _, latest in self.owed.values()))

    def teardown(self) -> None:
        for lane in list(self.running):
            self.end(lane, False, lane)
        self.now += LONGEST_BACKOFF + 10
        seen: set[Key] = set()
        while batch := self.schedule.take(self.now):
            seen.update(batch.keys)
            self.schedule.done(batch.lane)
        assert seen == set(self.owed), "a key was lost"
        assert self.schedule.depth() == 0


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order_of_events = QueueMachine.TestCase


def test_any_number_of_events_is_one_look() -> None:
    schedule = Schedule()
    for _ in range(100):
        schedule.add(key("p"), LANES[0], 0.0, 0.0)
    batch = schedule.take(0.0)
    assert batch is not None
    assert batch.keys == (key("p"),)
    schedule.done(batch.lane)
    assert schedule.take(0.0) is None


def test_an_event_during_a_run_means_another_run_afterwards() -> None:
    schedule = Schedule()
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    batch = schedule.take(0.0)
    assert batch is not None
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    assert schedule.take(0.0) is None
    schedule.done(batch.lane)
    again = schedule.take(0.0)
    assert again is not None
    assert again.keys == (key("p"),)


def test_all_due_keys_of_a_lane_come_in_one_batch() -> None:
    schedule = Schedule()
    for number in range(1000):
        schedule.add(key(f"t{number}"), LANES[0], 0.0, 0.0)
    batch = schedule.take(0.0)
    assert batch is not None
    assert len(batch.keys) == 1000


def test_lanes_take_turns() -> None:
    schedule = Schedule()
    order = []
    for lane in LANES:
        schedule.add(key(lane.name, lane.kind), lane, 0.0, 0.0)
    for _ in range(6):
        batch = schedule.take(0.0)
        assert batch is not None
        order.append(batch.lane)
        schedule.add(batch.keys[0], batch.lane, 0.0, 0.0)  # always something to do
        schedule.done(batch.lane)
    assert order == LANES * 2


def test_a_change_ends_the_backoff() -> None:
    schedule = Schedule()
    for _ in range(8):
        schedule.failed(key("p"), LANES[0], 0.0)
    assert schedule.take(0.1) is None
    schedule.add(key("p"), LANES[0], 0.1, 0.1)
    assert schedule.take(0.1) is not None


def test_a_key_that_moved_to_another_lane_does_not_run_in_both() -> None:
    schedule = Schedule()
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    first = schedule.take(0.0)
    assert first is not None
    schedule.add(key("p"), LANES[1], 0.0, 0.0)
    assert schedule.take(0.0) is None
    schedule.done(first.lane)
    assert schedule.take(0.0) is not None


def test_a_key_that_moved_while_it_was_due_is_not_held_up_by_its_old_lane() -> None:
    schedule = Schedule()
    schedule.add(key("stuck"), LANES[0], 0.0, 0.0)
    assert schedule.take(0.0) is not None
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    schedule.add(key("q"), LANES[0], 9.0, 0.0)
    assert schedule.take(0.0) is None
    schedule.add(key("p"), LANES[1], 0.0, 0.0)
    assert schedule.take(0.0) == Batch(LANES[1], (key("p"),))
    schedule.done(LANES[1])
    schedule.add(key("q"), LANES[1], 99.0, 0.0)
    assert schedule.take(9.0) == Batch(LANES[1], (key("q"),)), "at the time that was asked for first"
    assert schedule.depth() == 0


def test_a_key_that_moved_while_it_ran_is_looked_at_again_in_its_new_lane() -> None:
    schedule = Schedule()
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    assert schedule.take(0.0) is not None
    schedule.add(key("p"), LANES[1], 0.0, 0.0)
    assert (schedule.take(0.0), schedule.depth(), schedule.depth_by_kind()) == (None, 1, {"Topic": 1})
    schedule.done(LANES[0])
    assert schedule.take(0.0) == Batch(LANES[1], (key("p"),))


@given(st.integers(1, 10_000), st.integers())
def test_backoff_grows_from_half_a_second_to_five_minutes(failures: int, seed: int) -> None:
    pause = backoff(failures, random.Random(seed))  # noqa: S311
    assert 0.5 <= pause <= LONGEST_BACKOFF
    if failures > 10:
        assert pause >= LONGEST_BACKOFF / 2


def test_a_cleared_schedule_forgets_what_waits() -> None:
    schedule = Schedule()
    schedule.add(key("p"), LANES[0], 0.0, 0.0)
    schedule.add(key("q"), LANES[1], 9.0, 0.0)
    schedule.clear()
    assert schedule.take(100.0) is None
    assert schedule.next_due(100.0) is None
    assert schedule.depth() == 0
