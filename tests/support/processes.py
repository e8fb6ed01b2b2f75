"""Processes and ports of tests."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_taken: set[int] = set()


def free_port() -> int:
    """A free port on loopback, another at each call.

    Below the range from which Linux takes ports for outgoing connections: a server that was killed finds its port
    still free. Below those of NodePorts, too, and each of pytest's workers takes its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = random.randrange(20000 + worker, 30000, workers)  # noqa: S311
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port


def wait_until(condition: Callable[[], bool], timeout: float, what: str, *, every: float = 0.05) -> None:
    """Ask ``condition`` until it holds. Raises TimeoutError that says ``what`` was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(every)


class Process:
    """A process that ends with the tests, also when they are killed."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        # The guard's standard input closes when we die, however that happens.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$1"', "guard", str(self.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(timeout)
        self._release()
        return code

    def kill(self) -> None:
        """End it without warning (SIGKILL)."""
        self._end(signal.SIGKILL, 30)

    def stop(self, timeout: float = 30) -> None:
        """Ask it to end (SIGTERM); SIGKILL after ``timeout`` seconds."""
        self._end(signal.SIGTERM, timeout)

    def tail(self, characters: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    def _end(self, how: signal.Signals, timeout: float) -> None:
        if self.running:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(30)
        self._release()

    def _release(self) -> None:
        # The guard goes first: it must not shoot at a process number that belongs to another by then.
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()
