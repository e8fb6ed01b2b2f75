"""What ``make test`` says at its end."""

from __future__ import annotations

import pytest

from hack.phases import CLOSING, Result, report


@pytest.mark.parametrize(
    "line",
    [
        "3 passed in 36.43s",
        "2 failed, 1 passed, 9 deselected in 39.05s",
        "===== 1 failed, 8 passed, 218 warnings in 3.86s =====",
        "12 passed, 2 skipped in 62.01s (0:01:02)",
    ],
)
def test_closing_lines_of_pytest_are_kept(line: str) -> None:
    assert CLOSING.match(line)


@pytest.mark.parametrize(
    "line", ["3 files passed to ruff", "localhost/sluice/operator: built in 3 s", "passed in 3.0s"]
)
def test_other_lines_are_not(line: str) -> None:
    assert not CLOSING.match(line)


def test_a_failed_phase_is_named_with_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    report([Result("check", 61.2, 0, ["500 passed in 20.00s"]), Result("e2e", 30, 2, ["1 failed in 29.00s"])], 91.2)
    said = capsys.readouterr().out
    assert "The phase e2e failed. All it said: artifacts/logs/e2e.log" in said
    assert "Alone again: make e2e" in said
    assert said.rstrip().splitlines()[-2:] == ["check: 500 passed in 20.00s", "e2e: 1 failed in 29.00s"]
