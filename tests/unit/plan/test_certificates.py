"""When certificates are made anew, and what the real ones hold."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from sluice.api.cluster import Listener, ListenerType, NodePool, Role, Storage
from sluice.kube import pki
from sluice.manifests import names
from sluice.manifests.node import Node
from sluice.plan.certificates import node_names, why_renew

NOW = datetime(2026, 11, 24, tzinfo=UTC)
WANTED = frozenset({"broker.example", "192.0.2.1"})


def test_a_certificate_is_kept_until_two_thirds_of_its_life_are_over() -> None:
    authority = pki.make_authority("CA", NOW)
    facts = pki.inspect(pki.issue(authority, names.NODE_PRINCIPAL, WANTED, NOW), authority.cert_pem)
    assert facts is not None
    assert why_renew(facts, names.NODE_PRINCIPAL, WANTED, NOW + timedelta(days=243)) is None
    assert "ends on" in (why_renew(facts, names.NODE_PRINCIPAL, WANTED, NOW + timedelta(days=244)) or "")


def test_it_is_made_anew_when_names_owner_or_authority_change() -> None:
    authority, another = pki.make_authority("CA", NOW), pki.make_authority("CA", NOW)
    pair = pki.issue(authority, names.NODE_PRINCIPAL, WANTED, NOW)
    facts = pki.inspect(pair, authority.cert_pem)
    assert "names have changed: more.example" in (
        why_renew(facts, names.NODE_PRINCIPAL, WANTED | {"more.example"}, NOW) or ""
    )
    assert why_renew(facts, "another", WANTED, NOW) == f"it is for {names.NODE_PRINCIPAL}, not another"
    assert why_renew(pki.inspect(pair, another.cert_pem), names.NODE_PRINCIPAL, WANTED, NOW) is not None
    assert why_renew(pki.inspect(pki.KeyPair("", ""), another.cert_pem), "a", WANTED, NOW) is not None


def test_a_key_that_does_not_fit_counts_as_untrusted() -> None:
    authority = pki.make_authority("CA", NOW)
    one, two = (pki.issue(authority, "n", (), NOW) for _ in range(2))
    facts = pki.inspect(dataclasses.replace(one, key_pem=two.key_pem), authority.cert_pem)
    assert facts is not None
    assert not facts.trusted


def test_no_certificate_outlives_its_authority() -> None:
    authority = pki.make_authority("CA", NOW)
    late = NOW + timedelta(days=3600)
    facts = pki.inspect(pki.issue(authority, "n", (), late), authority.cert_pem)
    assert facts is not None
    assert facts.not_after == NOW + timedelta(days=3653)


def test_keys_do_not_show_in_representations() -> None:
    pair = pki.make_authority("CA", NOW)
    assert "PRIVATE KEY" in pair.key_pem
    assert "PRIVATE KEY" not in repr(pair)


def test_an_authority_that_cannot_sign_is_an_error_that_says_so() -> None:
    one, two = pki.make_authority("CA", NOW), pki.make_authority("CA", NOW)
    with pytest.raises(pki.AuthorityError, match="isn't the elliptic-curve key"):
        pki.issue(pki.KeyPair(one.cert_pem, two.key_pem), "n", (), NOW)
    with pytest.raises(pki.AuthorityError, match="can't be read"):
        pki.issue(pki.KeyPair("", ""), "n", (), NOW)


def test_a_node_is_valid_for_every_name_it_is_reached_by() -> None:
    pool = NodePool(name="b", roles=[Role.BROKER], replicas=1, storage=Storage(size="1Gi"))
    listeners = [Listener(name="tls", port=9093), Listener(name="out", port=9095, type=ListenerType.LOAD_BALANCER)]
    found = node_names(Node("demo", "here", pool, 7), listeners, {"lb.example"})
    assert {
        "demo-b-7-0.demo-nodes.here.svc",
        "demo-b-7-0.demo-nodes.here.svc.cluster.local",
        "demo-tls-bootstrap",
        "demo-out-bootstrap.here.svc",
        "demo-out-7.here.svc",
        "lb.example",
    } <= found
    controllers = NodePool(name="c", roles=[Role.CONTROLLER], replicas=1, storage=Storage(size="1Gi"))
    assert not any("bootstrap" in name for name in node_names(Node("demo", "here", controllers, 0), listeners, {"x"}))
