"""What annotations ask of a replay: each token once, in whatever order they come, and however often one looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.api.replay import ReplayControl, Wanted
from sluice.plan.replay_control import REMEMBERED, STEERING, Act, heed, token, wanted

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def asked(**tokens: str) -> dict[str, str]:
    return {Act(act).annotation: text for act, text in tokens.items()}


def at(minutes: int) -> str:
    return token(NOON + timedelta(minutes=minutes), "a1b2")


def test_who_asks_nothing_gets_no_status() -> None:
    assert heed({}, None) is None
    assert heed({"sluice.dev/paused": "true", "sluice.dev/suspend": ""}, None) is None
    assert wanted(None) is Wanted.RUN


def test_a_token_says_when_it_was_written() -> None:
    assert token(datetime(2026, 11, 24, 13, tzinfo=timezone(timedelta(hours=1))), "ff") == (
        "2026-11-24T12:00:00.000000Z-ff"
    )


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"suspend": "x"}, Wanted.SUSPEND),
        ({"resume": "x"}, Wanted.RUN),
        ({"cancel": "x"}, Wanted.CANCEL),
        ({"suspend": at(1), "resume": at(2)}, Wanted.RUN),
        ({"suspend": at(2), "resume": at(1)}, Wanted.SUSPEND),
        ({"suspend": at(1), "resume": at(1)}, Wanted.SUSPEND),
        ({"suspend": "x", "resume": at(1)}, Wanted.SUSPEND),
        ({"suspend": at(1), "resume": "x"}, Wanted.SUSPEND),
        ({"suspend": "2026-13-41T00:00:00Z", "resume": at(1)}, Wanted.SUSPEND),
        ({"suspend": "2026-11-24T12:30:00+01:00", "resume": "2026-11-24T12:00:00Z"}, Wanted.RUN),
        ({"suspend": at(2), "resume": at(3), "cancel": at(1)}, Wanted.CANCEL),
    ],
)
def test_of_several_that_are_new_the_later_wins_and_cancel_over_all(tokens: dict[str, str], expected: Wanted) -> None:
    found = heed(asked(**tokens), None)
    assert found is not None
    assert found.wanted is expected
    assert len(found.handled) == len(tokens)


def test_one_that_is_new_is_heeded_whatever_its_time() -> None:
    """Clocks of people differ."""
    suspended = heed(asked(suspend=at(9)), None)
    resumed = heed(asked(suspend=at(9), resume=at(1)), suspended)
    assert wanted(resumed) is Wanted.RUN


def test_a_token_that_comes_back_is_not_new() -> None:
    """A GitOps tool that has one in Git puts it back each time."""
    first = heed(asked(suspend="in-git"), None)
    second = heed(asked(suspend="in-git", resume=at(1)), first)
    third = heed(asked(suspend=at(2), resume=at(1)), second)
    fourth = heed(asked(suspend=at(2), resume=at(3)), third)
    assert wanted(fourth) is Wanted.RUN
    assert heed(asked(suspend="in-git", resume=at(3)), fourth) is fourth


def test_the_same_token_for_another_act_is_another() -> None:
    suspended = heed(asked(suspend="x"), None)
    assert wanted(heed(asked(suspend="x", resume="x"), suspended)) is Wanted.RUN


def test_from_cancel_there_is_no_way_back() -> None:
    cancelled = heed(asked(cancel="x"), None)
    assert wanted(heed(asked(cancel="x", resume=at(99)), cancelled)) is Wanted.CANCEL
    assert wanted(heed({}, cancelled)) is Wanted.CANCEL


def test_taking_an_annotation_away_asks_nothing() -> None:
    suspended = heed(asked(suspend="x"), None)
    assert heed({}, suspended) is suspended


def test_what_an_annotation_still_holds_is_never_forgotten() -> None:
    now = heed(asked(suspend="old"), None)
    for number in range(3 * REMEMBERED):
        now = heed(asked(suspend="old", resume=str(number)), now)
        assert wanted(now) is Wanted.RUN
    assert now is not None
    assert len(now.handled) == REMEMBERED


def test_to_be_undone_is_heeded_only_where_it_is_asked_about() -> None:
    """While a replay runs it would be heard as the wish to go on."""
    suspended = heed(asked(suspend="x"), None)
    assert heed(asked(suspend="x", undo="y"), suspended) is suspended
    undone = heed(asked(suspend="x", undo="y"), suspended, (Act.UNDO,))
    assert wanted(undone) is Wanted.UNDO
    assert heed(asked(suspend="z", undo="y"), undone, (Act.UNDO,)) is undone


# Few letters: tokens come again, and no table of all characters is made first.
TOKENS = st.one_of(st.text("a:é2", max_size=3), st.integers(0, 20).map(at))
HISTORIES = st.lists(st.dictionaries(st.sampled_from(STEERING), TOKENS), min_size=1, max_size=40)


@given(HISTORIES)
@settings(deadline=None)
def test_looking_twice_is_looking_once(history: list[dict[Act, str]]) -> None:
    """Also by an operator that died after it had acted, and before that was written."""
    written: ReplayControl | None = None
    for step in history:
        annotations = {act.annotation: text for act, text in step.items()}
        found = heed(annotations, written)
        assert heed(annotations, written) == found
        assert heed(annotations, found) is found
        written = found
    if written is not None:
        assert len(written.handled) <= REMEMBERED + len(Act)
        assert len(set(written.handled)) == len(written.handled)


@given(HISTORIES)
@settings(deadline=None)
def test_what_is_wanted_is_what_was_asked_last(history: list[dict[Act, str]]) -> None:
    written: ReplayControl | None = None
    seen: set[tuple[Act, str]] = set()
    for step in history[:10]:  # few enough for none to be forgotten
        before = wanted(written)
        new = {act for act, text in step.items() if text and (act, text) not in seen}
        seen |= {(act, text) for act, text in step.items() if text}
        written = heed({act.annotation: text for act, text in step.items()}, written)
        now = wanted(written)
        if before is Wanted.CANCEL or Act.CANCEL in new:
            assert now is Wanted.CANCEL
        elif not new:
            assert now is before
        elif len(new) == 1:
            assert now is (Wanted.SUSPEND if new == {Act.SUSPEND} else Wanted.RUN)
        else:
            assert now in (Wanted.SUSPEND, Wanted.RUN)
