"""How a replay can end, and what in it is tried again."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the worker's process ends with. The Kubernetes Job decides by it whether to start another one."""

    DONE = 0
    """Every position of the shard is at its end."""
    UNEXPECTED = 1
    """A fault of the worker itself; worth another try."""
    BAD_PLAN = 2
    """Plan or credentials can't be read; another try would read the same."""
    FENCED = 10
    """Another worker took over this shard; nothing is wrong with the replay."""
    POSITION_LOST = 11
    """The committed position is gone; starting again would copy records twice."""
    RANGE_LOST = 12
    """Records of the range don't exist in the source any more."""
    REFUSED = 13
    """Kafka refuses what the replay needs (a record's size, a right, a topic that is gone)."""
    GAVE_UP = 14
    """Kafka could not be reached, or nothing moved, for too long; worth another try."""
    STOPPED = 15
    """Asked to stop (SIGTERM); what was committed stands."""


class ReplayError(Exception):
    """A replay's worker can't go on. ``code`` is the exit code, the text a sentence for people."""

    code = ExitCode.UNEXPECTED


class BadPlanError(ReplayError):
    """Plan or credentials can't be used."""

    code = ExitCode.BAD_PLAN


class FencedError(ReplayError):
    """Another worker of the same shard started after this one."""

    code = ExitCode.FENCED


class PositionLostError(ReplayError):
    """There is no committed position where there must be one."""

    code = ExitCode.POSITION_LOST


class RangeLostError(ReplayError):
    """Part of the frozen range is gone from the source."""

    code = ExitCode.RANGE_LOST


class RefusedError(ReplayError):
    """Kafka says no, and would again."""

    code = ExitCode.REFUSED


class DeniedError(RefusedError):
    """Kafka says no, but perhaps only for a moment: rights and topics made just now reach each broker by themselves."""


class GaveUpError(ReplayError):
    """No progress for too long."""

    code = ExitCode.GAVE_UP


class DoubtError(Exception):
    """What became of the open transaction isn't known, or it can't be completed.

    The session is given up: the transaction is aborted by a new InitProducerId, the committed position is read again,
    and copying goes on from there.
    """


class CorruptBatchError(ReplayError):
    """Bytes of the source are no valid record batch."""

    code = ExitCode.REFUSED
