"""What ``make test`` runs, removes, and says at its end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from hack import phases
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


class Runs:
    """Phases that only note that they ran; those in ``failing`` fail."""

    def __init__(self, *failing: str) -> None:
        self.ran: list[str] = []
        self._failing = failing

    def __call__(self, names: Sequence[str]) -> list[Result]:
        self.ran += names
        return [Result(name, 1, int(name in self._failing), []) for name in names]


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(phases, "LOGS", tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("KEEP", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "failing", "code", "ran"),
    [
        (False, (), 0, "setup check binaries images integration cluster-up e2e cluster-down"),
        (True, (), 0, "setup check binaries images integration cluster-up e2e"),
        (False, ("check",), 1, "setup check"),
        (False, ("binaries",), 1, "setup check binaries images"),
        (False, ("cluster-up",), 1, "setup check binaries images integration cluster-up cluster-down"),
        (True, ("e2e",), 1, "setup check binaries images integration cluster-up e2e"),
    ],
)
def test_a_cluster_is_removed_at_the_end_only_if_this_run_made_it(
    before: bool, failing: tuple[str, ...], code: int, ran: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(*failing)
    monkeypatch.setattr(phases, "run_phases", runs)
    monkeypatch.setattr(phases, "cluster_runs", lambda: before)
    assert phases.main() == code
    assert " ".join(runs.ran) == ran


def test_phases_side_by_side_say_which_line_is_whose(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "Makefile").write_text("slow:\n\t@sleep 0.2; echo built\nimages:\n\t@echo 3 passed in 1.0s; exit 3\n")
    monkeypatch.setattr(phases, "ROOT", tree)
    slow, images = phases.run_phases(["slow", "images"])
    said = capsys.readouterr().out.splitlines()
    assert "slow   │ built" in said
    assert "images │ 3 passed in 1.0s" in said
    assert (slow.code, slow.closing) == (0, [])
    assert (images.code, images.closing) == (2, ["3 passed in 1.0s"])
    assert slow.seconds >= 0.2
    assert (logs / "slow.log").read_text() == "built\n"
