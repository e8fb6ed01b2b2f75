"""The worker process: one shard of a replay, session after session, until it is done or can't be.

It needs Kafka and two folders of files, and no right in Kubernetes. The last line on stdout, also written to the
container's termination log, is JSON: ``{"result": "done", "records": …, "bytes": …,
"filtered": …, "seconds": …}``, or ``"result": "failed"`` with
``"code"`` and the sentence in ``"error"``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final

from sluice.kafka.connection import ConnectionSettings
from sluice.replay.assignment import Access, Assignment
from sluice.replay.errors import (
    BadPlanError,
    DeniedError,
    DoubtError,
    ExitCode,
    GaveUpError,
    ReplayError,
)
from sluice.replay.positions import Counts
from sluice.replay.session import Session
from sluice.replay.transaction import NOBODY

log = logging.getLogger(__name__)

TERMINATION_LOG: Final = Path("/dev/termination-log")
_DENIED_SECONDS: Final = 20.0
"""How long a missing right or topic may be a broker that hasn't heard of it yet."""
_LONGEST_PAUSE: Final = 5.0
_FIRST_PAUSE: Final = 0.05


def connection_settings(access: Access, credentials: Path) -> ConnectionSettings:
    """How to connect, with the credentials that stand in the folder now (they are renewed while a replay runs).

    Files: ``ca.crt``; ``user.crt`` and ``user.key``; ``username`` and ``password``; each only where it is needed.

    Raises:
        BadPlanError: a file can't be read.
    """
    folder = credentials / access.credentials

    def read(name: str) -> str | None:
        try:
            return (folder / name).read_text()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadPlanError(f"credentials can't be read: {error}") from error

    settings = ConnectionSettings(
        bootstrap_servers=access.bootstrap_servers,
        tls=access.tls,
        ca_pem=read("ca.crt"),
        cert_pem=read("user.crt"),
        key_pem=read("user.key"),
        sasl_mechanism=access.sasl_mechanism,
        username=read("username"),
        password=read("password"),
    )
    if access.sasl_mechanism and not (settings.username and settings.password):
        raise BadPlanError(f"{access.sasl_mechanism} needs the files username and password in {folder}")
    return settings


class Worker:
    """Copies one shard to its end."""

    def __init__(self, assignment: Assignment, credentials: Path, shard: int) -> None:
        if not any(s.shard == shard for s in assignment.slices):
            raise BadPlanError(f"the plan has no shard {shard}")
        self._assignment = assignment
        self._credentials = credentials
        self._shard = shard
        self._session: Session | None = None
        self._stopping = False
        self._progressed = time.monotonic()
        self._denied_since: float | None = None

    def stop(self) -> None:
        """Commit and return soon."""
        self._stopping = True
        if self._session is not None:
            self._session.stop()

    async def run(self) -> Counts | None:
        """Copy to the end; returns what was written in all, or None if stopped before.

        Raises:
            ReplayError: it can't go on; ``code`` says how.
        """
        pause = _FIRST_PAUSE
        identity = NOBODY
        while not self._stopping:
            started = self._progressed
            self._session = session = Session(
                self._assignment,
                self._shard,
                lambda: connection_settings(self._assignment.source, self._credentials),
                lambda: connection_settings(self._assignment.target, self._credentials),
                self._on_progress,
                identity,
            )
            try:
                if await session.run():
                    return session.counts
            except (DoubtError, DeniedError) as error:
                self._judge(error)
                log.warning("going on from the committed position: %s", error)
            identity = session.identity
            if self._progressed > started:
                pause = _FIRST_PAUSE
            if not self._stopping:
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 (only spreads retries)
                pause = min(pause * 2, _LONGEST_PAUSE)
        return None

    def _on_progress(self) -> None:
        self._progressed = time.monotonic()
        self._denied_since = None

    def _judge(self, error: DoubtError | DeniedError) -> None:
        now = time.monotonic()
        if not isinstance(error, DeniedError):
            self._denied_since = None
        elif self._denied_since is None:
            self._denied_since = now
        elif now - self._denied_since > _DENIED_SECONDS:
            raise error
        idle = now - self._progressed
        if idle > self._assignment.limits.stall_seconds:
            raise GaveUpError(f"nothing moved for {idle:.0f} s: {error}") from error


async def _run(worker: Worker) -> Counts | None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    return await worker.run()


def main(plan: Path, credentials: Path, shard: int) -> int:
    """Run a worker to its end; returns the exit code (``ExitCode``)."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    # numpy's linear algebra, which nothing here uses, would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    started = time.monotonic()
    try:
        worker = Worker(Assignment.read(plan), credentials, shard)
        counts = asyncio.run(_run(worker))
    except ReplayError as error:
        return _finish(error.code, {"result": "failed", "error": str(error)})
    if counts is None:
        return _finish(ExitCode.STOPPED, {"result": "stopped"})
    seconds = round(time.monotonic() - started, 3)
    done = {"records": counts.records, "bytes": counts.bytes, "filtered": counts.filtered, "seconds": seconds}
    return _finish(ExitCode.DONE, {"result": "done", **done})


def _finish(code: ExitCode, summary: dict[str, str | int | float]) -> int:
    line = json.dumps(summary | {"code": code.name})
    print(line, flush=True)
    if TERMINATION_LOG.exists():
        with contextlib.suppress(OSError):
            TERMINATION_LOG.write_text(line)
    return int(code)
