"""What ``sluice replay`` asks for follows from its flags and from the object alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sluice.api.objects import parse
from sluice.cli.main import app
from sluice.cli.replay_acts import Request, Selected, bound, manifest, share, unapprovable, useless
from sluice.plan.replay_control import Act

REQUEST = Request("february", "demo", "departures", "again", "Earliest", "Latest")


def job(phase: str | None, *, dry_run: bool = False, **metadata: Any) -> Any:
    made = manifest(replace(REQUEST, dry_run=dry_run))
    meta = {"namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    status = {"phase": phase} if phase else {}
    return parse({**made, "metadata": {**made["metadata"], **meta}, "status": status})


def test_what_flags_do_not_say_is_not_in_the_manifest() -> None:
    assert manifest(REQUEST)["spec"] == {
        "clusterRef": {"name": "demo"},
        "source": {"topic": "departures", "range": {"from": {"at": "Earliest"}, "to": {"at": "Latest"}}},
        "target": {"topic": "again"},
    }


def test_what_flags_say_is() -> None:
    asked = Request("february", "kafka/demo", "departures", "again", "5", "9", True, "two", 3, True)
    spec = manifest(asked)["spec"]
    assert spec["clusterRef"] == {"name": "demo", "namespace": "kafka"}
    assert spec["source"]["range"] == {"from": {"offset": 5}, "to": {"offset": 9}}
    assert (spec["dryRun"], spec["runId"], spec["parallelism"], spec["ordering"]) == (
        True,
        "two",
        3,
        "AcceptReordering",
    )


def test_flags_say_which_records() -> None:
    asked = Selected(key_prefixes=["a", "b"], headers=["h", "i=1=2"], exclude_replayed=True, provenance=True)
    spec = manifest(replace(REQUEST, selection=asked))["spec"]
    assert spec["select"] == {
        "key": {"prefix": ["a", "b"]},
        "headers": [{"name": "h"}, {"name": "i", "exact": ["1=2"]}],
    }
    assert (spec["excludeReplayed"], spec["provenance"]) == (True, "Headers")
    assert manifest(replace(REQUEST, selection=Selected(key_regex="^a")))["spec"]["select"] == {"key": {"regex": "^a"}}


@pytest.mark.parametrize(("text", "expected"), [("10", (0, 10)), ("10-20", (10, 20))])
def test_a_share_of_all_keys(text: str, expected: tuple[int, int]) -> None:
    assert share(text) == {"from": expected[0], "to": expected[1]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latest", {"at": "Latest"}),
        ("17", {"offset": 17}),
        ("2013-02-01T00:00:00-05:00", {"time": "2013-02-01T00:00:00-05:00"}),
        ("2013-02-01T00:00:00Z", {"time": "2013-02-01T00:00:00Z"}),
    ],
)
def test_an_end_of_a_range_is_an_offset_a_time_or_a_name(text: str, expected: dict[str, Any]) -> None:
    assert bound("--to", text, "Latest") == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("yesterday", "--to yesterday is neither an offset, nor Latest, nor a time"),
        ("-3", "--to -3 is neither"),
        ("Earliest", "--to Earliest is neither"),
        ("2013-02-01T00:00:00", "doesn't say its time zone"),
    ],
)
def test_what_is_none_of_these_is_answered_by_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bound("--to", text, "Latest")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (replace(REQUEST, cluster="a/b/c"), "neither NAME nor NAMESPACE/NAME"),
        (replace(REQUEST, selection=Selected(keys=["a"], key_share="10")), "only one of --key, --key-prefix"),
        (replace(REQUEST, selection=Selected(key_share="a tenth")), "--key-share a tenth is neither"),
        (replace(REQUEST, selection=Selected(key_share="200")), "spec.select.key.hashRange.to"),
        (replace(REQUEST, source="no topic"), "such a replay can't be: spec.source.topic"),
    ],
)
def test_a_replay_that_cannot_be_is_not_sent(asked: Request, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        manifest(asked)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (job("Running"), None),
        (job("Suspended"), None),
        (job(None), None),
        (job("Completed"), "february has ended already (Completed), so there is nothing to cancel"),
        (job("Cancelled"), "february has ended already (Cancelled), so there is nothing to cancel"),
        (job("Planned", dry_run=True), "february is a dry run, which moves nothing, so there is nothing to cancel"),
        (
            job("Running", deletionTimestamp="2026-01-01T00:00:00Z"),
            "february is being deleted, so there is nothing to cancel",
        ),
    ],
)
def test_an_act_that_would_come_to_nothing_is_not_asked_for(found: Any, sentence: str | None) -> None:
    assert useless(Act.CANCEL, found) == sentence


REWIND = replace(REQUEST, source=None, target=None, start=None, end="-50", rewind="billing")


def test_flags_ask_for_a_rewind() -> None:
    asked = replace(REWIND, topics=("departures",), wait_seconds=60)
    assert manifest(asked)["spec"] == {
        "clusterRef": {"name": "demo"},
        "mode": "Rewind",
        "rewind": {
            "group": "billing",
            "to": {"shift": -50},
            "topics": [{"topic": "departures"}],
            "waitForInactiveSeconds": 60,
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", {"at": "Earliest"}),
        ("Latest", {"at": "Latest"}),
        ("17", {"offset": 17}),
        ("+17", {"shift": 17}),
        ("2013-02-01T00:00:00Z", {"time": "2013-02-01T00:00:00Z"}),
        ("snapshot:17", {"snapshot": "17"}),
    ],
)
def test_a_group_goes_to_a_place_a_time_so_far_on_or_back_to_a_snapshot(text: str, expected: dict[str, Any]) -> None:
    assert manifest(replace(REWIND, end=text))["spec"]["rewind"]["to"] == expected


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (replace(REWIND, end=None), "say by --to where the group goes"),
        (replace(REWIND, end="soon"), "--to soon is neither"),
        (replace(REWIND, target="again"), "with --rewind nothing is copied"),
        (replace(REWIND, parallelism=3), "nothing is copied; leave them out"),
        (replace(REQUEST, source=None), "say --source and --target, or --rewind GROUP"),
        (replace(REQUEST, topics=("a",)), "--topic and --wait are for --rewind"),
    ],
)
def test_flags_of_both_modes_are_not_mixed(asked: Request, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        manifest(asked)


def rewound(phase: str | None) -> Any:
    meta = {"name": "back", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return parse({**manifest(REWIND), "metadata": meta, "status": {"phase": phase} if phase else {}})


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (rewound("Completed"), None),
        (rewound("AlreadyCompleted"), None),
        (rewound("Undone"), "back isn't completed (Undone), so there is nothing to undo"),
        (rewound(None), "back isn't completed (Pending), so there is nothing to undo"),
        (job("Completed"), "february copies records, which can't be undone: only a Rewind can"),
    ],
)
def test_only_a_completed_rewind_can_be_undone(found: Any, sentence: str | None) -> None:
    assert useless(Act.UNDO, found) == sentence


def test_a_manifest_can_be_printed_without_a_kubernetes() -> None:
    command = "replay create february --cluster demo --source departures --target again --dry-run -o yaml"
    result = CliRunner().invoke(app, command.split(), env={"KUBECONFIG": "/nowhere"})
    assert result.exit_code == 0
    body = yaml.safe_load(result.stdout)
    assert (body["kind"], body["metadata"], body["spec"]["dryRun"]) == ("ReplayJob", {"name": "february"}, True)


def test_flags_that_make_no_sense_end_with_a_sentence() -> None:
    command = "replay create february --cluster demo --source departures --target again --from soon"
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 1
    assert "--from soon is neither an offset" in result.output


PLANNED = {"hash": "abc", "plannedAt": "2026-01-01T00:00:00Z", "sourceTopicId": "s", "targetTopicId": "t", "offsets": 1}


@pytest.mark.parametrize(
    ("phase", "plan", "why"),
    [
        ("AwaitingApproval", None, None),
        ("AwaitingApproval", "abc", None),
        ("Suspended", "abc", None),
        ("AwaitingApproval", "abd", "the plan of february is abc, and not abd"),
        ("Running", None, "has begun already"),
        ("Cancelled", None, "has ended already (Cancelled)"),
    ],
)
def test_only_a_plan_that_waits_can_be_approved_and_only_the_one_that_is_meant(
    phase: str, plan: str | None, why: str | None
) -> None:
    made = job(phase)
    found = unapprovable(replace(made, status=made.status.model_validate({"phase": phase, "plan": PLANNED})), plan)
    assert found is None if why is None else why in (found or "")


def test_what_has_no_plan_yet_cannot_be_approved() -> None:
    assert "has no plan yet" in (unapprovable(job(None), None) or "")
    assert "is a dry run" in (unapprovable(job("Planned", dry_run=True), None) or "")
