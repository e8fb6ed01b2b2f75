"""``make test``: runs its phases, keeps what they say, and tells where the time went.

Each phase is a target of the Makefile, so that it can be run again alone. A local Kubernetes that this run made is
removed at the end, whatever happened (with ``KEEP=1`` it stays); one that was there before is used, and stays.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from hack.cache import ROOT

LOGS: Final = ROOT / "artifacts" / "logs"
PHASES: Final = (("setup",), ("check",), ("binaries", "images"), ("integration",), ("cluster-up",), ("e2e",))
"""One after the other; those in brackets together run side by side, as one compiles while the other mostly waits."""
USING_A_CLUSTER: Final = ("cluster-up", "e2e")
CLEANUP: Final = "cluster-down"
CLOSING: Final = re.compile(r"^(=+ )?\d+ (passed|failed|error|skipped|deselected|warning|xfailed|xpassed).* in [\d.]+s")
COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """How a phase went."""

    name: str
    seconds: float
    code: int
    closing: list[str]
    """pytest's closing lines."""


class Phase:
    """``make <name>`` while it runs: what it says goes to our output after ``prefix``, and to ``<name>.log``."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self._name = name
        self._prefix = prefix
        self._started = self._ended = time.monotonic()
        self._closing: list[str] = []
        self._process = subprocess.Popen(
            ["make", "--no-print-directory", name],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> Result:
        """Wait for its end."""
        self._reader.join()
        return Result(self._name, self._ended - self._started, self._process.wait(), self._closing)

    def stop(self) -> None:
        """Ask it to end: make passes it on to what it runs."""
        self._process.terminate()
        self._process.wait(60)

    def _read(self) -> None:
        with (LOGS / f"{self._name}.log").open("w") as log:
            for line in self._process.stdout or ():
                sys.stdout.write(self._prefix + line)
                sys.stdout.flush()
                log.write(line)
                if CLOSING.match(bare := COLOURS.sub("", line).rstrip()):
                    self._closing.append(bare)
        self._ended = time.monotonic()


def run_phases(names: Sequence[str]) -> list[Result]:
    """Run phases side by side, each to its end."""
    title = " and ".join(names)
    print(f"\n── {title} " + "─" * (76 - len(title)), flush=True)
    width = max(map(len, names))
    running: list[Phase] = []
    try:
        running.extend(Phase(name, f"{name:<{width}} │ " if len(names) > 1 else "") for name in names)
        return [phase.wait() for phase in running]
    except BaseException:
        for phase in running:
            phase.stop()
        raise


def cluster_runs() -> bool:
    """Whether there is a local Kubernetes already (or one of a kubeconfig that the demo is in)."""
    command = [sys.executable, "-m", "e2e.cluster", "status"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


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
    keep = os.environ.get("KEEP") == "1"
    if cluster_runs():
        print("A local Kubernetes runs already: the scenarios use it, and it stays.")
        keep = True
    elif os.environ.get("SLUICE_CLUSTER") != "kubeconfig":
        # In the demo everything is on one node; here pods are spread, and speak across nodes.
        os.environ.setdefault("NODES", "3")
    results: list[Result] = []
    touched = False
    try:
        for names in PHASES:
            touched = touched or any(name in USING_A_CLUSTER for name in names)
            results += run_phases(names)
            if any(result.code != 0 for result in results):
                break
    finally:
        if touched and not keep:
            results += run_phases([CLEANUP])
        report(results, time.monotonic() - started)
    return int(any(result.code != 0 for result in results))


if __name__ == "__main__":
    sys.exit(main())
