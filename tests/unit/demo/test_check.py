"""The demo's check finds every way in which a replay could be wrong."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from demo.check import judge
from demo.flights import Event
from e2e.support.kafka import Read

START = datetime.datetime(2013, 2, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2013, 3, 1, tzinfo=datetime.UTC)
FIRST = int(START.timestamp() * 1000)


def flight(number: int, timestamp: int) -> Event:
    return Event(key=b"N%d" % (number % 2), value=b"%d" % number, timestamp=timestamp, carrier="UA")


MONTH = [flight(number, FIRST + number) for number in range(6)]
BEFORE = flight(99, FIRST - 1)


def read(event: Event, partition: int, offset: int) -> Read:
    return Read(partition, offset, event.key, event.value, event.timestamp, tuple(event.headers))


SOURCE = [read(BEFORE, 0, 0)] + [read(event, n % 2, 1 + n) for n, event in enumerate(MONTH)]
TARGET = [read(event, n % 2, n) for n, event in enumerate(MONTH)]


def broken(target: list[Read]) -> str:
    """The first word of everything that doesn't hold."""
    return " ".join(f.text.split(":")[0] for f in judge(MONTH, SOURCE, target, START, END) if not f.holds)


def test_an_exact_copy_of_the_range_passes() -> None:
    assert broken(TARGET) == ""


def test_offsets_may_differ_since_transactions_leave_markers() -> None:
    assert broken([replace(r, offset=r.offset * 3) for r in TARGET]) == ""


@pytest.mark.parametrize(
    ("story", "target", "found"),
    [
        ("lost", TARGET[1:], "count keys, values, headers and timestamps are the input's order"),
        ("twice", [*TARGET, replace(TARGET[-1], offset=100)], "count nothing twice order"),
        ("from outside the range", [*TARGET, read(BEFORE, 0, 100)], "count nothing else order"),
        (
            "another timestamp",
            [replace(TARGET[0], timestamp=FIRST + 77), *TARGET[1:]],
            "nothing else keys, values, headers and timestamps are the input's order",
        ),
        (
            "headers gone",
            [replace(TARGET[0], headers=()), *TARGET[1:]],
            "nothing else keys, values, headers and timestamps are the input's order",
        ),
        (
            "out of order",
            [replace(TARGET[0], offset=TARGET[2].offset), TARGET[1], replace(TARGET[2], offset=0), *TARGET[3:]],
            "order",
        ),
        ("in another partition", [replace(TARGET[0], partition=1, offset=-1), *TARGET[1:]], "order"),
    ],
)
def test_a_fault_is_found(story: str, target: list[Read], found: str) -> None:
    assert broken(target) == found, story
