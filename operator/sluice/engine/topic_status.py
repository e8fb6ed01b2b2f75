"""What a Topic's status says, and what people are told of by an Event."""

from __future__ import annotations

from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Topic
from sluice.api.topic import DeletionPolicy, TopicStatus
from sluice.engine import status as conditions
from sluice.engine.errors import UserError, WaitingError
from sluice.engine.finalizers import hold, let_go
from sluice.engine.reconciler import Context, Outcome
from sluice.kafka.errors import KafkaUnreachableError
from sluice.plan.observed import TopicDescription
from sluice.plan.topic import Problem, TopicPlan, kafka_name

REASSIGNMENT_SECONDS: Final = 5.0
"""How often a running reassignment is looked at."""
CALM_SECONDS: Final = 60.0
"""How often it is looked whether what a problem waits for has come."""


async def report(context: Context, topic: Topic, plan: TopicPlan, found: TopicDescription | None) -> Outcome:
    """Write the status, if it says anything new.

    Raises:
        UserError, WaitingError: the plan's problem.
        KafkaUnreachableError: a topic that was made can't be seen.
    """
    problem = plan.problem
    if problem is not None and problem.reason is Reason.INVALID_SPEC:
        raise error_of(problem)  # the topic isn't this object's: its status has nothing to say about it
    if plan.create is not None and found is None:
        raise KafkaUnreachableError(f"topic {kafka_name(topic)} was made, but no broker shows it yet")
    # What the finalizer is for may no longer be wanted, or be wanted from now on.
    if topic.spec.deletion_policy is DeletionPolicy.DELETE and not plan.reasons:
        await hold(context, topic)
    if topic.spec.deletion_policy is DeletionPolicy.RETAIN:
        await let_go(context, topic)
    now = context.clock()
    moving = plan.reassigning or bool(plan.placements)
    if problem is not None:
        build = conditions.reconciling if problem.waits else conditions.stalled
        own = build(topic, now, problem.reason, problem.message)
    elif moving:
        message = f"replicas are being moved, so that each partition has {topic.spec.replicas}"
        own = conditions.reconciling(topic, now, Reason.REASSIGNING, message)
    else:
        own = conditions.ready(topic, now)
    written = topic.status.model_copy(update={"conditions": own})
    if found is not None:
        written = TopicStatus(
            conditions=own,
            topic_name=found.name,
            topic_id=found.id or None,
            partitions=plan.partitions or len(found.partitions),
            replicas=found.replication_factor,
            config_keys=sorted(topic.spec.config),
        )
    await conditions.write_status(context, topic, written)
    _tell(context, topic, problem, written)
    if problem is not None:
        raise error_of(problem)
    return Outcome(requeue_after=REASSIGNMENT_SECONDS) if moving else Outcome()


def error_of(problem: Problem) -> Exception:
    """A plan's problem as the engine knows it."""
    if problem.waits:
        return WaitingError(problem.reason, problem.message, retry_after=CALM_SECONDS)
    return UserError(problem.reason, problem.message)


def _tell(context: Context, topic: Topic, problem: Problem | None, written: TopicStatus) -> None:
    before = topic.status
    if problem is not None and not problem.waits and problem.reason.value not in {c.reason for c in before.conditions}:
        context.events.publish(topic, "Warning", problem.reason, problem.message)
    if before.topic_id and written.topic_id and before.topic_id != written.topic_id:
        context.events.publish(
            topic,
            "Warning",
            "TopicRecreated",
            f"topic {written.topic_name} isn't the one that it was: it was deleted and made anew (its id was"
            f" {before.topic_id} and is {written.topic_id}). Records of the former are gone, and groups may have"
            " committed offsets of it",
        )
