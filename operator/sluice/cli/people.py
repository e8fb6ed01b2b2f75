"""The commands for people: ``kubectl sluice status``, ``kubectl sluice replay …`` and ``kubectl sluice audit``.

Everything here can be had with kubectl alone; these show it better. What a command needs is imported when it runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the one of the kubeconfig's context unless said.")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the ReplayJob.")]
Start = Annotated[
    str | None,
    typer.Option(
        "--from", help="Where it starts, inclusive: Earliest, an offset, or a time (RFC 3339).", show_default="Earliest"
    ),
]
End = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="Where it ends, exclusive: Latest, an offset, or a time (RFC 3339). With --rewind where the group goes:"
        " also Earliest, +N or -N offsets from where it is, or snapshot:NAME.",
        show_default="Latest",
    ),
]
AuditUser = Annotated[
    str | None, typer.Option("--user", metavar="[NAMESPACE/]NAME", help="The User who reads the audit; it needs Read.")
]
AuditConfig = Annotated[
    Path | None,
    typer.Option("--config", help="Or a file with librdkafka's configuration as JSON, as Users' Secrets have."),
]


class Output(StrEnum):
    """How a manifest is printed."""

    YAML = "yaml"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(status)
    app.command()(audit)
    replay = typer.Typer(no_args_is_help=True, help="Make replays, follow them, and say whether they go on.")
    for command in (create, plan, approve, watch, suspend, resume, cancel, undo, report):
        replay.command()(command)
    app.add_typer(replay, name="replay")


def status(namespace: Namespace = None, everywhere: Everywhere = False, context: Context = None) -> None:
    """Show every object of Sluice, whether it is ready, and if not, why; exit code 1 if one isn't."""
    from sluice.cli.status import run

    raise typer.Exit(run(namespace, everywhere, context))


def audit(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Of this job only: NAME, or NAMESPACE/NAME.")] = None,
    user: AuditUser = None,
    config: AuditConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each fact.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show what was done about replays, by whom, from the cluster's audit; brokers have to be reachable."""
    from sluice.cli.audit import Reader, run_audit

    raise typer.Exit(run_audit(job, Reader(user, config), as_json, namespace, context))


def report(
    job: Job,
    user: AuditUser = None,
    config: AuditConfig = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Print what happened to a replay, in order: from the audit, or without it from its status and Events."""
    from sluice.cli.audit import Reader, run_report

    raise typer.Exit(run_report(job, Reader(user, config), namespace, context))


def plan(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Show what a replay moves: the range of each partition, or the way of each position, frozen before it moves."""
    from sluice.cli.replay import run_plan

    raise typer.Exit(run_plan(job, namespace, context))


def watch(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Follow a replay to its end; exit code 0 if it completed, 1 if it failed, was refused or cancelled."""
    from sluice.cli.replay import run_watch

    raise typer.Exit(run_watch(job, namespace, context))


def create(
    job: Job,
    cluster: Annotated[str, typer.Option(help="The MessagingCluster: NAME, or NAMESPACE/NAME.")],
    source: Annotated[str | None, typer.Option(help="Topic that is read.")] = None,
    target: Annotated[str | None, typer.Option(help="Topic that is written.")] = None,
    start: Start = None,
    end: End = None,
    rewind: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Copy nothing: move the positions of this consumer group.")
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="With --rewind: only in this topic; may be said again.")
    ] = None,
    wait: Annotated[
        int | None, typer.Option(min=0, help="With --rewind: seconds to wait for the group to have no members.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only: nothing moves.")] = False,
    accept_reordering: Annotated[
        bool, typer.Option("--accept-reordering", help="Old values may come after newer ones in the target.")
    ] = False,
    run_id: Annotated[str | None, typer.Option(help="Another run of what was completed or cancelled before.")] = None,
    parallelism: Annotated[int | None, typer.Option(min=1, max=100, help="Workers.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Only records of this key; may be said again.")] = None,
    key_prefix: Annotated[list[str] | None, typer.Option(help="Only keys that begin so; may be said again.")] = None,
    key_regex: Annotated[str | None, typer.Option(help="Only keys in which this (RE2) is found.")] = None,
    key_share: Annotated[str | None, typer.Option(help="Only so many per cent of all keys: 10, or 10-20.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="Only records with this header: NAME, or NAME=VALUE; all that are said.")
    ] = None,
    exclude_replayed: Annotated[
        bool, typer.Option("--exclude-replayed", help="Leave out what a replay has written, by its headers.")
    ] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Copied records say in headers where they come from.")
    ] = False,
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="Print the manifest, and make nothing.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Make a replay, or with -o yaml print its manifest, to be kept in Git."""
    from sluice.cli.replay_acts import Request, Selected, run_create

    chosen = Selected(key or (), key_prefix or (), key_regex, key_share, header or (), exclude_replayed, provenance)
    request = Request(
        job,
        cluster,
        source,
        target,
        start,
        end,
        dry_run,
        run_id,
        parallelism,
        accept_reordering,
        rewind,
        tuple(topic or ()),
        wait,
        chosen,
    )
    raise typer.Exit(run_create(request, output.value if output else None, namespace, context))


def approve(
    job: Job,
    plan: Annotated[str | None, typer.Option(help="Only if its plan has this hash.")] = None,
    break_glass: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Let it begin without the approvals that it needs; everybody is told."),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Approve a replay's plan, as somebody other than the one who asked for it."""
    from sluice.cli.replay_acts import run_approve

    raise typer.Exit(run_approve(job, break_glass, plan, namespace, context))


def suspend(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Stop a replay's workers; it keeps its place, and goes on when it is resumed."""
    _act("suspend", job, namespace, context)


def resume(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Let a suspended replay go on from where it was, with the same plan."""
    _act("resume", job, namespace, context)


def cancel(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Give a replay up, for good: applied again it isn't begun again. What was copied stays in the target."""
    _act("cancel", job, namespace, context)


def undo(job: Job, namespace: Namespace = None, context: Context = None) -> None:
    """Put a group back to where it was before a completed Rewind; once, and only while it has no members."""
    _act("undo", job, namespace, context)


def _act(act: str, job: str, namespace: str | None, context: str | None) -> None:
    from sluice.cli.replay_acts import run_act
    from sluice.plan.replay_control import Act

    raise typer.Exit(run_act(Act(act), job, namespace, context))
