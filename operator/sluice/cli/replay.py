"""What ``sluice replay`` shows: a replay's frozen plan, and how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sluice.api.objects import ReplayJob
from sluice.api.replay import ENDED, Mode, ReplayPhase, ReplayPlan
from sluice.api.replay_rewind import RewindStatus
from sluice.cli.access import current_namespace, kubernetes, one

_EVERY: Final = 1.0
"""Seconds between two looks; the operator writes progress at most every two."""


def run_watch(name: str, namespace: str | None, context: str | None) -> int:
    """Follow a replay to its end; the exit code says whether it did what it was asked for."""
    ended = asyncio.run(_watch(name, namespace or current_namespace(context), context))
    Console().print(ending(ended), highlight=False)
    return 0 if succeeded(ended) else 1


def run_plan(name: str, namespace: str | None, context: str | None) -> int:
    """Show a replay's plan; the exit code says whether there is one."""
    found = asyncio.run(_read(name, namespace or current_namespace(context), context))
    console = Console()
    if found.status.rewind is not None:
        for line in rewind_lines(found.spec.rewind.group, found.status.rewind):
            console.print(line, highlight=False)
        console.print(rewind_table(found.status.rewind))
        return 0
    if found.status.plan is None:
        console.print(f"{name} has no plan yet: {sentence(found)}", highlight=False)
        return 1
    for line in plan_lines(found.spec.source.topic, found.spec.target.topic, found.status.plan):
        console.print(line, highlight=False)
    console.print(plan_table(found.status.plan))
    return 0


def succeeded(job: ReplayJob) -> bool:
    """Whether the replay did what it was asked for; a dry run only plans."""
    phase = job.status.phase
    return phase in (ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED) or planned_only(job)


def planned_only(job: ReplayJob) -> bool:
    """Whether it is a dry run whose plan is made: nothing more will come."""
    return bool(job.spec.dry_run) and job.status.phase is ReplayPhase.PLANNED


def sentence(job: ReplayJob) -> str:
    """What the replay's condition Ready says, or that it says nothing yet."""
    ready = next((c for c in job.status.conditions if c.type == "Ready"), None)
    return f"{ready.reason}: {ready.message}" if ready else "the operator hasn't looked at it yet"


def ending(job: ReplayJob) -> str:
    """How it ended, in a line."""
    status = job.status
    text = f"{job.name}: {status.phase.value if status.phase else 'Pending'}"
    if job.spec.mode is Mode.REWIND:
        return f"{text} ({sentence(job)})"
    if status.progress is not None:
        text += f", {status.progress.records:,} records, {status.progress.bytes:,} bytes"
        text += f", {status.progress.filtered:,} left out" if status.progress.filtered else ""
    if status.start_time and status.completion_time:
        text += f" in {(status.completion_time - status.start_time).total_seconds():.0f} s"
    return text if status.phase is ReplayPhase.COMPLETED else f"{text} ({sentence(job)})"


def plan_lines(source: str, target: str, found: ReplayPlan) -> Iterator[str]:
    """The plan in sentences."""
    yield f"{source} → {target}, frozen {found.planned_at:%Y-%m-%d %H:%M:%S %Z} (plan {found.hash})"
    if found.from_time or found.to_time:
        start = found.from_time.isoformat() if found.from_time else "the beginning"
        end = found.to_time.isoformat() if found.to_time else "the end"
        yield f"records with a timestamp from {start} to before {end}"
    yield f"{found.offsets:,} offsets in {len(found.partitions):,} partitions: at most so many records"
    for warning in found.warnings:
        yield f"warning: {warning}"


def plan_table(found: ReplayPlan) -> Table:
    """The range of each partition."""
    table = Table("PARTITION", "START", "END", "OFFSETS", "WORKER", box=None)
    for column in table.columns:
        column.justify = "right"
    for partition in found.partitions:
        table.add_row(
            str(partition.partition),
            f"{partition.start:,}",
            f"{partition.end:,}",
            f"{partition.end - partition.start:,}",
            str(partition.shard),
        )
    return table


def rewind_lines(group: str, found: RewindStatus) -> Iterator[str]:
    """The plan of a Rewind in sentences."""
    yield f"group {group}, planned {found.planned_at:%Y-%m-%d %H:%M:%S %Z} (plan {found.hash})"
    yield f"{found.moved:,} positions move: {found.backward:,} offsets back, {found.forward:,} offsets ahead"
    if found.moved > len(found.positions):
        yield f"shown are the {len(found.positions):,} with the longest ways"
    if found.snapshot:
        yield f"where it was is kept as snapshot:{found.snapshot}"
    for warning in found.warnings:
        yield f"warning: {warning}"


def rewind_table(found: RewindStatus) -> Table:
    """The way of each position."""
    table = Table("TOPIC", "PARTITION", "FROM", "TO", "OFFSETS", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for way in found.positions:
        before = way.from_
        table.add_row(
            way.topic,
            str(way.partition),
            "none" if before is None else f"{before:,}",
            f"{way.to:,}",
            "" if before is None else f"{way.to - before:+,}",
        )
    return table


async def _read(name: str, namespace: str, context: str | None) -> ReplayJob:
    async with kubernetes(context) as kube:
        return await one(kube, "ReplayJob", namespace, name)


async def _watch(name: str, namespace: str, context: str | None) -> ReplayJob:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    async with kubernetes(context) as kube:
        with Progress(*columns) as progress:
            task = progress.add_task(name, total=None, detail="")
            while True:
                job: ReplayJob = await one(kube, "ReplayJob", namespace, name)
                _show(progress, task, job)
                if job.status.phase in ENDED or planned_only(job):
                    return job
                await asyncio.sleep(_EVERY)


def _show(progress: Progress, task: TaskID, job: ReplayJob) -> None:
    """Bring the bar to where the replay is."""
    now = job.status.progress
    if now is None:
        progress.update(task, detail=sentence(job))
        return
    if job.status.phase is ReplayPhase.SUSPENDED:
        progress.update(task, total=100, completed=now.percent, detail=f"{now.records:,} records, suspended")
        return
    left = f", {now.seconds_left} s left" if now.seconds_left else ""
    progress.update(
        task,
        total=100,
        completed=now.percent,
        detail=f"{now.records:,} records, {now.records_per_second:,}/s{left}",
    )
