"""HTTP for probes and Prometheus: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sluice.observability.metrics import Metrics

Check = Callable[[], bool]


class HealthServer:
    """Serves on all interfaces; that it answers shows that the event loop runs.

    Args:
        healthy: checks that must hold for the process to go on, by name.
        ready: checks that must hold for the replica to be of use, by name.
    """

    def __init__(self, metrics: Metrics, port: int, healthy: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        self._metrics = metrics
        self._port = port
        self._healthy = healthy
        self._ready = ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            OSError: the port is taken.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", lambda _: self._serve_checks(self._healthy))
        app.router.add_get("/readyz", lambda _: self._serve_checks(self._ready))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, None, self._port).start()

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _serve_checks(self, checks: Mapping[str, Check]) -> web.Response:
        results = {name: check() for name, check in checks.items()}
        text = "".join(f"{name}: {'ok' if ok else 'failing'}\n" for name, ok in results.items())
        return web.Response(text=text, status=200 if all(results.values()) else 503)
