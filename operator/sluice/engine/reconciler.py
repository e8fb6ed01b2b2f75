"""What a reconciler is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from sluice.api.objects import Key

if TYPE_CHECKING:
    from sluice.engine.clusters import Clusters
    from sluice.engine.index import Index
    from sluice.engine.settings import Settings
    from sluice.kube.client import Kube
    from sluice.observability.events import Events
    from sluice.observability.metrics import Metrics


@dataclass(frozen=True)
class Outcome:
    """How a reconciliation ended, if well.

    Attributes:
        requeue_after: seconds until the next look; None: only on the next event or resync.
    """

    requeue_after: float | None = None


class Reconciler(Protocol):
    """Brings the objects of one kind to what their specs say.

    It sees keys, reads the objects from the index, and is called again whenever something may have changed: it
    must not care why it is called. Deleted objects are called for too (the index has no object for the key then).
    Paused objects, and those whose spec can't be read, aren't passed on to it.
    """

    @property
    def kind(self) -> str:
        """The kind that it looks after."""
        ...

    def lane(self, key: Key) -> str:
        """Keys of one lane are reconciled together and never twice at once; lanes run side by side.

        It is asked again whenever a look at the key is wanted: a key whose lane has changed waits in the new one.
        """
        ...

    async def reconcile(self, keys: Sequence[Key]) -> Mapping[Key, Outcome | Exception]:
        """Look after these objects, all of one lane.

        Returns one outcome or error for each key (a missing one means: well). An exception that is raised counts
        for every key. See :mod:`sluice.engine.errors` for what the engine makes of each error.
        """
        ...


@dataclass
class Context:
    """What every reconciler is given; made once in ``handlers/startup.py``.

    Attributes:
        clock: now, aware, UTC.
        enqueue: look at this object soon.
        fence: raises NotLeaderError when this process may not act. The clients call it before each effect.
    """

    kube: Kube
    clusters: Clusters
    index: Index
    events: Events
    metrics: Metrics
    settings: Settings
    clock: Callable[[], datetime]
    enqueue: Callable[[Key], None]
    fence: Callable[[], None]
