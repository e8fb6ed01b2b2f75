"""The client against a server that answers as the API server does: paths, classified errors, fence, pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.configuration import Configuration

from sluice.kube.client import Kube, path_of
from sluice.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    UnavailableError,
    error_from,
)


class Server:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.answers: list[tuple[int, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path, dict(request.query), body))
        status, answer = self.answers.pop(0)
        return web.json_response(answer, status=status)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    told = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", told.handle)
    async with TestServer(app) as running:
        yield told, str(running.make_url("/")).rstrip("/")


def client(url: str, **options: Any) -> Kube:
    return Kube(Configuration(host=url), **options)


CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": "c"}}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "Secret", "ns", "s"), "/api/v1/namespaces/ns/secrets/s"),
        (("apps/v1", "StatefulSet", None), "/apis/apps/v1/statefulsets"),
        (("v1", "Node", None, "n"), "/api/v1/nodes/n"),
        (("sluice.dev/v1alpha1", "Topic", "ns", "a"), "/apis/sluice.dev/v1alpha1/namespaces/ns/topics/a"),
    ],
)
def test_paths(arguments: tuple[Any, ...], path: str) -> None:
    assert path_of(*arguments) == path


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (403, "Forbidden", ForbiddenError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
    ],
)
def test_answers_are_told_apart(code: int, reason: str, kind: type[KubeError]) -> None:
    error = error_from(code, json.dumps({"reason": reason, "message": "because"}), "GET x")
    assert type(error) is kind
    assert "because" in str(error)


def test_a_field_that_the_api_server_does_not_know_is_the_users_mistake() -> None:
    """It is answered like a failure of the server, but trying again doesn't help."""
    message = "failed to create typed patch object (ns/demo; apps/v1, Kind=StatefulSet): .spec.x: field not declared"
    assert isinstance(error_from(500, json.dumps({"message": message}), "PATCH x"), InvalidError)
    assert isinstance(error_from(500, json.dumps({"message": "etcdserver: no leader"}), "PATCH x"), UnavailableError)


def test_an_answer_of_a_proxy_is_an_answer_too() -> None:
    assert isinstance(error_from(502, "<html>Bad Gateway</html>", "GET x"), UnavailableError)


def test_a_terminating_namespace_is_known() -> None:
    status = {"reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    error = error_from(403, json.dumps(status), "POST x")
    assert isinstance(error, ForbiddenError)
    assert error.namespace_terminating


async def test_what_is_not_there_is_none(server: tuple[Server, str]) -> None:
    told, url = server
    told.answers = [(404, {"reason": "NotFound"}), (404, {"reason": "NotFound"})]
    kube = client(url)
    assert await kube.get("v1", "Secret", "ns", "s") is None
    assert await kube.delete("v1", "Secret", "ns", "s") is False
    await kube.close()


async def test_lists_are_read_page_by_page_and_items_know_their_kind(server: tuple[Server, str]) -> None:
    told, url = server
    told.answers = [
        (200, {"metadata": {"continue": "more", "resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    kube = client(url)
    found, version = await kube.listing("v1", "Pod", "ns", {"app": "x", "any": "*"})
    assert version == 7
    assert [(p["kind"], p["metadata"]["name"]) for p in found] == [("Pod", "a"), ("Pod", "b")]
    assert told.asked[0][2] == {"limit": "500", "labelSelector": "app=x,any"}
    assert told.asked[1][2]["continue"] == "more"
    await kube.close()


async def test_without_the_lead_nothing_is_written_but_everything_can_be_read(server: tuple[Server, str]) -> None:
    told, url = server

    class LostError(Exception):
        pass

    def fence() -> None:
        raise LostError

    kube = client(url, fence=fence)
    for write in (
        kube.create(CONFIG_MAP),
        kube.apply(CONFIG_MAP),
        kube.patch("v1", "ConfigMap", "ns", "c", {}),
        kube.delete("v1", "ConfigMap", "ns", "c"),
    ):
        with pytest.raises(LostError):
            await write
    assert told.asked == []
    told.answers = [(200, CONFIG_MAP), (201, CONFIG_MAP)]
    assert await kube.get("v1", "ConfigMap", "ns", "c")
    assert await kube.fenced(lambda: None).create(CONFIG_MAP)
    await kube.close()


async def test_every_request_is_counted_by_verb_kind_and_code(server: tuple[Server, str]) -> None:
    told, url = server
    counted: list[tuple[str, str, str]] = []
    kube = client(url, count=lambda *what: counted.append(what))
    told.answers = [(200, {"metadata": {}, "items": []}), (409, {"reason": "AlreadyExists"})]
    await kube.list("v1", "Pod")
    with pytest.raises(AlreadyExistsError):
        await kube.create(CONFIG_MAP)
    assert counted == [("LIST", "Pod", "200"), ("POST", "ConfigMap", "409")]
    await kube.close()


async def test_ensure_writes_only_a_difference(server: tuple[Server, str]) -> None:
    told, url = server
    kube = client(url)
    owned = {"manager": "sluice", "operation": "Apply", "fieldsV1": {"f:data": {"f:a": {}}}}
    meta = {"name": "c", "namespace": "ns", "resourceVersion": "1", "managedFields": [owned]}
    there = {**CONFIG_MAP, "metadata": meta, "data": {"a": "1"}}
    told.answers = [(200, there)]
    assert await kube.ensure({**CONFIG_MAP, "data": {"a": "1"}}) is False
    told.answers = [(200, there), (200, {**there, "metadata": {**meta, "resourceVersion": "2"}})]
    assert await kube.ensure({**CONFIG_MAP, "data": {"a": "2"}}) is True
    assert [method for method, *_ in told.asked] == ["GET", "GET", "PATCH"]
    assert told.asked[-1][2] == {"fieldManager": "sluice", "force": "true"}
    await kube.close()


async def test_a_server_that_does_not_answer_is_the_worlds_fault() -> None:
    counted: list[tuple[str, str, str]] = []
    kube = client("http://127.0.0.1:1", count=lambda *what: counted.append(what))
    with pytest.raises(UnavailableError, match="doesn't answer"):
        await kube.get("v1", "Secret", "ns", "s")
    assert counted == [("GET", "Secret", "0")]
    await kube.close()
