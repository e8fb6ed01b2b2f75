"""The commands: ``sluice operator``, ``sluice replay-worker``, and what people use as ``kubectl sluice …``.

A registry, and nothing else: each module in ``MODULES`` has a ``register(app)`` that adds its commands, and imports
what a command needs when that command runs, so that every command starts fast and small.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

MODULES: Final = ("sluice.cli.processes", "sluice.cli.people")
"""Modules that have commands, in the order of the help."""

app = typer.Typer(
    name="sluice",
    help="Sluice: a Kubernetes operator for Apache Kafka with bounded, exactly-once, audited replay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

for _module in MODULES:
    import_module(_module).register(app)
