"""How far a replay is, and what follows: decided from committed positions and from the state of its workers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from sluice.api.base import Reason
from sluice.api.replay import ReplayPlan, ReplayProgress

FROM_THERE: Final = (
    "going on would copy records twice: find out how far the target is, and make another ReplayJob from there"
)
_REASONS: Final = {"POSITION_LOST": Reason.POSITION_LOST, "RANGE_LOST": Reason.RANGE_LOST}


@dataclass(frozen=True)
class Committed:
    """A committed position, what has been written until it, and how many records were left out by rules."""

    offset: int
    records: int
    bytes: int
    filtered: int = 0


@dataclass(frozen=True)
class Sample:
    """An earlier look, to tell the rate by."""

    time: datetime
    offsets: int
    records: int


@dataclass(frozen=True)
class Workers:
    """The Kubernetes Job: whether it is there, ended badly (``failure``: reason and sentence), or is suspended."""

    exist: bool
    failure: tuple[Reason, str] | None = None
    suspended: bool = False


class Step(Enum):
    """What to do next about a replay whose plan is frozen and whose start is recorded."""

    COMPLETE = "every position is at its end"
    FAIL = "it can't go on"
    START = "workers have to be started"
    RESUME = "workers have to be let go on"
    WATCH = "workers are on it"


@dataclass(frozen=True)
class Decision:
    """The next step; ``reason`` and ``message`` of a failure, and whether the same replay made again must fail, too."""

    step: Step
    reason: Reason = Reason.RUNNING
    message: str = ""
    for_good: bool = False


def floor_of(plan: ReplayPlan, recorded: Sequence[int], seen: Mapping[int, int]) -> dict[int, int]:
    """Below which no position can be, by partition: its start, what the status has recorded, what was seen since."""
    known = recorded if len(recorded) == len(plan.partitions) else [0] * len(plan.partitions)
    return {
        p.partition: max(p.start, before, seen.get(p.partition, 0))
        for p, before in zip(plan.partitions, known, strict=True)
    }


def decide(
    plan: ReplayPlan,
    positions: Mapping[int, Committed],
    floor: Mapping[int, int],
    workers: Workers,
    started: datetime | None,
    deadline_seconds: int | None,
    now: datetime,
) -> Decision:
    """The next step. Completion is what positions say, whatever became of the workers."""
    if lost := _lost(positions, floor):
        return lost
    if complete(plan, positions):
        return Decision(Step.COMPLETE, Reason.COMPLETED)
    if workers.failure:
        return Decision(Step.FAIL, *workers.failure)
    if started and deadline_seconds and now >= started + timedelta(seconds=deadline_seconds):
        return Decision(
            Step.FAIL,
            Reason.DEADLINE_EXCEEDED,
            f"it wasn't done within {deadline_seconds} s (spec.activeDeadlineSeconds); what was committed stands, and"
            " the same replay made again goes on from there",
        )
    if not workers.exist:
        return Decision(Step.START)
    return Decision(Step.RESUME if workers.suspended else Step.WATCH)


def complete(plan: ReplayPlan, positions: Mapping[int, Committed]) -> bool:
    """Whether every position of the plan is there, and at its end."""
    return all(p.partition in positions and positions[p.partition].offset >= p.end for p in plan.partitions)


def _lost(positions: Mapping[int, Committed], floor: Mapping[int, int]) -> Decision | None:
    """The end of a replay whose positions can't be right any more.

    One that is gone is still gone for the same replay made again, unless somebody brought it back; one that went back
    would look like any other.
    """
    gone = [number for number in floor if number not in positions]
    if gone:
        some = ", ".join(map(str, gone[:5]))
        of = f"the committed position of {'partition' if len(gone) == 1 else 'partitions'} {some}"
        return Decision(Step.FAIL, Reason.POSITION_LOST, f"{of} is gone; {FROM_THERE}")
    back = [
        f"partition {number} went back from {least} to {positions[number].offset}"
        for number, least in floor.items()
        if positions[number].offset < least
    ]
    if back:
        message = f"the committed position of {', '.join(back[:5])}; {FROM_THERE}"
        return Decision(Step.FAIL, Reason.POSITION_LOST, message, for_good=True)
    return None


def progress(
    plan: ReplayPlan, positions: Mapping[int, Committed], before: Sample | None, now: datetime
) -> tuple[ReplayProgress, Sample]:
    """How far it is, with the rate since ``before``; and the sample to compare with next."""
    done = sum(min(max(positions[p.partition].offset - p.start, 0), p.end - p.start) for p in plan.partitions)
    records = sum(position.records for position in positions.values())
    seconds = (now - before.time).total_seconds() if before else 0.0
    rate = (records - before.records) / seconds if before and seconds > 0 else 0.0
    speed = (done - before.offsets) / seconds if before and seconds > 0 else 0.0
    left = plan.offsets - done
    return (
        ReplayProgress(
            offsets_done=done,
            percent=100 if not left else min(99, done * 100 // plan.offsets),
            records=records,
            bytes=sum(position.bytes for position in positions.values()),
            filtered=sum(position.filtered for position in positions.values()),
            records_per_second=round(max(0.0, rate)),
            seconds_left=0 if not left else round(left / speed) if speed > 0 else None,
            positions=[positions[p.partition].offset for p in plan.partitions],
        ),
        Sample(now, done, records),
    )


def worker_state(job: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> Workers:
    """What a Kubernetes Job and its pods say."""
    if job is None:
        return Workers(exist=False)
    conditions = (job.get("status") or {}).get("conditions") or ()
    failed = next((c for c in conditions if c["type"] in ("Failed", "FailureTarget") and c["status"] == "True"), None)
    if failed is None:
        return Workers(exist=True, suspended=bool((job.get("spec") or {}).get("suspend")))
    last = _last_words(pods)
    if last is None:
        said = failed.get("message") or failed.get("reason") or "it says nothing more"
        return Workers(True, (Reason.WORKER_FAILED, f"the workers failed: {said}"))
    return Workers(True, last)


def _last_words(pods: Sequence[Mapping[str, Any]]) -> tuple[Reason, str] | None:
    """What the pod that failed last wrote into its termination log."""
    found: list[tuple[str, str]] = []
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") and ended.get("message"):
                found.append((ended.get("finishedAt") or "", ended["message"]))
    for _, message in sorted(found, reverse=True):
        try:
            said = json.loads(message)
            return _REASONS.get(said["code"], Reason.WORKER_FAILED), str(said["error"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
