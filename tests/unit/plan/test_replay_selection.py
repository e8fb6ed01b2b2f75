"""What a replay takes and changes, as its plan sees it: whose key it has, what is refused, what workers are told."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.api.replay import ReplayJobSpec
from sluice.engine.replay_assignment import rules
from sluice.plan.regex import finder
from sluice.plan.replay import ledger_key, make
from sluice.plan.replay_selection import mark
from sluice.replay.rules import NO_RULES, HeaderRule, Match, RecordRules
from tests.unit.plan.test_replay import KEPT, NOW, observed, spec

TENTH = {"select": {"key": {"hashRange": {"to": 10}}}}
ASKED: list[dict[str, Any]] = [
    TENTH,
    {"select": {"key": {"exact": ["a"]}}},
    {"select": {"key": {"prefix": ["a"]}}},
    {"select": {"headers": [{"name": "h"}]}},
    {"select": {"headers": [{"name": "h", "absent": True}]}},
    {"excludeReplayed": True},
    {"headers": {"drop": ["h"]}},
    {"headers": {"rename": {"h": "i"}}},
    {"provenance": "Headers"},
]


def test_each_of_them_is_another_replay_with_another_plan() -> None:
    specs = [spec(), *(spec(**asked) for asked in ASKED)]
    assert len({ledger_key("ns", "job", one) for one in specs}) == len(specs)
    plans = [make(one, observed(KEPT), NOW).plan for one in specs]
    assert len({plan.hash for plan in plans if plan}) == len(specs)


def test_a_plan_without_any_of_them_has_the_hash_that_it_always_had() -> None:
    plan = make(spec(), observed(KEPT), NOW).plan
    assert plan is not None
    assert plan.hash == "9644773aad"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (spec(excludeReplayed=False, provenance="None"), spec()),
        (spec(**TENTH), spec(select={"key": {"hashRange": {"from": 0, "to": 10}}})),
        (spec(select={"key": {"exact": ["a", "b", "a"]}}), spec(select={"key": {"exact": ["b", "a"]}})),
        (
            spec(select={"headers": [{"name": "a"}, {"name": "b", "prefix": ["y", "x"]}]}),
            spec(select={"headers": [{"name": "b", "prefix": ["x", "y"]}, {"name": "a", "absent": False}]}),
        ),
        (spec(headers={"drop": ["a", "b"]}), spec(headers={"drop": ["b", "a"]})),
    ],
)
def test_what_is_said_in_another_way_is_the_same(one: ReplayJobSpec, other: ReplayJobSpec) -> None:
    assert ledger_key("ns", "job", one) == ledger_key("ns", "job", other)


@pytest.mark.parametrize("select", [{"key": {"regex": "(a"}}, {"headers": [{"name": "h", "regex": "(?=a)"}]}])
def test_what_is_no_expression_is_refused_before_anything_moves(select: dict[str, Any]) -> None:
    planned = make(spec(select=select), observed(KEPT), NOW)
    assert planned.plan is None
    assert "isn't a regular expression (RE2)" in (planned.refusal or "")


def test_an_expression_that_would_hang_others_is_done_at_once() -> None:
    assert not finder(r"^(a+)+$")(b"a" * 100_000 + b"b")


def test_the_plan_says_what_to_know() -> None:
    planned = make(spec(provenance="Headers", select={"key": {"exact": ["a"]}}), observed(KEPT), NOW)
    assert planned.plan is not None
    assert any("without a key" in warning for warning in planned.plan.warnings)
    assert any("grows by" in warning for warning in planned.plan.warnings)


def test_workers_are_told_what_the_spec_says() -> None:
    assert rules(spec(), "ns/job") == NO_RULES
    assert rules(spec(**TENTH), "ns/job") == RecordRules(hash_range=(0, 10))
    asked = spec(
        select={
            "key": {"regex": "^a"},
            "headers": [{"name": "h"}, {"name": "i", "exact": ["1"]}, {"name": "j", "absent": True}],
        },
        headers={"drop": ["d"], "rename": {"old": "new"}},
        excludeReplayed=True,
        provenance="Headers",
    )
    assert rules(asked, "ns/job") == RecordRules(
        key=Match(regex="^a"),
        headers=(HeaderRule("h"), HeaderRule("i", Match(exact=("1",))), HeaderRule("j", absent=True)),
        exclude_replayed=True,
        drop=("d",),
        rename=(("old", "new"),),
        mark="ns/job",
    )


def test_the_mark_names_the_run() -> None:
    assert mark("ns", "job", None) == "ns/job"
    assert mark("ns", "job", "2") == "ns/job/2"
