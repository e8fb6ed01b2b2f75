"""Logs a machine can read, and answers for probes."""

from __future__ import annotations

import json
import logging
import sys

from aiohttp.test_utils import make_mocked_request

from sluice.observability.health import HealthServer
from sluice.observability.logs import JsonFormatter, NoRefusals, reconcile_id
from sluice.observability.metrics import Metrics


def line(**extra: object) -> dict[str, object]:
    """A record as it is written."""
    record = logging.LogRecord("sluice.x", logging.INFO, "f", 1, "hello %s", ("you",), None)
    record.__dict__.update(extra)
    written = JsonFormatter().format(record)
    assert "\n" not in written
    parsed: dict[str, object] = json.loads(written)
    return parsed


def test_one_line_says_what_and_which_reconciliation() -> None:
    token = reconcile_id.set("topic-7")
    try:
        written = line(kind="Topic", namespace="ns", object="a")
    finally:
        reconcile_id.reset(token)
    assert written["message"] == "hello you"
    assert (written["kind"], written["namespace"], written["object"]) == ("Topic", "ns", "a")
    assert written["reconcile"] == "topic-7"


def test_what_is_not_foreseen_does_not_get_into_the_log() -> None:
    assert "password" not in line(password="hunter2")


def test_an_exception_stays_on_the_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    assert "ValueError" in json.loads(JsonFormatter().format(record))["exception"]


def test_a_refused_object_is_no_error_of_the_operator() -> None:
    def kept(message: str) -> bool:
        return NoRefusals().filter(logging.LogRecord("kopf.objects", logging.ERROR, "f", 1, message, (), None))

    assert not kept("Webhook 'validate-topics' failed permanently: lower replicas")
    assert kept("Webhook 'validate-topics' failed with an exception. Will stop now.")
    assert kept("Handler 'on_event' failed with an exception. Will ignore.")


async def test_a_failing_check_is_named_and_answered_with_503() -> None:
    server = HealthServer(Metrics(), 0, healthy={"parts": lambda: True}, ready={"index": lambda: False})
    well = await server._serve_checks(server._healthy)
    assert well.status == 200
    ill = await server._serve_checks(server._ready)
    assert (ill.status, ill.text) == (503, "index: failing\n")


async def test_metrics_are_served() -> None:
    metrics = Metrics()
    metrics.leader.set(1)
    server = HealthServer(metrics, 0, healthy={}, ready={})
    response = await server._serve_metrics(make_mocked_request("GET", "/metrics"))
    assert isinstance(response.body, bytes)
    assert b"sluice_leader 1.0" in response.body
