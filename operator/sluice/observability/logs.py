"""Structured logs: one JSON object a line, with what is being reconciled."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

reconcile_id: contextvars.ContextVar[str] = contextvars.ContextVar("reconcile_id", default="")
"""Which reconciliation the current task works for; every line of its log carries it."""

_EXTRA: Final = ("kind", "namespace", "object", "failures", "identity", "count")
"""What callers may pass as ``extra``: a closed set, so that nothing secret comes along by accident."""
_REFUSED: Final = re.compile(r"Webhook 'validate-[a-z]+' failed permanently")
_QUIET: Final = ("kopf", "kafka", "aiohttp", "asyncio", "kubernetes")


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := reconcile_id.get():
            line["reconcile"] = current
        for name in _EXTRA:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class NoRefusals(logging.Filter):
    """Drops kopf's error lines for objects that admission refused: the user is told, and nothing has failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        return _REFUSED.match(record.getMessage()) is None


def configure(level: str) -> None:
    """Write Sluice's log to standard error as JSON; libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("sluice").setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kopf.objects").addFilter(NoRefusals())
