"""The commands for people: ``kubectl sluice status`` and ``kubectl sluice replay …``.

Everything here can be had with kubectl alone; these show it better. What a command needs is imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the one of the kubeconfig's context unless said.")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the ReplayJob.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(status)
    replay = typer.Typer(no_args_is_help=True, help="Look at replays and follow them.")
    replay.command()(plan)
    replay.command()(watch)
    app.add_typer(replay, name="replay")


def status(namespace: Namespace = None, everywhere: Everywhere = False, context: Context = None) -> None:
    """Show every object of Sluice, whether it is ready, and if not, why; exit code 1 if one isn't."""
    from sluice.cli.status import run

    raise typer.Exit(run(namespace, everywhere, context))


def plan(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Show what a replay moves: the range of each partition, frozen before anything moved."""
    from sluice.cli.replay import run_plan

    raise typer.Exit(run_plan(job, namespace, context))


def watch(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Follow a replay to its end; exit code 0 if it completed, 1 if it failed or was refused."""
    from sluice.cli.replay import run_watch

    raise typer.Exit(run_watch(job, namespace, context))
