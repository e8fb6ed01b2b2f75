"""What ``sluice replay`` asks for: another replay, or that one begins, rests, goes on, is given up, or is undone.

An act is an annotation with a new token, under a field manager of its own: what a GitOps tool applies doesn't take it
back. It is merged rather than applied: to apply one of them would take the others away.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import typer
import yaml
from pydantic import ValidationError

from sluice.api.base import API_VERSION, problems
from sluice.api.objects import ReplayJob
from sluice.api.replay import ENDED, Mode, ReplayJobSpec, ReplayPhase
from sluice.cli.access import current_namespace, kubernetes, one
from sluice.plan.replay_approval import Verb
from sluice.plan.replay_control import Act, token

KIND: Final = "ReplayJob"
SNAPSHOT: Final = "snapshot:"
"""What stands before the name of a snapshot, which may look like anything."""
_ASKED: Final = {
    Act.SUSPEND: "its workers stop, and its positions are kept; kubectl sluice replay resume {name} lets it go on",
    Act.RESUME: "its workers go on from their committed positions",
    Act.CANCEL: "its workers stop for good; what was copied stays in the target",
    Act.UNDO: "the group goes back to where it was; kubectl get replayjob {name} --watch shows when it is Undone",
}


@dataclass(frozen=True)
class Selected:
    """Which records, and what they say of where they come from, as flags say it."""

    keys: Sequence[str] = ()
    key_prefixes: Sequence[str] = ()
    key_regex: str | None = None
    key_share: str | None = None
    headers: Sequence[str] = ()
    exclude_replayed: bool = False
    provenance: bool = False


@dataclass(frozen=True)
class Request:
    """A replay as flags say it."""

    name: str
    cluster: str
    source: str | None
    target: str | None
    start: str | None
    end: str | None
    dry_run: bool = False
    run_id: str | None = None
    parallelism: int | None = None
    accept_reordering: bool = False
    rewind: str | None = None
    topics: tuple[str, ...] = ()
    wait_seconds: int | None = None
    selection: Selected = Selected()


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
    spec: dict[str, Any] = {
        "clusterRef": reference,
        **(_copy(request) if request.rewind is None else _rewind(request, request.rewind)),
    }
    if request.accept_reordering:
        spec["ordering"] = "AcceptReordering"
    if request.dry_run:
        spec["dryRun"] = True
    if request.run_id is not None:
        spec["runId"] = request.run_id
    if request.parallelism is not None:
        spec["parallelism"] = request.parallelism
    spec |= selected(request.selection)
    try:
        ReplayJobSpec.model_validate(spec)
    except ValidationError as error:
        raise ValueError(f"such a replay can't be: {'; '.join(problems(error))}") from error
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": request.name}, "spec": spec}


def _copy(request: Request) -> dict[str, Any]:
    if request.source is None or request.target is None:
        raise ValueError("say --source and --target, or --rewind GROUP and --to")
    if request.topics or request.wait_seconds is not None:
        raise ValueError("--topic and --wait are for --rewind: leave them out")
    start = bound("--from", request.start or "Earliest", "Earliest")
    end = bound("--to", request.end or "Latest", "Latest")
    return {
        "source": {"topic": request.source, "range": {"from": start, "to": end}},
        "target": {"topic": request.target},
    }


def _rewind(request: Request, group: str) -> dict[str, Any]:
    if request.source is not None or request.target is not None or request.start is not None:
        raise ValueError("with --rewind nothing is copied: leave out --source, --target and --from")
    if request.end is None:
        raise ValueError("say by --to where the group goes: Earliest, Latest, an offset, a time, +N, -N, snapshot:NAME")
    rewind: dict[str, Any] = {"group": group, "to": goal(request.end)}
    if request.topics:
        rewind["topics"] = [{"topic": name} for name in request.topics]
    if request.wait_seconds is not None:
        rewind["waitForInactiveSeconds"] = request.wait_seconds
    return {"mode": "Rewind", "rewind": rewind}


def goal(text: str) -> Mapping[str, Any]:
    """Where a group goes: Earliest, Latest, an offset, a time, so many offsets on or back, or a snapshot's name.

    Raises:
        ValueError: it is none of these.
    """
    if text[:1] in ("+", "-") and text[1:].isascii() and text[1:].isdigit():
        return {"shift": int(text)}
    if text.startswith(SNAPSHOT):
        return {"snapshot": text.removeprefix(SNAPSHOT)}
    return bound("--to", text, "Earliest" if text.lower() == "earliest" else "Latest")


def selected(asked: Selected) -> dict[str, Any]:
    """The part of the spec that says which records are taken; what flags don't say isn't in it.

    Raises:
        ValueError: a flag can't be read, or two say the same.
    """
    keys: dict[str, Any] = {
        "exact": list(asked.keys),
        "prefix": list(asked.key_prefixes),
        "regex": asked.key_regex,
        "hashRange": share(asked.key_share) if asked.key_share else None,
    }
    key = {name: value for name, value in keys.items() if value}
    if len(key) > 1:
        raise ValueError("only one of --key, --key-prefix, --key-regex and --key-share can be said")
    headers = [
        {"name": name, **({"exact": [value]} if said else {})}
        for name, said, value in (header.partition("=") for header in asked.headers)
    ]
    select = {**({"key": key} if key else {}), **({"headers": headers} if headers else {})}
    return {
        **({"select": select} if select else {}),
        **({"excludeReplayed": True} if asked.exclude_replayed else {}),
        **({"provenance": "Headers"} if asked.provenance else {}),
    }


def share(text: str) -> Mapping[str, int]:
    """A share of all keys, in per cent: ``10`` or ``10-20``.

    Raises:
        ValueError: it is neither.
    """
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3})", text, re.ASCII)
    if found is None:
        raise ValueError(f"--key-share {text} is neither a number of per cent (10) nor two (10-20)")
    return {"from": int(found[1] or 0), "to": int(found[2])}


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
        found = job.status.plan_hash
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
    if act is not Act.UNDO or job.deleting:
        return _over(job, act.value)
    if job.spec.mode is not Mode.REWIND:
        return f"{job.name} copies records, which can't be undone: only a Rewind can"
    phase = job.status.phase
    if phase not in (ReplayPhase.COMPLETED, ReplayPhase.ALREADY_COMPLETED):
        return f"{job.name} isn't completed ({phase.value if phase else 'Pending'}), so there is nothing to undo"
    return None


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
    if status.plan_hash is None:
        return f"{job.name} has no plan yet, so there is nothing to approve: kubectl sluice replay plan {job.name}"
    if plan is not None and plan != status.plan_hash:
        return f"the plan of {job.name} is {status.plan_hash}, and not {plan}: kubectl sluice replay plan {job.name}"
    if status.phase not in (ReplayPhase.PLANNED, ReplayPhase.AWAITING_APPROVAL, ReplayPhase.SUSPENDED):
        return f"{job.name} has begun already, so there is nothing to approve"
    return None
