"""Admission of approvals: who may is for RBAC to say, who did is recorded, and in doubt nothing is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import kopf
import pytest

from sluice.handlers import admission
from sluice.handlers.admission import approver
from sluice.kube.errors import UnavailableError
from sluice.plan.replay_approval import APPROVED_BY, GLASS_BROKEN_BY, REQUESTED_BY

FORGED = json.dumps([{"user": "eve", "planHash": "aaa", "at": "2026"}])


class Rbac:
    """The API server, which knows who may do what."""

    def __init__(self, *allowed: tuple[str, str], error: Exception | None = None) -> None:
        self._allowed = set(allowed)
        self._error = error
        self.asked: list[Mapping[str, Any]] = []

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(body["spec"])
        if self._error:
            raise self._error
        spec = body["spec"]
        return {"status": {"allowed": (spec["user"], spec["resourceAttributes"]["verb"]) in self._allowed}}


def job(**annotations: str) -> dict[str, Any]:
    """A ReplayJob whose plan is aaa; names of annotations are without the group."""
    named = {f"sluice.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
    metadata = {"namespace": "ns", "name": "job", "annotations": named}
    return {"kind": "ReplayJob", "metadata": metadata, "status": {"plan": {"hash": "aaa"}}}


async def admitted(rbac: Rbac, body: Any, old: Any, user: str = "bob", **info: Any) -> dict[str, str | None]:
    """What admission makes of the annotations."""
    patch: dict[str, Any] = {}
    client: Any = rbac
    await approver(client, body, old, {"username": user, **info}, patch)
    found: dict[str, str | None] = patch.get("metadata", {}).get("annotations", {})
    return found


async def refused(rbac: Rbac, body: Any, old: Any, user: str = "bob") -> kopf.AdmissionError:
    with pytest.raises(kopf.AdmissionError) as error:
        await admitted(rbac, body, old, user)
    return error.value


async def test_rbac_is_asked_about_the_caller_as_the_api_server_knows_them() -> None:
    rbac = Rbac(("bob", "approve"))
    info = {"uid": "7", "groups": ["ops"], "extra": {"scope": ["x"]}}
    found = await admitted(rbac, job(requested_by="ann", approve="aaa"), job(requested_by="ann"), **info)
    assert rbac.asked == [
        {
            "user": "bob",
            **info,
            "resourceAttributes": {
                "verb": "approve",
                "group": "sluice.dev",
                "resource": "replayjobs",
                "namespace": "ns",
                "name": "job",
            },
        }
    ]
    [recorded] = json.loads(str(found[APPROVED_BY]))
    assert (recorded["user"], recorded["planHash"]) == ("bob", "aaa")


async def test_who_may_not_is_refused_and_told_what_it_takes() -> None:
    error = await refused(Rbac(("bob", "break-glass")), job(approve="aaa"), job())
    assert (error.code, "the verb approve on replayjobs" in str(error)) == (403, True)
    error = await refused(Rbac(("bob", "approve")), job(break_glass="why"), job())
    assert (error.code, "the verb break-glass on replayjobs" in str(error)) == (403, True)


async def test_what_cannot_be_is_refused_before_anybody_is_asked() -> None:
    rbac = Rbac(("ann", "approve"))
    assert "somebody else" in str(await refused(rbac, job(approve="aaa"), job(requested_by="ann"), "ann"))
    assert "aaa" in str(await refused(rbac, job(approve="bbb"), job(requested_by="ann")))
    assert "none yet" in str(await refused(rbac, job(approve="aaa"), None))
    assert rbac.asked == []


@pytest.mark.parametrize("error", [UnavailableError(0, "Unreachable", "nobody answers"), TimeoutError()])
async def test_in_doubt_nothing_is_written(error: Exception) -> None:
    found = await refused(Rbac(error=error), job(approve="aaa"), job())
    assert (found.code, "isn't known, so nothing was changed" in str(found)) == (503, True)


async def test_an_api_server_that_takes_its_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Rbac):
        async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(admission, "_REVIEW_SECONDS", 0.01)
    assert "no answer within" in str(await refused(Slow(), job(approve="aaa"), job()))


async def test_the_record_is_admissions_whatever_is_written_there() -> None:
    rbac = Rbac()
    assert await admitted(rbac, job(approved_by=FORGED, glass_broken_by="{}"), job()) == {
        APPROVED_BY: None,
        GLASS_BROKEN_BY: None,
    }
    assert await admitted(rbac, job(approved_by=FORGED), None) == {APPROVED_BY: None}
    # A tool that replaces the object takes nothing away.
    assert await admitted(rbac, job(), job(approved_by=FORGED)) == {APPROVED_BY: FORGED}
    assert rbac.asked == []


async def test_a_glass_can_be_broken_by_the_one_who_asked_and_with_the_object_itself() -> None:
    rbac = Rbac(("ann", "break-glass"))
    for old in (None, job(requested_by="ann")):
        found = await admitted(rbac, job(requested_by="ann", break_glass="the shop is down"), old, "ann")
        recorded = json.loads(str(found[GLASS_BROKEN_BY]))
        assert (recorded["user"], recorded["reason"]) == ("ann", "the shop is down")


async def test_a_second_approver_is_added() -> None:
    rbac = Rbac(("bob", "approve"), ("cem", "approve"))
    old = job(requested_by="ann", approve="aaa")
    first = await admitted(rbac, old, job(requested_by="ann"))
    old["metadata"]["annotations"][APPROVED_BY] = first[APPROVED_BY]
    found = await admitted(rbac, job(requested_by="ann", approve="aaa 2"), old, "cem")
    assert [recorded["user"] for recorded in json.loads(str(found[APPROVED_BY]))] == ["bob", "cem"]
    assert REQUESTED_BY not in found
