"""What is said of a replay afterwards: every fact in words, in the order in which things happened."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sluice.api.objects import parse
from sluice.cli.audit import connection, entry_of, facts_table, timeline
from sluice.cli.main import app

ENDED = {"fact": "Completed", "at": "3", "message": "all is there", "records": 1200, "bytes": 5}


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        (
            {
                "fact": "Planned",
                "requestedBy": "ann",
                "source": {"topic": "a"},
                "target": {"topic": "b"},
                "offsets": 1000,
                "partitions": [[0, 0, 1000]],
            },
            "ann asked for a copy of a to b: 1,000 offsets of 1 partitions",
        ),
        ({"fact": "Approved", "by": "bob", "planHash": "abc", "approvedAt": "2"}, "bob approved plan abc"),
        ({"fact": "GlassBroken", "by": "ann", "reason": "it burns"}, "ann broke the glass: it burns"),
        ({"fact": "Started", "approval": None}, "it begins; it needed no approval"),
        (
            {
                "fact": "Started",
                "approval": {"needed": 2, "approvers": [{"user": "bob"}], "brokenGlass": {"user": "x"}},
            },
            "it begins; approved by bob, of 2 that it needs; THE GLASS WAS BROKEN",
        ),
        ({"fact": "Suspend", "token": "suspend:12"}, "somebody asked for it, by the token suspend:12"),
        (ENDED, "all is there; 1,200 records, 5 bytes"),
        ({"fact": "Refused", "message": "it would do harm"}, "it would do harm"),
    ],
)
def test_a_fact_is_said_in_words(fact: dict[str, Any], text: str) -> None:
    assert entry_of(fact).text == text


def test_an_approval_has_the_time_at_which_it_was_given() -> None:
    assert entry_of({"fact": "Approved", "at": "9", "approvedAt": "2"}).at == "2"


def test_what_people_wrote_is_shown_as_it_is() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(facts_table([{**ENDED, "job": "ns/job", "message": "[/b] [red]x"}]))
    assert "[/b] [red]x; 1,200 records" in shown.get()


def test_without_the_audit_status_and_events_tell_the_story_in_order() -> None:
    job = parse(
        {
            "kind": "ReplayJob",
            "metadata": {
                "name": "february",
                "namespace": "n",
                "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"sluice.dev/requested-by": "ann"},
            },
            "spec": {"clusterRef": {"name": "demo"}, "source": {"topic": "a"}, "target": {"topic": "b"}},
            "status": {
                "phase": "Completed",
                "plan": {
                    "hash": "abc",
                    "plannedAt": "2026-01-01T00:00:01Z",
                    "sourceTopicId": "s",
                    "targetTopicId": "t",
                    "offsets": 9,
                },
                "approval": {
                    "planHash": "abc",
                    "needed": 1,
                    "brokenGlass": {"user": "dee", "reason": "it burns", "at": "2026-01-01T00:00:02Z"},
                },
                "completionTime": "2026-01-01T00:00:04Z",
            },
        }
    )
    event = {"eventTime": "2026-01-01T00:00:03.123456Z", "reason": "GlassBroken", "note": "loud"}
    found = timeline(job, [event])
    assert [(entry.at[-3:-1], entry.what) for entry in found] == [
        ("00", "Made"),
        ("01", "Planned"),
        ("02", "GlassBroken"),
        ("03", "Event GlassBroken"),
        ("04", "Completed"),
    ]
    assert (found[0].text, found[2].text) == ("by ann", "dee broke the glass: it burns")


def test_a_users_configuration_says_where_and_as_whom_to_connect() -> None:
    config = {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "ssl.ca.pem": "CA",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "auditor",
        "sasl.password": "p",
    }
    found = connection(json.dumps(config))
    assert (found.bootstrap_servers, found.security_protocol) == (("a:1", "b:2"), "SASL_SSL")
    assert (found.ca_pem, found.username, found.password) == ("CA", "auditor", "p")
    assert connection(json.dumps({"bootstrap.servers": "a:1"})).security_protocol == "PLAINTEXT"


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", '{"bootstrap.servers": 1}'])
def test_another_file_is_told_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"isn't JSON with bootstrap\.servers"):
        connection(text)


def test_who_reads_has_to_be_said() -> None:
    found = CliRunner().invoke(app, ["audit"])
    assert (found.exit_code, "--user" in found.output) == (1, True)
