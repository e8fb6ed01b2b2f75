"""A connection to a broker: proofs in between, pauses that the broker asks for, and what is written at once."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

from sluice.kafka.connection import ConnectionSettings
from sluice.replay.encoding import FETCH, fetch_request
from sluice.replay.pace import Pace
from sluice.replay.wire import Connection, ConnectionLostError, _first_bytes
from tests.support.fake_kafka import FakeKafka, Lost


async def test_a_proof_in_between_holds_other_requests_and_uses_renewed_credentials() -> None:
    passwords = count()

    def settings() -> ConnectionSettings:
        return ConnectionSettings((), sasl_mechanism="PLAIN", username="me", password=f"secret-{next(passwords)}")

    async with FakeKafka(lifetime_ms=50) as kafka:
        connection = await Connection.open("127.0.0.1", kafka.port(), settings)
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while len(kafka.proofs) < 5:
                await connection.call(MetadataRequest(topics=[], allow_auto_topic_creation=False))
                answered += 1

        async with asyncio.timeout(10):
            await asyncio.gather(*(ask() for _ in range(20)))
        connection.close()
    assert answered > 100
    assert [proof.split(b"\0")[2] for proof in kafka.proofs[:5]] == [b"secret-%d" % n for n in range(5)]


async def test_what_is_held_during_a_proof_fails_with_the_connection() -> None:
    async with FakeKafka() as kafka:
        connection = await Connection.open("127.0.0.1", kafka.port(), lambda: ConnectionSettings(()))
        connection._held = deque()
        asked = asyncio.ensure_future(connection.call(FindCoordinatorRequest(key="a", key_type=1)))
        await asyncio.sleep(0)
        assert connection.in_flight == 1
        connection.close()
        with pytest.raises(ConnectionLostError):
            await asked


async def test_a_broker_that_pauses_has_that_much_longer_to_answer() -> None:
    async with FakeKafka() as kafka:
        connection = await Connection.open("127.0.0.1", kafka.port(), lambda: ConnectionSettings(()))
        kafka.script(FetchRequest, Lost.NEVER, Lost.NEVER)
        fetch = fetch_request(13, [], 100, 0)
        before = connection.send(FETCH, 13, (fetch,), 0.05)
        connection.throttle(200)
        after = connection.send(FETCH, 13, (fetch,), 0.05)
        assert 0.1 < connection.throttled <= 0.2
        started = asyncio.get_running_loop().time()
        for answer in (before, after):
            with pytest.raises(ConnectionLostError, match="in time"):
                await answer
        # Not at once, nor when the handshake's requests would have been late.
        assert 0.2 <= asyncio.get_running_loop().time() - started < 10
        connection.close()


def test_requests_begin_small_grow_alone_and_shrink_under_a_quota() -> None:
    pace = Pace(8 * 1024 * 1024)
    assert (pace.request_bytes, pace.in_flight) == (1024 * 1024, 1)
    for _ in range(2):
        pace.answered(0)
    assert (pace.request_bytes, pace.in_flight) == (8 * 1024 * 1024, 5)
    pace.answered(300)
    assert pace.request_bytes == 8 * 1024 * 1024, "a short pause is what a quota is for"
    for _ in range(20):
        pace.answered(20_000)
    assert (pace.request_bytes, pace.in_flight) == (16 * 1024, 1)
    assert Pace(1000).in_flight == 5


@given(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=8), st.data())
def test_small_parts_share_a_tls_record_and_nothing_is_lost(parts: list[bytes], draw: st.DataObject) -> None:
    out = deque(memoryview(part) for part in parts)
    written = b""
    while out:
        first = bytes(_first_bytes(out))
        assert bytes(_first_bytes(out))[: len(first)] == first, "the same again, if it couldn't be written"
        assert len(out) == 1 or len(first) >= 16 * 1024
        sent = draw.draw(st.integers(1, len(first)))
        written += first[:sent]
        out[0] = out[0][sent:]
        if not len(out[0]):
            out.popleft()
    assert written == b"".join(parts)
