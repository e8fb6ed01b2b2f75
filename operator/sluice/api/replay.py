"""ReplayJob: one bounded replay, run to completion."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeVar

from pydantic import Field, model_validator

from sluice.api.base import ClusterReference, Model, Status, Timestamp, cel, rules, worded
from sluice.api.replay_rewind import Rewind, RewindStatus
from sluice.api.replay_selection import HeaderChanges, Provenance, Selection
from sluice.api.topic import NOT_A_TOPIC_NAME, TOPIC_NAME

_ONE_BOUND = "[has(self.offset), has(self.time), has(self.at)].filter(x, x).size() == 1"
COPY_NEEDS: Final = "mode Copy needs source and target, and has no rewind: say them, or mode: Rewind"
REWIND_NEEDS: Final = (
    "mode Rewind needs rewind, and has no source, target, select, headers, provenance, excludeReplayed, ordering,"
    " parallelism and backoffLimit: nothing is copied; leave them out"
)
Part = TypeVar("Part", bound=Model)
RESERVED_TOPICS: Final = ("__", "sluice-")
"""How names of topics start that are Kafka's or Sluice's own. Nothing is replayed into them: the ledger is one."""


class From(StrEnum):
    """Named start of a range."""

    EARLIEST = "Earliest"


class To(StrEnum):
    """Named end of a range."""

    LATEST = "Latest"


class Start(Model):
    """Where the range starts (inclusive)."""

    model_config = rules(cel(_ONE_BOUND, "say exactly one of offset, time and at"))

    offset: int | None = Field(default=None, ge=0, description="First offset, in every partition of the range.")
    time: Timestamp | None = Field(default=None, description="Records whose timestamp is at or after this time.")
    at: From | None = Field(default=None, description="`Earliest`: the first record there is.")


class End(Model):
    """Where the range ends (exclusive)."""

    model_config = rules(cel(_ONE_BOUND, "say exactly one of offset, time and at"))

    offset: int | None = Field(
        default=None, ge=0, description="First offset that isn't replayed, in every partition of the range."
    )
    time: Timestamp | None = Field(default=None, description="Records whose timestamp is before this time.")
    at: To | None = Field(default=None, description="`Latest`: the last stable offset when the job is planned.")


class Range(Model):
    """What is replayed. It is turned into offsets, and frozen in status, before anything moves."""

    model_config = rules(
        cel(
            "!has(self.from.offset) || !has(self.to.offset) || self.from.offset <= self.to.offset",
            "the range ends before it starts: to.offset is below from.offset",
        ),
        cel(
            "!has(self.from.time) || !has(self.to.time) || timestamp(self.from.time) <= timestamp(self.to.time)",
            "the range ends before it starts: to.time is before from.time",
        ),
    )

    from_: Start = Field(alias="from", default=Start(at=From.EARLIEST), description="Start (inclusive).")
    to: End = Field(default=End(at=To.LATEST), description="End (exclusive).")
    partitions: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=10_000, description="Partitions; all if empty."
    )
    lateness_seconds: int = Field(
        default=3600,
        ge=0,
        description="With `to.time`: records are not in order of time, so the partition is read on until the first record this much later than `to.time`; what is in between and outside the range is left out.",
    )


class Ordering(StrEnum):
    """What to do where a replay puts old values after newer ones."""

    REFUSE = "Refuse"
    ACCEPT_REORDERING = "AcceptReordering"


class Source(Model):
    """Where records come from."""

    topic: str = Field(
        min_length=1,
        max_length=249,
        pattern=TOPIC_NAME,
        json_schema_extra=worded(f"source.topic {NOT_A_TOPIC_NAME}"),
        description="Name in Kafka of the topic.",
    )
    range: Range = Field(default=Range(), description="What part of it.")


class Target(Model):
    """Where records go; partitions stay the same."""

    model_config = rules(
        cel(
            " && ".join(f"!self.topic.startsWith('{prefix}')" for prefix in RESERVED_TOPICS),
            "target.topic can't start with __ or sluice-: Kafka and Sluice keep such topics for themselves; choose another target",
        ),
    )

    topic: str = Field(
        min_length=1,
        max_length=249,
        pattern=TOPIC_NAME,
        json_schema_extra=worded(f"target.topic {NOT_A_TOPIC_NAME}"),
        description="Name in Kafka of the topic. It must exist and have as many partitions as the source needs.",
    )


class Mode(StrEnum):
    """What a replay does."""

    COPY = "Copy"
    REWIND = "Rewind"


class ReplayJobSpec(Model):
    """One replay. It can't be changed once made, but for what steers its run."""

    model_config = rules(
        cel(
            "self.mode == oldSelf.mode && has(self.source) == has(oldSelf.source) && has(self.target) == has(oldSelf.target) && has(self.rewind) == has(oldSelf.rewind) && (!has(self.source) || self.source == oldSelf.source) && (!has(self.target) || self.target == oldSelf.target) && (!has(self.rewind) || self.rewind == oldSelf.rewind) && self.clusterRef == oldSelf.clusterRef && self.ordering == oldSelf.ordering && self.dryRun == oldSelf.dryRun && self.parallelism == oldSelf.parallelism && has(self.runId) == has(oldSelf.runId) && (!has(self.runId) || self.runId == oldSelf.runId)",
            "a replay can't be changed once made: delete it, or make another ReplayJob",
        ),
        cel(
            "self.mode != 'Copy' || (has(self.source) && has(self.target) && !has(self.rewind))",
            COPY_NEEDS,
        ),
        cel(
            "self.mode != 'Rewind' || (has(self.rewind) && !has(self.source) && !has(self.target) && self.ordering == 'Refuse' && self.parallelism == 1 && self.backoffLimit == 6 && !has(self.select) && !has(self.headers) && self.provenance == 'None' && !self.excludeReplayed)",
            REWIND_NEEDS,
        ),
        cel(
            "has(self.select) == has(oldSelf.select) && (!has(self.select) || self.select == oldSelf.select) && has(self.headers) == has(oldSelf.headers) && (!has(self.headers) || self.headers == oldSelf.headers) && self.provenance == oldSelf.provenance && self.excludeReplayed == oldSelf.excludeReplayed",
            "which records a replay takes, and what it changes in them, can't be changed once made: delete it, or make another ReplayJob",
        ),
        cel(
            "!has(self.source) || !has(self.target) || self.source.topic != self.target.topic",
            "a topic can't be copied onto itself: every record would come twice; choose another target",
        ),
    )

    cluster_ref: ClusterReference = Field(description="The cluster with source and target.")
    mode: Mode = Field(
        default=Mode.COPY,
        description="`Copy`: records of `source` go to `target`. `Rewind`: the positions of a consumer group are moved, as `rewind` says.",
    )
    source_: Source | None = Field(alias="source", default=None, description="With `mode: Copy`: what is replayed.")
    target_: Target | None = Field(alias="target", default=None, description="With `mode: Copy`: where it goes.")
    rewind_: Rewind | None = Field(
        alias="rewind", default=None, description="With `mode: Rewind`: whose positions are moved, and where to."
    )
    select: Selection | None = Field(default=None, description="Which records of the range; all unless said.")
    exclude_replayed: bool = Field(
        default=False,
        description="Leave out records that a replay has written (those with a header `sluice-replay-job` or `sluice-replay-count`).",
    )
    headers: HeaderChanges | None = Field(default=None, description="Headers to leave out or to rename.")
    provenance: Provenance = Field(
        default=Provenance.NONE,
        description="`Headers`: each record gets `sluice-replay-job` (namespace/name, and the runId if there is one), `sluice-replay-count` (how often it was replayed) and `sluice-replay-source` (topic/partition/offset), in the place of what it has by these names.",
    )
    ordering: Ordering = Field(
        default=Ordering.REFUSE,
        description="A replay into a compacted topic, or one with live writers, puts old values after newer ones: refused unless `AcceptReordering`.",
    )
    dry_run: bool = Field(default=False, description="Plan only: the plan is in status, nothing moves.")
    run_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="A completed replay of the same name and spec isn't run again; another runId asks for another run.",
    )
    parallelism: int = Field(default=1, ge=1, le=100, description="Workers; partitions are shared out by size.")
    backoff_limit: int = Field(default=6, ge=0, le=1000, description="How often a failed worker is started again.")
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which the replay is given up. They don't run while it is suspended, and begin anew when it is resumed, as a Kubernetes Job's do.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, description="Seconds after which the finished object is deleted; kept unless said."
    )

    @model_validator(mode="after")
    def _fits_its_mode(self) -> ReplayJobSpec:
        copies = self.source_ is not None and self.target_ is not None and self.rewind_ is None
        unused = (self.ordering, self.parallelism, self.backoff_limit) == (Ordering.REFUSE, 1, 6)
        unused = unused and not (
            self.select or self.headers or self.exclude_replayed or self.provenance is not Provenance.NONE
        )
        rewinds = self.rewind_ is not None and self.source_ is None and self.target_ is None and unused
        if self.mode is Mode.COPY and not copies:
            raise ValueError(COPY_NEEDS)
        if self.mode is Mode.REWIND and not rewinds:
            raise ValueError(REWIND_NEEDS)
        return self

    @property
    def source(self) -> Source:
        """What a Copy copies; only for those who know that it is one."""
        return _there(self.source_)

    @property
    def target(self) -> Target:
        """Where a Copy goes; only for those who know that it is one."""
        return _there(self.target_)

    @property
    def rewind(self) -> Rewind:
        """What a Rewind moves; only for those who know that it is one."""
        return _there(self.rewind_)


