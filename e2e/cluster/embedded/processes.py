"""Processes that outlive the command that started them, and are found and ended again with certainty.

Each carries the state folder in its environment (what it starts inherits that, as containerd's shims do) and writes its
own pid file before it becomes the program: no moment of a killed ``up`` leaves one that is not found, and no process of
somebody else is ever taken for ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

_MARK: Final = "SLUICE_EMBEDDED_CLUSTER"
_LONGEST_EXEC: Final = 10.0
"""Seconds."""
_ENV_START: Final = 47
"""Place in ``/proc/<pid>/stat``, counted from the state on."""


class Processes:
    """Long-running processes of the cluster in ``state``."""

    def __init__(self, state: Path) -> None:
        self._mark = f"{_MARK}={state}".encode()
        self._environment = {_MARK: str(state)}
        self._pids = state / "run"
        self.logs = state / "logs"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start ``name``, away from our terminal and session; its output goes to ``logs/<name>.log``."""
        self._pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._pids / name), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **self._environment, **(environment or {})},
            )

    def alive(self) -> dict[str, bool]:
        """Whether each process that was started still runs."""
        if not self._pids.is_dir():
            return {}
        return {file.name: self._runs(file) for file in sorted(self._pids.iterdir())}

    def tail(self, name: str, characters: int = 2000) -> str:
        """The end of a log."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-characters:]

    def ours(self) -> list[int]:
        """Pids of all processes that were started here, and of those that they started, whose pid file or not."""
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and self._carries_mark(int(entry))]

    def _runs(self, pid_file: Path) -> bool:
        text = pid_file.read_text().strip()
        return text.isdigit() and self._carries_mark(int(text))

    def _carries_mark(self, pid: int) -> bool:
        if pid == os.getpid():
            return False
        return self._mark in _environment(pid).split(b"\0")


def _environment(pid: int) -> bytes:
    """The environment of a process; empty if it has ended (a zombie's is too) or is the kernel's own.

    In the middle of an exec it reads as empty although the process runs (proc(5): ``env_start`` isn't set yet), for as
    long as it takes to read the program from the disk: that is waited out.
    """
    folder = Path(f"/proc/{pid}")
    deadline = time.monotonic() + _LONGEST_EXEC
    try:
        while not (found := (folder / "environ").read_bytes()) and time.monotonic() < deadline:
            (folder / "exe").readlink()  # raises for a zombie and for the kernel's own
            env_start = (folder / "stat").read_text().rpartition(")")[2].split()[_ENV_START]
            if env_start != "0":  # it really has none
                return (folder / "environ").read_bytes()
            time.sleep(0.001)
    except OSError:
        return b""
    return found


def kill(pids: Iterable[int]) -> None:
    """End processes at once (SIGKILL); those that have ended already are fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_gone(still_there: Iterable[int], timeout: float = 10) -> None:
    """Wait until none of these processes runs (a zombie doesn't). Raises TimeoutError that names the rest."""
    left = set(still_there)
    deadline = time.monotonic() + timeout
    while left := {pid for pid in left if _runs(pid)}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(left)} don't end although they were killed")
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
