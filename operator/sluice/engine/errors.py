"""Errors of two kinds: the user's, told in a condition and not retried, and the world's, retried."""

from __future__ import annotations

from sluice.api.base import Reason


class UserError(Exception):
    """What the user has to change. Conditions ``Ready=False`` and ``Stalled=True``; no retry until the object changes.

    (It is looked at again at each resync, since what it names, such as a Secret, may have been put right elsewhere.)
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class WaitingError(Exception):
    """Something isn't there yet. Conditions ``Ready=False`` and ``Reconciling=True``, and a calm retry.

    Attributes:
        retry_after: seconds.
    """

    def __init__(self, reason: Reason, message: str, retry_after: float = 15.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class ClusterNotFoundError(WaitingError):
    """The MessagingCluster doesn't exist (yet)."""

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(
            Reason.CLUSTER_NOT_FOUND,
            f"MessagingCluster {namespace}/{name} doesn't exist: create it, or correct spec.clusterRef",
            retry_after=60.0,
        )


class ClusterNotReadyError(WaitingError):
    """The MessagingCluster can't be connected to yet."""

    def __init__(self, namespace: str, name: str, why: str) -> None:
        super().__init__(Reason.CLUSTER_NOT_READY, f"MessagingCluster {namespace}/{name} isn't ready: {why}")


class ClusterRefusesNamespaceError(WaitingError):
    """The MessagingCluster doesn't allow objects of that namespace."""

    def __init__(self, namespace: str, name: str, asking: str) -> None:
        super().__init__(
            Reason.CLUSTER_REFUSES_NAMESPACE,
            f"MessagingCluster {namespace}/{name} doesn't allow objects of namespace {asking}: "
            f"its owner must add {asking} to spec.allowedNamespaces",
            retry_after=60.0,
        )


class ChangedError(WaitingError):
    """The object isn't any more what this reconciliation started from: look again soon."""

    def __init__(self, what: str) -> None:
        super().__init__(Reason.PROGRESSING, f"{what} has changed meanwhile", retry_after=1.0)


class NotLeaderError(Exception):
    """This process may not act: another one holds the Lease, or its own renewal is overdue."""
