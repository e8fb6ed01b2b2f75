"""Whether a replay may begin: how many people have to approve its plan, and who has.

What people write are annotations, and an annotation doesn't tell who wrote it. So admission, which knows the caller,
checks each new one and keeps a record of it in annotations that nobody else may write; only those records count here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from sluice.api.base import GROUP, Model
from sluice.api.objects import Cluster
from sluice.api.replay import Approver, BrokenGlass, ReplayApproval
from sluice.api.replay_policy import ReplayPolicy

REQUESTED_BY: Final = f"{GROUP}/requested-by"
"""Annotation of a ReplayJob: the user who made it, as the API server authenticated them."""
APPROVED_BY: Final = f"{GROUP}/approved-by"
"""Annotation with the record of approvals: JSON, a list of `Approved`."""
GLASS_BROKEN_BY: Final = f"{GROUP}/glass-broken-by"
"""Annotation with the record of a broken glass: JSON, a `BrokenGlass`."""
STRICTEST: Final = 2
_MAX_REASON: Final = 1000


class Verb(StrEnum):
    """What people may do for a replay to begin; each is a verb of RBAC on ``replayjobs``."""

    APPROVE = "approve"
    BREAK_GLASS = "break-glass"

    @property
    def annotation(self) -> str:
        """The annotation by which it is done."""
        return f"{GROUP}/{self.value}"


GUARDED: Final = (REQUESTED_BY, *(verb.annotation for verb in Verb), APPROVED_BY, GLASS_BROKEN_BY)
"""Annotations that can be changed only while admission answers; the chart's webhook has the same list."""


class Approved(Model):
    """One approval, as admission records it."""

    user: str
    plan_hash: str
    at: str


_RECORD: Final = TypeAdapter(list[Approved])


@dataclass(frozen=True)
class Ruling:
    """Whether a replay may begin. ``approval`` is what lets it, None if it needs nothing; ``waits`` says for what."""

    approval: ReplayApproval | None = None
    waits: str | None = None


# -- what admission asks -----------------------------------------------------------------------------------------------


def claims(annotations: Mapping[str, str], before: Mapping[str, str]) -> dict[Verb, str]:
    """What a change of annotations does, with its text; taking an annotation away does nothing."""
    return {
        verb: found
        for verb in Verb
        if (found := annotations.get(verb.annotation)) is not None and found != before.get(verb.annotation)
    }


def refusal(verb: Verb, text: str, user: str, requester: str | None, plan_hash: str | None) -> str | None:
    """Why a claim can't be, for whatever RBAC says; None if it can."""
    if verb is Verb.BREAK_GLASS:
        if not text.strip() or len(text) > _MAX_REASON:
            return (
                f"{verb.annotation} needs a reason, of at most {_MAX_REASON:,} characters: it is what the audit shows"
            )
        return None
    if not plan_hash:
        return (
            f"{verb.annotation} names the hash of a plan, and this replay has none yet: approve it once there is"
            " one, and leave the annotation out until then"
        )
    if (named := hash_in(text)) != plan_hash:
        return (
            f"{verb.annotation} names plan {named or '(none)'}, and the plan of this replay is {plan_hash}: look at"
            " its status, and approve that"
        )
    if requester and user == requester:
        return f"{user} asked for this replay, so somebody else has to approve it"
    return None


def hash_in(text: str) -> str:
    """The hash that an approval names: its first word. What follows makes a value another than the one before."""
    return next(iter(text.split()), "")


def record(
    verb: Verb, text: str, user: str, at: str, plan_hash: str | None, annotations: Mapping[str, str]
) -> tuple[str, str]:
    """Name and value of the annotation that keeps the record of a claim."""
    if verb is Verb.BREAK_GLASS:
        return GLASS_BROKEN_BY, _json(BrokenGlass(user=user, reason=text.strip(), at=at).manifest())
    # Those of other plans are of no use any more.
    known = [found for found in approvals(annotations) if found.plan_hash == plan_hash]
    mine = [] if any(found.user == user for found in known) else [Approved(user=user, plan_hash=plan_hash or "", at=at)]
    return APPROVED_BY, _json([found.manifest() for found in (*known, *mine)])


# -- what the engine asks ----------------------------------------------------------------------------------------------


def approvals(annotations: Mapping[str, str]) -> Sequence[Approved]:
    """Approvals that admission has recorded; none, if what stands there isn't its record."""
    try:
        return _RECORD.validate_json(annotations.get(APPROVED_BY) or "[]")
    except ValidationError:
        return []


def broken_glass(annotations: Mapping[str, str]) -> BrokenGlass | None:
    """The broken glass that admission has recorded."""
    try:
        return BrokenGlass.model_validate_json(annotations.get(GLASS_BROKEN_BY) or "")
    except ValidationError:
        return None


def approvals_needed(cluster: Cluster, topics: Iterable[Mapping[str, Any]]) -> int:
    """How many approvals a replay needs: by its cluster, or by topics that it is about, by their Topics' bodies."""
    policy = cluster.spec.replay_policy
    return max(policy.approvals if policy else 0, *map(_topic_policy, topics), 0)


def plan_hash(status: Mapping[str, Any]) -> str | None:
    """Hash of the plan in a ReplayJob's status, whatever its mode."""
    return (status.get("plan") or status.get("rewind") or {}).get("hash")


def rule(
    name: str,
    annotations: Mapping[str, str],
    needed: int,
    plan_hash: str,
    before: ReplayApproval | None,
) -> Ruling:
    """Whether a replay may begin.

    Args:
        name: of the ReplayJob, for the sentence.
        annotations: its annotations.
        needed: approvals that policies ask for.
        plan_hash: the plan that would be carried out.
        before: what let it begin, if that was decided already: it isn't taken back.
    """
    if before is not None and before.plan_hash == plan_hash:
        return Ruling(before)
    if needed == 0:
        return Ruling()
    requester = annotations.get(REQUESTED_BY)
    # Whoever made it may be among the approvers, if it was made while nobody recorded that.
    wanted = needed if requester else needed + 1
    by_user = {
        found.user: Approver(user=found.user, at=found.at)
        for found in approvals(annotations)
        if found.plan_hash == plan_hash and found.user != requester
    }
    approval = ReplayApproval(plan_hash=plan_hash, needed=wanted, approvers=list(by_user.values()))
    if len(by_user) >= wanted:
        return Ruling(approval)
    if (glass := broken_glass(annotations)) is not None:
        return Ruling(approval.model_copy(update={"broken_glass": glass}))
    return Ruling(waits=_waits(name, wanted, list(by_user), plan_hash, requester))


def _waits(name: str, wanted: int, users: Sequence[str], plan_hash: str, requester: str | None) -> str:
    have = f"has {len(users)} ({', '.join(users)})" if users else "has none"
    others = f"people other than {requester}" if requester else "different people (who asked for it isn't known)"
    return (
        f"plan {plan_hash} needs {wanted} {'approval' if wanted == 1 else 'approvals'} by {others}, and {have}:"
        f" kubectl sluice replay approve {name} (sluice.dev/approve: {plan_hash})"
    )


def _topic_policy(body: Mapping[str, Any]) -> int:
    said = (body.get("spec") or {}).get("replayPolicy")
    if said is None:
        return 0
    try:
        return ReplayPolicy.model_validate(said).approvals
    except ValidationError:
        return STRICTEST  # another version's: who can't be understood may have meant the strictest


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
