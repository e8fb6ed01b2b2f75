"""``make test``: runs the phases one after the other, keeps what they say, and tells where the time went.

Each phase is a target of the Makefile, so that it can be run again alone. The local Kubernetes is removed at the end,
whatever happened; with ``KEEP=1`` it stays.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import FrameType

from hack.cache import ROOT

LOGS = ROOT / "artifacts" / "logs"
PHASES = ("setup", "check", "integration")
WHOLE = (*PHASES, "cluster-up", "images", "e2e")
"""With ``WHOLE=1``: the scenarios on the local Kubernetes too; they join PHASES as each is seen to hold."""
CLEANUP = "cluster-down"
CLOSING = re.compile(r"^(=+ )?\d+ (passed|failed|error|skipped|deselected|warning|xfailed|xpassed).* in [\d.]+s")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """How a phase went."""

    name: str
    seconds: float
    code: int
    closing: list[str]
    """pytest's closing lines."""


def run_phase(name: str) -> Result:
    """Run ``make <name>``; its output goes to ours and to ``artifacts/logs/<name>.log``."""
    print(f"\n── {name} " + "─" * (76 - len(name)), flush=True)
    started = time.monotonic()
    closing: list[str] = []
    with (LOGS / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            ["make", "--no-print-directory", name],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
        )
        try:
            for line in process.stdout or ():
                sys.stdout.write(line)
                sys.stdout.flush()
                log.write(line)
                if CLOSING.match(bare := COLOURS.sub("", line).rstrip()):
                    closing.append(bare)
            code = process.wait()
        except BaseException:
            # Asked to stop: make passes it on to what it runs.
            process.terminate()
            process.wait(60)
            raise
    return Result(name, time.monotonic() - started, code, closing)


def report(results: list[Result], total: float) -> None:
    """Where the time went, and what pytest said."""
    print("\n── where the time went " + "─" * 57)
    print(f"{'phase':<14}{'seconds':>9}  result")
    for result in results:
        print(f"{result.name:<14}{result.seconds:>9.1f}  {'ok' if result.code == 0 else f'FAILED ({result.code})'}")
    print(f"{'total':<14}{total:>9.1f}")
    failed = [result for result in results if result.code != 0]
    for result in failed:
        print(f"\nThe phase {result.name} failed. All it said: artifacts/logs/{result.name}.log")
        print(f"Alone again: make {result.name}")
        if result.name == "e2e":
            print("Objects, events and logs of each failed scenario: artifacts/")
    print()
    for result in results:
        for line in result.closing:
            print(f"{result.name}: {line}")
    sys.stdout.flush()


def main() -> int:
    """Run all phases up to the first that fails; 0 if none does."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results: list[Result] = []
    try:
        for name in WHOLE if os.environ.get("WHOLE") == "1" else PHASES:
            results.append(run_phase(name))
            if results[-1].code != 0:
                break
    finally:
        touched = "cluster-up" in {result.name for result in results}
        if touched and os.environ.get("KEEP") != "1":
            results.append(run_phase(CLEANUP))
        report(results, time.monotonic() - started)
    return max(result.code != 0 for result in results)


if __name__ == "__main__":
    sys.exit(main())