def _there(part: Part | None) -> Part:
    if part is None:
        raise LookupError("it is a ReplayJob of another mode")
    return part


class PartitionRange(Model):
    """The frozen range of one partition."""

    partition: int = Field(description="Partition.")
    start: int = Field(description="First offset.")
    end: int = Field(description="First offset that isn't replayed.")
    shard: int = Field(description="Worker that has this partition.")


class ReplayPlan(Model):
    """The frozen plan: the boundary between historical and live data."""

    hash: str = Field(description="Hash of this plan.")
    planned_at: Timestamp = Field(description="When the range was frozen.")
    source_topic_id: str = Field(description="Kafka's id of the source topic.")
    target_topic_id: str = Field(description="Kafka's id of the target topic.")
    from_time: Timestamp | None = Field(default=None, description="Records before this time are left out.")
    to_time: Timestamp | None = Field(default=None, description="Records at or after this time are left out.")
    offsets: int = Field(description="Offsets in the range; records are at most as many.")
    partitions: list[PartitionRange] = Field(default_factory=list, description="Range by partition.")
    warnings: list[str] = Field(default_factory=list, description="What to know before it runs.")


class ReplayProgress(Model):
    """How far the replay is, from the committed positions."""

    offsets_done: int = Field(description="Offsets passed.")
    percent: int = Field(ge=0, le=100, description="Offsets passed, in per cent.")
    records: int = Field(description="Records written to the target.")
    bytes: int = Field(description="Bytes of record batches written to the target.")
    filtered: int = Field(default=0, description="Records that `select` or `excludeReplayed` left out.")
    records_per_second: int = Field(description="Rate since the last report.")
    seconds_left: int | None = Field(default=None, description="Estimated time to completion.")
    positions: list[int] = Field(
        default_factory=list,
        description="Committed position by partition, in the order of `plan.partitions`. One that is behind its place here later is lost, and ends the replay.",
    )


