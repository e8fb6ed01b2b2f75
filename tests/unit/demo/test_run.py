"""The demo judges what it finds, and says how long all of it took."""

from __future__ import annotations

import pytest

from demo.__main__ import setup_seconds
from demo.run import DemoError, assert_ended_well, ended_badly


@pytest.mark.parametrize(
    ("phase", "badly"), [("Failed", True), ("Refused", True), ("Completed", False), ("AlreadyCompleted", False)]
)
def test_a_replay_that_ended_badly_is_told_and_made_anew_by_the_next_run(phase: str, badly: bool) -> None:
    job = {"status": {"phase": phase, "conditions": [{"type": "Ready", "message": "the target is compacted"}]}}
    assert ended_badly(job) is badly
    if badly:
        with pytest.raises(DemoError, match=f"the ReplayJob is {phase}: the target is compacted"):
            assert_ended_well(job)
    else:
        assert_ended_well(job)


@pytest.mark.parametrize("job", [None, {}, {"status": {"phase": "Running"}}])
def test_a_replay_that_isnt_there_or_runs_is_left_alone(job: dict[str, object] | None) -> None:
    assert not ended_badly(job)


def test_the_time_of_the_setup_counts() -> None:
    assert setup_seconds({"SLUICE_BEGUN": "1000"}, 1012.5) == 12.5
    assert setup_seconds({"SLUICE_BEGUN": ""}, 1012.5) is None
    assert setup_seconds({}, 1012.5) is None
