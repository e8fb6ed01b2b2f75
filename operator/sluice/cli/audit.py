"""``sluice audit`` and ``sluice replay report``: what was done about replays, by whom, and when.

The audit is a topic, and is read as every topic is: with the credentials of somebody who may, from where brokers can be
reached. Without those, a report is made of what Kubernetes has: the object's status, and Events while there are any.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sluice.api.base import API_VERSION
from sluice.api.objects import ReplayJob, parse
from sluice.api.replay import Mode
from sluice.cli.access import current_namespace, kubernetes, one
from sluice.cli.replay import sentence
from sluice.kafka.admin import KafkaAdmin
from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaError
from sluice.kube.client import Kube
from sluice.kube.errors import ForbiddenError
from sluice.manifests.metadata import decode
from sluice.plan.replay_approval import REQUESTED_BY
from sluice.replay.audit import Audit

Fact = Mapping[str, Any]

_CONFIG_KEY: Final = "librdkafka.json"


@dataclass(frozen=True)
class Reader:
    """As whom the audit is read: a User ([NAMESPACE/]NAME) of Kubernetes, or a file with librdkafka's configuration."""

    user: str | None
    config: Path | None

    @property
    def named(self) -> bool:
        """Whether either was said."""
        return self.user is not None or self.config is not None


class Entry(NamedTuple):
    """A line of a timeline; ``at`` is RFC 3339 in UTC, so that text sorts as time does."""

    at: str
    what: str
    text: str


def run_audit(job: str | None, reader: Reader, as_json: bool, namespace: str | None, context: str | None) -> int:
    """Print the facts of a cluster, or of one job; the exit code says whether there are any."""
    if not reader.named:
        typer.echo("say who reads the audit: --user NAME of a User that may, or --config FILE", err=True)
        return 1
    found = asyncio.run(_facts(reader, namespace, context))
    if job is not None:
        wanted = job if "/" in job else f"{namespace or current_namespace(context)}/{job}"
        found = [fact for fact in found if fact.get("job") == wanted]
    if as_json:
        for fact in found:
            sys.stdout.write(json.dumps(fact, sort_keys=True) + "\n")
    elif found:
        Console().print(facts_table(found))
    else:
        typer.echo("the audit has nothing about that" if job else "the audit has nothing yet", err=True)
    return 0 if found else 1


def run_report(name: str, reader: Reader, namespace: str | None, context: str | None) -> int:
    """Print what happened to a replay, in order; the exit code says whether anything is known of it."""
    return asyncio.run(_report(name, reader, namespace or current_namespace(context), context))


def connection(text: str) -> ConnectionSettings:
    """Where and as whom to connect, from a configuration of librdkafka as JSON, as the Secret of a User has it.

    Raises:
        ValueError: it can't be used, with a sentence.
    """
    try:
        config = json.loads(text)
        servers = tuple(config["bootstrap.servers"].split(","))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "the configuration isn't JSON with bootstrap.servers, as a User's librdkafka.json is"
        ) from error
    protocol = config.get("security.protocol", "plaintext").upper()
    return ConnectionSettings(
        servers,
        tls=protocol.endswith("SSL"),
        ca_pem=config.get("ssl.ca.pem"),
        cert_pem=config.get("ssl.certificate.pem"),
        key_pem=config.get("ssl.key.pem"),
        sasl_mechanism=config.get("sasl.mechanism") if protocol.startswith("SASL") else None,
        username=config.get("sasl.username"),
        password=config.get("sasl.password"),
    )


def facts_table(found: Iterable[Fact]) -> Table:
    """A row for each fact."""
    table = Table("TIME", "JOB", "FACT", "PLAN", "WHAT", box=None)
    for fact in found:
        entry = entry_of(fact)
        cells = (entry.at, fact.get("job"), entry.what, fact.get("planHash") or "-", entry.text)
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def entry_of(fact: Fact) -> Entry:
    """A fact in words."""
    what = str(fact.get("fact"))
    at = fact.get("approvedAt") or fact.get("brokenAt") or fact.get("at")
    who = fact.get("by") or fact.get("requestedBy") or "somebody (who isn't known)"
    match what:
        case "Planned" if "rewind" in fact:
            group, moved = fact["rewind"].get("group"), len(fact.get("positions") or ())
            text = f"{who} asked for a Rewind of group {group}: {moved:,} positions are to be moved"
        case "Planned":
            topics = f"{_topic(fact, 'source')} to {_topic(fact, 'target')}"
            parts = len(fact.get("partitions") or ())
            text = f"{who} asked for a copy of {topics}: {fact.get('offsets', 0):,} offsets of {parts} partitions"
        case "Approved":
            text = f"{who} approved plan {fact.get('planHash')}"
        case "GlassBroken":
            text = f"{who} broke the glass: {fact.get('reason')}"
        case "Started":
            text = _started(fact.get("approval"))
        case "Suspend" | "Resume" | "Cancel" | "Undo":
            text = f"somebody asked for it, by the token {fact.get('token')}"
        case _:
            counted = f"{fact['records']:,} records, {fact.get('bytes', 0):,} bytes" if "records" in fact else ""
            text = "; ".join(part for part in (fact.get("message"), counted) if part)
    return Entry(str(at), what, text)


