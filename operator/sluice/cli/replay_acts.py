"""What ``sluice replay`` asks for: another replay, or that one begins, rests, goes on, or is given up.

An act is an annotation with a new token, under a field manager of its own: what a GitOps tool applies doesn't take it
back. It is merged rather than applied: to apply one of them would take the others away.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import typer
import yaml
from pydantic import ValidationError

from sluice.api.base import API_VERSION
from sluice.api.objects import ReplayJob
from sluice.api.replay import ENDED, ReplayJobSpec, ReplayPhase
from sluice.cli.access import current_namespace, kubernetes, one
from sluice.plan.replay_approval import Verb
from sluice.plan.replay_control import Act, token

KIND: Final = "ReplayJob"
_ASKED: Final = {
    Act.SUSPEND: "its workers stop, and its positions are kept; kubectl sluice replay resume {name} lets it go on",
    Act.RESUME: "its workers go on from their committed positions",
    Act.CANCEL: "its workers stop for good; what was copied stays in the target",
}


@dataclass(frozen=True)
class Request:
    """A replay as flags say it."""

    name: str
    cluster: str
    source: str
    target: str
    start: str
    end: str
    dry_run: bool = False
    run_id: str | None = None
    parallelism: int | None = None
    accept_reordering: bool = False


def run_act(act: Act, name: str, namespace: str | None, context: str | None) -> int:
    """Ask for an act; the exit code says whether it was asked for."""
    return asyncio.run(_ask(act, name, namespace or current_namespace(context), context))


def run_approve(name: str, reason: str | None, plan: str | None, namespace: str | None, context: str | None) -> int:
    """Approve a replay's plan, or break the glass (``reason``); the exit code says whether it was done."""
    return asyncio.run(_approve(name, reason, plan, namespace or current_namespace(context), context))


def run_create(request: Request, output: str | None, namespace: str | None, context: str | None) -> int:
    """Make a replay, or print its manifest; the exit code says whether that could be done."""
    try:
        body = manifest(request)
    except ValueError as error:
        typer.echo(f"{error}", err=True)
        return 1
    if output is not None:
        if namespace:
            body["metadata"]["namespace"] = namespace
        sys.stdout.write(
            json.dumps(body, indent=2) + "\n" if output == "json" else yaml.safe_dump(body, sort_keys=False)
        )
        return 0
    body["metadata"]["namespace"] = namespace or current_namespace(context)
    asyncio.run(_create(body, context))
    typer.echo(f"{request.name}: made; kubectl sluice replay watch {request.name} follows it")
    return 0


def manifest(request: Request) -> dict[str, Any]:
    """The ReplayJob that flags ask for; what they don't say isn't in it.

    Raises:
        ValueError: it can't be, with a sentence that says why.
    """
    cluster = request.cluster.split("/")
    if len(cluster) > 2 or not all(cluster):
        raise ValueError(f"--cluster {request.cluster} is neither NAME nor NAMESPACE/NAME")
    reference = {"name": cluster[-1], **({"namespace": cluster[0]} if len(cluster) == 2 else {})}
    chosen = {"from": bound("--from", request.start, "Earliest"), "to": bound("--to", request.end, "Latest")}
    spec: dict[str, Any] = {
        "clusterRef": reference,
        "source": {"topic": request.source, "range": chosen},
        "target": {"topic": request.target},
    }
    if request.accept_reordering:
        spec["ordering"] = "AcceptReordering"
    if request.dry_run:
        spec["dryRun"] = True
    if request.run_id is not None:
        spec["runId"] = request.run_id
    if request.parallelism is not None:
        spec["parallelism"] = request.parallelism
    try:
        ReplayJobSpec.model_validate(spec)
    except ValidationError as error:
        problems = (f"spec.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"such a replay can't be: {'; '.join(problems)}") from error
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": request.name}, "spec": spec}


def bound(flag: str, text: str, named: str) -> Mapping[str, Any]:
    """One end of a range: an offset, a time, or its name (``Earliest``, ``Latest``).

    Raises:
        ValueError: it is none of these.
    """
    if text.lower() == named.lower():
        return {"at": named}
    if text.isascii() and text.isdigit():
        return {"offset": int(text)}
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{flag} {text} is neither an offset, nor {named}, nor a time (2026-11-01T00:00:00Z)"
        ) from None
    if time.tzinfo is None:
        raise ValueError(f"{flag} {text} doesn't say its time zone: add Z for UTC, or an offset such as +01:00")
    return {"time": time.isoformat().replace("+00:00", "Z")}


