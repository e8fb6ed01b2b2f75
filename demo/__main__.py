"""``python -m demo up`` and ``python -m demo down``: what ``make demo`` and ``make demo-down`` run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from demo.progress import StepFailedError, Steps
from demo.quickstart import ROOT
from demo.run import TOTAL_STEPS, Demo
from e2e.support import environment
from hack.cache import locked

LOGS: Final = ROOT / "build" / "demo"
USAGE: Final = "usage: python -m demo up | down"


def up(console: Console) -> int:
    """Run the demo; exit code 0 if everything, the check of the replay included, went well."""
    begun = time.monotonic()
    setup = setup_seconds(os.environ, time.time())
    steps = Steps(console, LOGS, TOTAL_STEPS)
    try:
        # Two runs at once would produce the same events at the same time.
        with locked("demo"):
            Demo(steps).run()
    except StepFailedError as error:
        explain(console, error)
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped; another `make demo` goes on from here, `make demo-down` removes everything")
        return 130
    times = [("make setup", setup)] if setup is not None else []
    console.print(f"\nAll of it took {(setup or 0) + time.monotonic() - begun:.0f} s:", highlight=False)
    for name, seconds in times + steps.times:
        console.print(f"  {seconds:7.1f} s  {name}", highlight=False)
    return 0


def setup_seconds(settings: Mapping[str, str], now: float) -> float | None:
    """How long ``make setup`` took: since make began, as it says in ``SLUICE_BEGUN``; None if make wasn't there."""
    begun = settings.get("SLUICE_BEGUN", "")
    return max(0.0, now - float(begun)) if begun else None


def explain(console: Console, error: StepFailedError) -> None:
    """Say which step failed, why, and how to see more."""
    console.print(f"\n[red]The step “{error.step}” failed:[/red]")
    console.print(error.why, markup=False, highlight=False)
    console.print(f"\nThe step's whole output: {_relative(error.log)}", highlight=False)
    for line in environment.how_to_see_more():
        console.print(line, markup=False, highlight=False)
    console.print("Another `make demo` goes on from here; `make demo-down` removes everything.", highlight=False)


def down(console: Console) -> int:
    """Remove everything that the demo made; what was built stays in the cache."""
    steps = Steps(console, LOGS, 1)
    try:
        with steps.step("Remove what the demo made") as step:
            step.command(environment.down_command())
    except StepFailedError as error:
        explain(console, error)
        return 1
    console.print("What was built (Kubernetes, images) stays in the cache: the next `make demo` is fast.")
    return 0


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(arguments: list[str]) -> int:
    """Run the command that ``arguments`` name."""
    console = Console(soft_wrap=True)
    match arguments:
        case ["up"]:
            return up(console)
        case ["down"]:
            return down(console)
        case _:
            console.print(USAGE)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