class ReplayPhase(StrEnum):
    """Where a replay stands; the conditions decide, this is for the eye."""

    PENDING = "Pending"
    PLANNED = "Planned"
    AWAITING_APPROVAL = "AwaitingApproval"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    ALREADY_COMPLETED = "AlreadyCompleted"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    REFUSED = "Refused"
    UNDONE = "Undone"


ENDED: Final = frozenset(
    {
        ReplayPhase.COMPLETED,
        ReplayPhase.ALREADY_COMPLETED,
        ReplayPhase.FAILED,
        ReplayPhase.CANCELLED,
        ReplayPhase.REFUSED,
        ReplayPhase.UNDONE,
    }
)
"""Phases that nothing follows by itself; a completed Rewind may still be undone."""


class Wanted(StrEnum):
    """What people want of a replay, by the annotations that they wrote last."""

    RUN = "Run"
    SUSPEND = "Suspend"
    CANCEL = "Cancel"
    UNDO = "Undo"


class ReplayControl(Model):
    """What people asked for by `sluice.dev/suspend`, `sluice.dev/resume`, `sluice.dev/cancel` and `sluice.dev/undo`."""

    wanted: Wanted = Field(description="What is wanted of the replay since.")
    handled: list[str] = Field(
        default_factory=list,
        description="Tokens that were acted on, and won't be again: the act and the start of the token's SHA-256, the latest last.",
    )


class Approver(Model):
    """Somebody who approved a plan."""

    user: str = Field(description="Who, as the API server authenticated them.")
    at: str = Field(description="When, by the clock of the operator that admitted it.")


class BrokenGlass(Model):
    """Somebody who let a replay begin without the approvals that it needs."""

    user: str = Field(description="Who, as the API server authenticated them.")
    reason: str = Field(description="Why, in their words.")
    at: str = Field(description="When, by the clock of the operator that admitted it.")


class ReplayApproval(Model):
    """What let a replay begin that needed approval."""

    plan_hash: str = Field(description="Hash of the plan that was approved.")
    needed: int = Field(description="How many approvals it needed.")
    approvers: list[Approver] = Field(default_factory=list, description="Who approved it.")
    broken_glass: BrokenGlass | None = Field(
        default=None, description="Who let it begin without those approvals, if somebody had to."
    )


class ReplayJobStatus(Status):
    """What became of a replay."""

    phase: ReplayPhase | None = Field(default=None, description="Where the replay stands.")
    plan: ReplayPlan | None = Field(default=None, description="The frozen plan of a Copy.")
    rewind: RewindStatus | None = Field(default=None, description="The plan of a Rewind.")
    progress: ReplayProgress | None = Field(default=None, description="How far it is.")
    control: ReplayControl | None = Field(default=None, description="What was asked for while it ran.")
    approval: ReplayApproval | None = Field(default=None, description="What let it begin, if it needed approval.")
    start_time: Timestamp | None = Field(
        default=None,
        description="When the workers were started, or a Rewind began to wait for its group, or either was resumed; `activeDeadlineSeconds` counts from here.",
    )
    completion_time: Timestamp | None = Field(default=None, description="When it ended, either way.")

    @property
    def plan_hash(self) -> str | None:
        """Hash of the plan, whatever the mode."""
        found = self.plan or self.rewind
        return found.hash if found else None
