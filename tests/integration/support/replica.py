"""Replicas of the operator as processes: what they say of themselves, and their webhooks."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.processes import free_port

ROOT = Path(__file__).resolve().parents[3]
LEASE_SECONDS = 3
_WRITE = re.compile('verb="(POST|PATCH|DELETE)"')


async def eventually(holds: Callable[[], Awaitable[Any]], what: str, seconds: float = 60.0, pause: float = 0.1) -> Any:
    """Wait until something holds; its (true) value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := await holds():
            return value
        await asyncio.sleep(pause)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass
class Replica:
    """One process of the operator."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    webhook_port: int

    async def get(self, path: str) -> tuple[int, str]:
        """Answer of its health port; status 0 if there is none."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.metrics_port}{path}") as response,
            ):
                return response.status, await response.text()
        except aiohttp.ClientError:
            return 0, ""

    async def ready(self) -> bool:
        """Whether it says so."""
        assert self.process.poll() is None, "the operator has ended"
        return (await self.get("/readyz"))[0] == 200

    async def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels."""
        samples = await self._samples(name)
        return sum(v for found, v in samples if all(f'{k}="{w}"' in found for k, w in labels.items()))

    async def _samples(self, name: str) -> list[tuple[str, float]]:
        """Labels, as they are written, and value of each sample of a metric."""
        _, text = await self.get("/metrics")
        return [(found, float(v)) for found, v in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.M)]

    async def leads(self) -> bool:
        """Whether it is the leader."""
        return await self.metric("sluice_leader") == 1

    async def writes(self) -> float:
        """Writes to the API server, but those of the Lease."""
        samples = await self._samples("sluice_kubernetes_requests_total")
        return sum(v for found, v in samples if _WRITE.search(found) and 'kind="Lease"' not in found)


@contextmanager
def running_replica(
    kubeconfig: Path, namespace: str, logs: Path, identity: str = "one", lease_seconds: int = LEASE_SECONDS
) -> Iterator[Replica]:
    """A replica that looks after a namespace, ended by SIGTERM if it still runs."""
    ports = free_port(), free_port()
    environment = os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT),
        "SLUICE_NAMESPACE": namespace,
        "SLUICE_WATCH_NAMESPACES": namespace,
        "SLUICE_POD_NAME": identity,
        "SLUICE_LEASE_SECONDS": str(lease_seconds),
        "SLUICE_METRICS_PORT": str(ports[0]),
        "SLUICE_WEBHOOK_PORT": str(ports[1]),
    }
    with (logs / f"{identity}.log").open("ab") as log:
        command = [sys.executable, "-m", "tests.integration.support.engine_operator"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield Replica(process, *ports)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(40)
