"""Commands that containers run: the operator, the replay worker; and the version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def operator() -> None:
    """Run the operator; settings come from the environment (SLUICE_…)."""
    from sluice.handlers.process import run

    raise typer.Exit(run())


def replay_worker(
    plan: Annotated[Path, typer.Option(help="File with the replay's frozen plan.")],
    credentials: Annotated[Path, typer.Option(help="Folder with credentials.")],
    shard: Annotated[int, typer.Option(help="Which shard of the plan this worker has.", envvar="JOB_COMPLETION_INDEX")],
) -> None:
    """Run one worker of a replay, to the end of its shard."""
    from sluice.replay.worker import main

    raise typer.Exit(main(plan, credentials, shard))


def version() -> None:
    """Print the version."""
    from sluice import __version__

    typer.echo(__version__)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("operator")(operator)
    app.command("replay-worker")(replay_worker)
    app.command("version")(version)
