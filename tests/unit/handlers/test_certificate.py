"""The webhook's certificate: made once, renewed in time, trusted before it is served."""

from __future__ import annotations

import base64
import copy
import datetime
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from sluice.handlers.certificate import WebhookCertificate, due, make
from sluice.kube.errors import ConflictError

NOW = datetime.datetime.now(datetime.UTC)
NAMES = ["sluice-webhook.sluice.svc", "sluice-webhook.sluice.svc.cluster.local"]


class Store:
    """Secret and webhook configurations, with what was written in order."""

    def __init__(self) -> None:
        hook = {"name": "h", "clientConfig": {"service": {"name": "s"}}}
        self.objects: dict[str, dict[str, Any]] = {
            kind: {"metadata": {"resourceVersion": "1"}, "webhooks": [copy.deepcopy(hook), copy.deepcopy(hook)]}
            for kind in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
        }
        self.writes: list[str] = []
        self.racing: dict[str, Any] | None = None
        self.before_patch: dict[str, Callable[[], None]] = {}
        """What another does just before a patch of a kind, which makes it a conflict."""

    async def get(self, _: str, kind: str, *__: Any) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get(kind))

    async def create_if_absent(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        self.writes.append("create")
        self.objects["Secret"] = {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}
        return self.objects["Secret"], True

    async def patch(self, _: str, kind: str, *rest: Any) -> dict[str, Any]:
        patch = rest[-1]
        if kind in self.before_patch:
            self.before_patch.pop(kind)()
            raise ConflictError(409, "Conflict", "another client")
        if self.racing is not None and kind == "Secret":
            self.objects[kind], self.racing = self.racing, None
            raise ConflictError(409, "Conflict", "another replica")
        self.writes.append(kind)
        self.objects[kind] |= {k: v for k, v in patch.items() if k != "metadata"}
        return copy.deepcopy(self.objects[kind])

    def bundle(self) -> bytes:
        hook = self.objects["ValidatingWebhookConfiguration"]["webhooks"][1]
        return base64.b64decode(hook["clientConfig"]["caBundle"])


def keeper(store: Any) -> WebhookCertificate:
    return WebhookCertificate(
        store, namespace="sluice", secret="sluice-webhook", service="sluice-webhook", configuration="sluice"
    )


async def test_the_first_replica_makes_it_and_the_next_one_takes_it() -> None:
    store = Store()
    one, two = keeper(store), keeper(store)
    await one.ensure()
    assert store.writes == ["create", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"]
    await two.ensure()
    await one.ensure()
    assert len(store.writes) == 3, "nothing is written a second time"
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.path.stat().st_mode & 0o077 == 0, "nobody else reads the key"
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(one.path)
    for each in (one, two):
        each.remove()
        assert not each.path.exists()


async def test_a_renewed_certificate_is_trusted_along_with_the_former_one() -> None:
    store = Store()
    old = make(NAMES, NOW - datetime.timedelta(days=300))
    store.objects["Secret"] = {"metadata": {"resourceVersion": "1"}, "data": old}
    kept = keeper(store)
    await kept.ensure()
    assert store.writes[0] == "Secret"
    trusted = store.bundle()
    assert base64.b64decode(old["tls.crt"]) in trusted
    assert base64.b64decode(store.objects["Secret"]["data"]["tls.crt"]) in trusted
    assert base64.b64decode(old["tls.crt"]) not in kept.path.read_bytes()
    kept.remove()


async def test_of_two_that_renew_at_once_one_gives_way() -> None:
    store = Store()
    store.objects["Secret"] = {
        "metadata": {"resourceVersion": "1"},
        "data": make(NAMES, NOW - datetime.timedelta(days=300)),
    }
    other = make(NAMES, NOW)
    store.racing = {"metadata": {"resourceVersion": "2"}, "data": other}
    kept = keeper(store)
    await kept.ensure()
    assert base64.b64decode(other["tls.crt"]) in kept.path.read_bytes()
    kept.remove()


async def test_what_is_served_is_trusted_even_if_another_client_wrote_at_the_same_time() -> None:
    store = Store()
    store.before_patch["ValidatingWebhookConfiguration"] = lambda: None
    kept = keeper(store)
    await kept.ensure()
    assert base64.b64decode(store.objects["Secret"]["data"]["tls.crt"]) in store.bundle()
    kept.remove()


async def test_a_replica_that_has_not_seen_the_renewal_yet_does_not_take_the_trust_away() -> None:
    store = Store()
    old = make(NAMES, NOW, former=make(NAMES, NOW)["tls.crt"])
    new = make(NAMES, NOW, former=old["tls.crt"])
    store.objects["Secret"] = {"metadata": {"resourceVersion": "2"}, "data": new}
    one, late = keeper(store), keeper(store)
    await one.ensure()
    store.objects["Secret"]["data"] = old
    await late.ensure()
    assert store.bundle() == base64.b64decode(new["ca.crt"])
    for each in (one, late):
        each.remove()


async def test_after_a_conflict_the_secret_is_read_again() -> None:
    store = Store()
    store.objects["Secret"] = {"metadata": {"resourceVersion": "1"}, "data": make(NAMES, NOW)}
    other = make(NAMES, NOW)

    def renewed_by_another() -> None:
        store.objects["Secret"] = {"metadata": {"resourceVersion": "2"}, "data": other}

    store.before_patch["MutatingWebhookConfiguration"] = renewed_by_another
    kept = keeper(store)
    await kept.ensure()
    assert store.bundle() == base64.b64decode(other["ca.crt"])
    assert base64.b64decode(other["tls.crt"]) in kept.path.read_bytes()
    kept.remove()


def test_when_another_one_is_due() -> None:
    fresh = make(NAMES, NOW)
    assert not due(fresh, NAMES, NOW)
    assert due(fresh, NAMES, NOW + datetime.timedelta(days=276))
    assert due(fresh, ["another.sluice.svc"], NOW)
    assert due({}, NAMES, NOW)
    assert due({**fresh, "tls.crt": base64.b64encode(b"nonsense").decode()}, NAMES, NOW)
