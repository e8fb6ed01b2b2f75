"""Leadership: one acts, the others wait, and who can't renew stops in time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from sluice.kube.errors import AlreadyExistsError, ConflictError, UnavailableError
from sluice.kube.lease import Elector, Move, Seen, decide

DURATION = 15.0


@pytest.mark.parametrize(
    ("seen", "move"),
    [
        (None, Move.CREATE),
        (Seen("me", "1", 0, 0.0), Move.RENEW),
        (Seen("", "1", 0, 0.0), Move.TAKE),
        (Seen("other", "1", 0, DURATION - 0.1), Move.WAIT),
        (Seen("other", "1", 0, DURATION), Move.TAKE),
    ],
)
def test_what_to_do(seen: Seen | None, move: Move) -> None:
    assert decide(seen, "me", DURATION) is move


class LeaseServer:
    """One Lease, with versions; may refuse to answer."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, *_: Any) -> dict[str, Any] | None:
        self._answer()
        return copy.deepcopy(self.lease)

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        if self.lease is not None:
            raise AlreadyExistsError(409, "AlreadyExists", "there")
        self.lease = copy.deepcopy(dict(body))
        return self._stored()

    async def patch(self, *args: Any) -> dict[str, Any]:
        self._answer()
        patch = args[-1]
        assert self.lease is not None
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError(409, "Conflict", "changed")
        self.lease["spec"] |= patch["spec"]
        return self._stored()

    def _stored(self) -> dict[str, Any]:
        assert self.lease is not None
        self.version += 1
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    def _answer(self) -> None:
        if self.down:
            raise UnavailableError(0, "Unreachable", "down")


class Election:
    """Replicas of one election under one clock."""

    def __init__(self) -> None:
        self.server: Any = LeaseServer()
        self.now = 1000.0
        self.changes: list[tuple[str, bool]] = []

    def replica(self, name: str) -> Elector:
        return Elector(
            self.server,
            namespace="ns",
            name="sluice-operator",
            identity=name,
            duration=DURATION,
            on_change=lambda leads: self.changes.append((name, leads)),
            monotonic=lambda: self.now,
        )


async def test_the_first_one_leads_and_the_second_waits() -> None:
    election = Election()
    one, two = election.replica("one"), election.replica("two")
    for _ in range(20):
        await one.round()
        await two.round()
        assert one.may_act()
        assert not two.may_act()
        election.now += 3
    assert election.changes == [("one", True)]


async def test_a_silent_leader_stops_itself_before_another_may_begin() -> None:
    election = Election()
    one, two = election.replica("one"), election.replica("two")
    await one.round()
    await two.round()
    stopped_at = None
    for _ in range(200):
        election.now += 0.1
        await two.round()
        assert not (one.may_act() and two.may_act())
        if stopped_at is None and not one.may_act():
            stopped_at = election.now
        if two.may_act():
            break
    assert two.may_act()
    assert stopped_at is not None
    assert election.now - stopped_at >= DURATION / 3 - 0.2


async def test_a_leader_that_cannot_reach_the_server_stops_and_comes_back() -> None:
    election = Election()
    one = election.replica("one")
    await one.round()
    election.server.down = True
    election.now += DURATION
    await one.round()
    assert not one.may_act()
    election.server.down = False
    await one.round()
    assert one.may_act()
    assert election.changes == [("one", True), ("one", False), ("one", True)]


async def test_a_touched_lease_does_not_interrupt_its_holder() -> None:
    election = Election()
    one = election.replica("one")
    await one.round()
    election.server._stored()  # kubectl annotate
    election.now += 3
    await one.round()
    assert one.may_act()
    assert election.changes == [("one", True)]


async def test_a_released_lease_is_taken_at_once() -> None:
    election = Election()
    one, two = election.replica("one"), election.replica("two")
    await one.round()
    await two.round()
    await one.release()
    assert not one.may_act()
    await two.round()
    assert two.may_act()


async def test_a_stuck_election_is_told() -> None:
    election = Election()
    one = election.replica("one")
    assert not one.stuck()
    one._last_round = election.now
    election.now += 4 * DURATION
    assert one.stuck()
