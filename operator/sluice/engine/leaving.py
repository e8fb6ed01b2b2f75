"""Objects that are being deleted: what they have in Kafka is taken back, and what didn't fail is let go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sluice.api.base import Reason
from sluice.api.objects import Key
from sluice.engine.batching import ResourceT, each
from sluice.engine.errors import NotLeaderError, WaitingError
from sluice.engine.finalizers import let_go, nothing_to_undo
from sluice.engine.reconciler import Context
from sluice.kafka.errors import KafkaUnreachableError

Errors = dict[Key, Exception]
AGAIN_SECONDS: Final = 12.0
"""Seconds until an object that is being deleted is looked at again; with the engine's jitter never above 15."""


async def leave(
    context: Context,
    cluster: Key,
    resources: Sequence[ResourceT],
    *,
    take: Sequence[ResourceT],
    undo: Callable[[list[ResourceT]], Awaitable[Errors]],
) -> Errors:
    """Let objects go; before, those of ``take`` by ``undo``, where there still is something to undo.

    Returns what failed, as errors that are tried again soon.

    Args:
        undo: takes back what the objects have in Kafka; the errors of those where that failed.
    """
    undoable, errors = await _undoable(context, cluster, take)
    try:
        errors |= await undo(undoable)
    except NotLeaderError:
        raise
    except Exception as error:  # noqa: BLE001 - it is the outcome of each of them
        errors |= {resource.key: error for resource in undoable}
    free = [resource for resource in resources if resource.key not in errors]
    for resource, answer in zip(free, await each(free, lambda resource: let_go(context, resource)), strict=True):
        if isinstance(answer, Exception):
            errors[resource.key] = answer
    return {key: _soon(error) for key, error in errors.items()}


async def _undoable(context: Context, cluster: Key, resources: Sequence[ResourceT]) -> tuple[list[ResourceT], Errors]:
    """Those of the objects that have something to undo, and those of which that isn't known."""
    spaces = sorted({resource.namespace for resource in resources})
    answers = await each(spaces, lambda space: nothing_to_undo(context, cluster, space))
    known = dict(zip(spaces, answers, strict=True))
    errors = {r.key: answer for r in resources if isinstance(answer := known[r.namespace], Exception)}
    return [resource for resource in resources if known[resource.namespace] is False], errors


def _soon(error: Exception) -> Exception:
    """The same error, tried again soon however often it has come."""
    if isinstance(error, KafkaUnreachableError):
        return WaitingError(Reason.KAFKA_UNREACHABLE, error.message, retry_after=AGAIN_SECONDS)
    if isinstance(error, WaitingError):
        return WaitingError(error.reason, error.message, retry_after=min(error.retry_after, AGAIN_SECONDS))
    return error
