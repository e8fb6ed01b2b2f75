"""What replays need before they may begin: said by a cluster, or by a topic that is replayed into."""

from __future__ import annotations

from pydantic import Field

from sluice.api.base import Model


class ReplayPolicy(Model):
    """What replays need before they may begin."""

    approvals: int = Field(
        default=0,
        ge=0,
        le=2,
        description="How many people, other than the one who made the ReplayJob, have to approve its plan.",
    )
