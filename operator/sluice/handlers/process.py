"""``sluice operator``: kopf in uvloop, with Sluice's handlers, log and exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys

import kopf
import uvloop

from sluice.engine.settings import Settings
from sluice.handlers.startup import Operator
from sluice.observability import logs

_LOG = logging.getLogger(__name__)


def run(operator_type: type[Operator] = Operator) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code: 0 if asked to stop, 1 after a failure, 2 for bad settings."""
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(f"sluice operator: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level)
    return uvloop.run(_run(settings, operator_type))


async def _run(settings: Settings, operator_type: type[Operator]) -> int:
    # What was imported stays: the collector needn't look at it again and again.
    gc.collect()
    gc.freeze()
    ending = asyncio.Event()
    memo = kopf.Memo(ending=ending, operator_type=operator_type)
    try:
        await kopf.operator(
            standalone=True,
            # Else kopf asks for the name of the user, and containers have none for theirs.
            identity=settings.identity,  # type: ignore[arg-type]
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            memo=memo,
            stop_flag=ending,
        )
    except Exception as error:  # noqa: BLE001 - the last line of a process that ends
        _LOG.critical("the operator has failed: %s: %s", type(error).__name__, error, exc_info=error)
        return 1
    return 1 if memo.operator.failed else 0