async def _create(body: Mapping[str, Any], context: str | None) -> None:
    async with kubernetes(context) as kube:
        await kube.create(body)


async def _approve(name: str, reason: str | None, plan: str | None, namespace: str, context: str | None) -> int:
    async with kubernetes(context) as kube:
        job: ReplayJob = await one(kube, KIND, namespace, name)
        found = job.status.plan.hash if job.status.plan else None
        if (refusal := unapprovable(job, plan)) is not None:
            typer.echo(refusal, err=True)
            return 1
        if reason is not None:
            asked = {Verb.BREAK_GLASS.annotation: reason}
        else:
            asked = {Verb.APPROVE.annotation: f"{found} {token(datetime.now(UTC), secrets.token_hex(4))}"}
        patch = {"metadata": {"uid": job.uid, "annotations": asked}}
        await kube.patch(API_VERSION, KIND, namespace, name, patch)
    if reason is not None:
        typer.echo(f"{name}: the glass is broken: it begins without the approvals that it needs, and the audit says so")
    else:
        typer.echo(f"{name}: plan {found} is approved; kubectl sluice replay watch {name} follows it")
    return 0


async def _ask(act: Act, name: str, namespace: str, context: str | None) -> int:
    async with kubernetes(context) as kube:
        job: ReplayJob = await one(kube, KIND, namespace, name)
        if (refusal := useless(act, job)) is not None:
            typer.echo(refusal, err=True)
            return 1
        asked = {act.annotation: token(datetime.now(UTC), secrets.token_hex(4))}
        # Of this very object: one of the same name that was made meanwhile isn't meant.
        patch = {"metadata": {"uid": job.uid, "annotations": asked}}
        await kube.patch(API_VERSION, KIND, namespace, name, patch)
    typer.echo(f"{name}: asked to {act.value}; {_ASKED[act].format(name=name)}")
    return 0


def useless(act: Act, job: ReplayJob) -> str | None:
    """Why an act would come to nothing, if it would."""
    return _over(job, act.value)


def _over(job: ReplayJob, act: str) -> str | None:
    if job.deleting:
        return f"{job.name} is being deleted, so there is nothing to {act}"
    if job.status.phase in ENDED:
        return f"{job.name} has ended already ({job.status.phase.value}), so there is nothing to {act}"
    if job.spec.dry_run:
        return f"{job.name} is a dry run, which moves nothing, so there is nothing to {act}"
    return None


def unapprovable(job: ReplayJob, plan: str | None) -> str | None:
    """Why a replay can't be approved, if it can't; ``plan`` is the hash of the plan that is meant, if that was said."""
    status = job.status
    if (refusal := _over(job, "approve")) is not None:
        return refusal
    if status.plan is None:
        return f"{job.name} has no plan yet, so there is nothing to approve: kubectl sluice replay plan {job.name}"
    if plan is not None and plan != status.plan.hash:
        return f"the plan of {job.name} is {status.plan.hash}, and not {plan}: kubectl sluice replay plan {job.name}"
    if status.phase not in (ReplayPhase.PLANNED, ReplayPhase.AWAITING_APPROVAL, ReplayPhase.SUSPENDED):
        return f"{job.name} has begun already, so there is nothing to approve"
    return None
