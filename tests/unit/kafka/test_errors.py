"""Whose fault an error is."""

from __future__ import annotations

import pytest
from kafka import errors as client_errors

from sluice.kafka.errors import ADVICE, KafkaRefusedError, KafkaUnreachableError, check, classify, from_code


def test_every_refusal_is_one_that_kafka_has() -> None:
    assert set(ADVICE) <= {found.message for found in client_errors.kafka_errors.values()}


@pytest.mark.parametrize("code", [17, 29, 38, 39, 40, 44, 73])
def test_refusals_need_a_person(code: int) -> None:
    assert isinstance(from_code(code, "topic orders"), KafkaRefusedError)


@pytest.mark.parametrize("code", [-1, 3, 5, 7, 15, 36, 41, 58, 60, 9999])
def test_everything_else_is_tried_again(code: int) -> None:
    assert isinstance(from_code(code, "topic orders"), KafkaUnreachableError)


def test_a_sentence_says_what_happened_and_what_to_do() -> None:
    error = from_code(40, "topic orders", "Unknown topic config name: no.such.")
    assert str(error) == (
        "topic orders: a configuration value isn't accepted; correct it (INVALID_CONFIG)."
        " Kafka says: Unknown topic config name: no.such."
    )
    assert error.code == "INVALID_CONFIG"


def test_success_is_no_error() -> None:
    check(0, "anything")


def test_errors_of_the_library_are_told_apart() -> None:
    assert isinstance(classify(client_errors.KafkaTimeoutError("late"), "x"), KafkaUnreachableError)
    assert isinstance(classify(client_errors.NodeNotReadyError(1), "x"), KafkaUnreachableError)
    rejected = classify(client_errors.SaslAuthenticationFailedError("no"), "x")
    assert isinstance(rejected, KafkaUnreachableError), "what Kafka doesn't know yet it may hear of"
    assert "correct the Secret" in rejected.message
    refused = classify(client_errors.IncompatibleBrokerVersion("old"), "x")
    assert isinstance(refused, KafkaRefusedError)
    assert refused.code == "UNSUPPORTED_VERSION"