def timeline(job: ReplayJob, events: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """What Kubernetes knows of a replay, in order."""
    status = job.status
    found = [Entry(_utc(job.created), "Made", f"by {job.annotations.get(REQUESTED_BY) or 'somebody (not recorded)'}")]
    if status.plan is not None:
        text = f"plan {status.plan.hash}: {status.plan.offsets:,} offsets of {len(status.plan.partitions)} partitions"
        found.append(Entry(_utc(status.plan.planned_at), "Planned", text))
    if status.rewind is not None:
        text = f"plan {status.rewind.hash}: {status.rewind.moved:,} positions of group {job.spec.rewind.group}"
        found.append(Entry(_utc(status.rewind.planned_at), "Planned", text))
    if status.approval is not None:
        found += [
            Entry(one.at, "Approved", f"{one.user} approved plan {status.approval.plan_hash}")
            for one in status.approval.approvers
        ]
        if (glass := status.approval.broken_glass) is not None:
            found.append(Entry(glass.at, "GlassBroken", f"{glass.user} broke the glass: {glass.reason}"))
    found += [Entry(str(e.get("eventTime"))[:19] + "Z", f"Event {e.get('reason')}", str(e.get("note"))) for e in events]
    if status.completion_time is not None:
        phase = status.phase.value if status.phase else "Ended"
        found.append(Entry(_utc(status.completion_time), phase, sentence(job)))
    return sorted(found, key=lambda entry: entry.at)


async def _report(name: str, reader: Reader, namespace: str, context: str | None) -> int:
    async with kubernetes(context) as kube:
        if reader.named:
            wanted = f"{namespace}/{name}"
            told = [fact for fact in await _facts(reader, namespace, context) if fact.get("job") == wanted]
            body = await kube.get(API_VERSION, "ReplayJob", namespace, name)
            job: ReplayJob | None = parse(body) if body else None
            entries = sorted((entry_of(fact) for fact in told), key=lambda entry: entry.at)
        else:
            job = await one(kube, "ReplayJob", namespace, name)
            entries = timeline(job, await _events(kube, job))
    console = Console(soft_wrap=True)
    if job is not None:
        if job.spec.mode is Mode.REWIND:
            what = f"Rewind of group {job.spec.rewind.group}"
        else:
            what = f"{job.spec.source.topic} to {job.spec.target.topic}"
        phase = job.status.phase.value if job.status.phase else "Pending"
        console.print(f"{namespace}/{name}: {what}, {phase} ({sentence(job)})", highlight=False, markup=False)
    elif entries:
        console.print(f"{namespace}/{name}: its object is gone", highlight=False)
    else:
        typer.echo(f"neither Kubernetes nor the audit knows {namespace}/{name}", err=True)
        return 1
    for entry in entries:
        console.print(f"{entry.at}  {entry.what}: {entry.text}", highlight=False, markup=False)
    return 0


async def _facts(reader: Reader, namespace: str | None, context: str | None) -> list[dict[str, Any]]:
    try:
        if reader.config is not None:
            text = reader.config.read_text(encoding="utf-8")
        else:
            text = await _config_of(reader.user or "", namespace, context)
        return await _read(connection(text))
    except (KafkaError, ValueError, OSError) as error:
        typer.echo(f"the audit can't be read: {error}", err=True)
        raise typer.Exit(1) from error


async def _config_of(user: str, namespace: str | None, context: str | None) -> str:
    """The configuration in the Secret of a User.

    Raises:
        ValueError: there is none.
    """
    of, _, name = user.rpartition("/")
    of = of or namespace or current_namespace(context)
    async with kubernetes(context) as kube:
        found = await one(kube, "User", of, name)
        data = decode(await kube.get("v1", "Secret", of, found.status.secret_name or name))
    if _CONFIG_KEY not in data:
        raise ValueError(f"User {of}/{name} has no Secret with {_CONFIG_KEY} yet")
    return data[_CONFIG_KEY]


async def _read(settings: ConnectionSettings) -> list[dict[str, Any]]:
    admin = KafkaAdmin(settings)
    try:
        return await Audit(admin, lambda: None).read()
    finally:
        await admin.close()


async def _events(kube: Kube, job: ReplayJob) -> list[dict[str, Any]]:
    try:
        found = await kube.list("events.k8s.io/v1", "Event", job.namespace)
    except ForbiddenError:
        typer.echo("Events aren't shown: it takes the right to list them", err=True)
        return []
    return [event for event in found if (event.get("regarding") or {}).get("uid") == job.uid]


def _started(approval: Mapping[str, Any] | None) -> str:
    if approval is None:
        return "it begins; it needed no approval"
    users = ", ".join(one["user"] for one in approval.get("approvers") or ()) or "nobody"
    text = f"it begins; approved by {users}, of {approval.get('needed')} that it needs"
    return f"{text}; THE GLASS WAS BROKEN" if approval.get("brokenGlass") else text


def _topic(fact: Fact, side: str) -> str:
    return str((fact.get(side) or {}).get("topic"))


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
