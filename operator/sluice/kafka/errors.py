"""Errors of Kafka in two kinds: the world's, which are retried, and refusals, which need a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from kafka import errors as client_errors

from sluice.api.base import Reason

K = TypeVar("K")
V = TypeVar("V")


class KafkaError(Exception):
    """Anything that Kafka, or the way to it, answered instead of a result. ``code`` is Kafka's name of the error."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class KafkaUnreachableError(KafkaError):
    """The world's: nobody answers, or the answer is that it should be tried again. Retried with backoff."""


class KafkaRefusedError(KafkaError):
    """A person's: Kafka understood and said no. ``reason`` is the condition's word, ``message`` its sentence."""

    def __init__(self, reason: Reason, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.reason = reason


@dataclass
class Answers(Generic[K, V]):
    """Answers about many things that were asked for in one go: what was found, and each thing's own error."""

    found: dict[K, V] = field(default_factory=dict)
    errors: dict[K, KafkaError] = field(default_factory=dict)

    def all(self) -> dict[K, V]:
        """What was found, for those who need every answer; the first error is raised."""
        for error in self.errors.values():
            raise error
        return self.found

    def add(self, others: Answers[K, V]) -> None:
        """Take in the answers about other things."""
        self.found |= others.found
        self.errors |= others.errors


ADVICE: Final[dict[str, str]] = {
    "INVALID_TOPIC": "Kafka doesn't accept this topic name; choose another",
    "TOPIC_AUTHORIZATION_FAILED": "Sluice's own user lacks rights on this topic; allow it there",
    "GROUP_AUTHORIZATION_FAILED": "Sluice's own user lacks rights on this group; allow it there",
    "CLUSTER_AUTHORIZATION_FAILED": "Sluice's own user lacks rights on the cluster; allow it there",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": "Sluice's own user lacks rights on this transactional id; allow it",
    "INVALID_PARTITIONS": "this number of partitions isn't possible",
    "INVALID_REPLICATION_FACTOR": "this number of replicas isn't possible; lower it or add brokers",
    "INVALID_REPLICATION_ASSIGNMENT": "replicas can't be placed this way",
    "INVALID_CONFIG": "a configuration value isn't accepted; correct it",
    "INVALID_REQUEST": "Kafka doesn't accept this request",
    "POLICY_VIOLATION": "a policy of the cluster forbids it; ask whoever runs the cluster",
    "SECURITY_DISABLED": "the cluster has no authorizer, so there are no ACLs to set; remove them from the User"
    " or configure an authorizer",
    "UNSUPPORTED_SASL_MECHANISM": "the cluster doesn't offer this SASL mechanism",
    "ILLEGAL_SASL_STATE": "the listener and the credentials don't fit together",
    "TOPIC_DELETION_DISABLED": "the brokers have delete.topic.enable=false; change that or use deletionPolicy: Retain",
    "UNSUPPORTED_VERSION": "this version of Kafka doesn't know the request",
    "UNACCEPTABLE_CREDENTIAL": "the credential isn't accepted",
    "INVALID_GROUP_ID": "Kafka doesn't accept this group id; choose another",
    "NON_EMPTY_GROUP": "the group has active members; stop them first",
    "UNKNOWN_MEMBER_ID": "the group has active members; stop them first",
    "GROUP_SUBSCRIBED_TO_TOPIC": "the group has active members on this topic; stop them first",
    "INVALID_PRINCIPAL_TYPE": "Kafka doesn't accept this kind of principal",
    "DELEGATION_TOKEN_AUTHORIZATION_FAILED": "Sluice's own user lacks rights",
    "UNKNOWN_CONTROLLER_ID": "Kafka doesn't know this controller",
    "FEATURE_UPDATE_FAILED": "Kafka refuses this feature level",
    "RESOURCE_NOT_FOUND": "Kafka doesn't know it",
    "INVALID_COMMIT_OFFSET_SIZE": "Kafka doesn't take so many positions at once; move them in parts",
    "GROUP_ID_NOT_FOUND": "the group doesn't exist",
}
"""Errors that trying again can't cure, by Kafka's name, each with what is wrong and what to do.

Every other code is the world's: a leader on the move, a coordinator loading, a topic that another client just made.
"""
NOT_ACCEPTED: Final = "SASL_AUTHENTICATION_FAILED"
"""The world's too: what we know may be right, and Kafka hears of it later. Often it hangs up before it says so."""

NONE: Final = 0


def code_name(code: int) -> str:
    """Kafka's name of an error code (``INVALID_CONFIG``), or the number if it is newer than the client library."""
    name: str | None = client_errors.for_code(code).message
    return name if name and code != -1 else ("UNKNOWN_SERVER_ERROR" if code == -1 else f"error {code}")


def from_code(code: int, what: str, detail: str | None = None) -> KafkaError:
    """The error for a response's ``code``; ``what`` names the thing ("topic orders"), ``detail`` is Kafka's text."""
    name = code_name(code)
    said = f" Kafka says: {detail.rstrip('.')}." if detail else ""
    advice = ADVICE.get(name)
    if advice is not None:
        return KafkaRefusedError(Reason.KAFKA_REFUSED, f"{what}: {advice} ({name}).{said}", code=name)
    if name == NOT_ACCEPTED:
        return KafkaUnreachableError(
            f"{what}: the credentials are not accepted; correct the Secret, or the user in Kafka ({name}).{said}",
            code=name,
        )
    return KafkaUnreachableError(f"{what}: Kafka answered {name}.{said}", code=name)


def check(code: int, what: str, detail: str | None = None) -> None:
    """Raise the error of a response's ``code``, if it is one."""
    if code != NONE:
        raise from_code(code, what, detail)


def classify(error: BaseException, what: str) -> KafkaError:
    """The error for an exception of the client library or the network."""
    if isinstance(error, KafkaError):
        return error
    if isinstance(error, client_errors.IncompatibleBrokerVersion):
        return KafkaRefusedError(
            Reason.KAFKA_REFUSED,
            f"{what}: this version of Kafka doesn't know the request ({error}).",
            code="UNSUPPORTED_VERSION",
        )
    if isinstance(error, client_errors.BrokerResponseError) and error.errno is not None:
        return from_code(error.errno, what, ", ".join(map(str, error.args)) or None)
    if isinstance(error, client_errors.NodeNotReadyError):
        return KafkaUnreachableError(f"{what}: no broker can be reached at the moment")
    return KafkaUnreachableError(f"{what}: {error or type(error).__name__}")
