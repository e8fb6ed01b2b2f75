"""What the workers of a replay are told, and where they begin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sluice.api.objects import ReplayJob
from sluice.api.replay import ReplayJobSpec, ReplayPlan
from sluice.api.replay_selection import HeaderSelection, KeySelection, Provenance
from sluice.engine.replay_access import Route
from sluice.engine.replay_end import run_of
from sluice.plan.observed import TopicPartition
from sluice.plan.replay import milliseconds_or_none
from sluice.plan.replay_selection import mark
from sluice.replay.assignment import Assignment, Slice, TopicRoute
from sluice.replay.rules import HeaderRule, Match, RecordRules

Starts = Mapping[int, Mapping[TopicPartition, int]]
"""Start positions by shard."""


def starts(job: ReplayJob, plan: ReplayPlan) -> Starts:
    """Where each shard begins. Within one cluster positions stand under the source topic's own name."""
    found: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
    for p in plan.partitions:
        found[p.shard][TopicPartition(job.spec.source.topic, p.partition)] = p.start
    return found


def assignment(job: ReplayJob, plan: ReplayPlan, route: Route, max_batch_bytes: int) -> Assignment:
    """What the workers are told."""
    source, target, run = job.spec.source.topic, job.spec.target.topic, run_of(job)
    return Assignment(
        name=f"{job.namespace}/{job.name}",
        source=route.access,
        target=route.access,
        group=run,
        transactional_id_prefix=run,
        routes=(TopicRoute(source, plan.source_topic_id, target, plan.target_topic_id, source, max_batch_bytes),),
        slices=tuple(Slice(0, p.partition, p.start, p.end, p.shard) for p in plan.partitions),
        from_ms=milliseconds_or_none(plan.from_time),
        to_ms=milliseconds_or_none(plan.to_time),
        rules=rules(job.spec, mark(job.namespace, job.name, job.spec.run_id)),
    )


def rules(spec: ReplayJobSpec, marked: str) -> RecordRules:
    """What is asked of single records; ``marked`` is how their headers name the replay, if they are to."""
    key = spec.select.key if spec.select else None
    share = key.hash_range if key else None
    return RecordRules(
        key=_match(key) if key and share is None else None,
        hash_range=(share.from_, share.to) if share else None,
        headers=tuple(
            HeaderRule(header.name, _match(header), header.absent)
            for header in (spec.select.headers if spec.select else ())
        ),
        exclude_replayed=spec.exclude_replayed,
        drop=tuple(spec.headers.drop) if spec.headers else (),
        rename=tuple(sorted(spec.headers.rename.items())) if spec.headers else (),
        mark=marked if spec.provenance is Provenance.HEADERS else None,
    )


def _match(said: KeySelection | HeaderSelection) -> Match | None:
    """What a value must be; None: anything."""
    found = Match(tuple(said.exact or ()), tuple(said.prefix or ()), said.regex)
    return None if found == Match() else found
