"""Startup and cleanup: everything is made here, once, and wired together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import kopf

from sluice.api.base import API_VERSION
from sluice.api.objects import KINDS
from sluice.engine.cluster import ClusterReconciler
from sluice.engine.clusters import Clusters
from sluice.engine.errors import NotLeaderError
from sluice.engine.group import ConsumerGroupReconciler
from sluice.engine.index import Index
from sluice.engine.prober import Prober
from sluice.engine.probing import Probing
from sluice.engine.reconciler import Context, Reconciler
from sluice.engine.replay import ReplayJobReconciler
from sluice.engine.resync import Resync
from sluice.engine.settings import Settings
from sluice.engine.topic import TopicReconciler
from sluice.engine.user import UserReconciler
from sluice.engine.workers import Workers
from sluice.handlers.admission import AdmissionServer
from sluice.handlers.certificate import WebhookCertificate
from sluice.handlers.edge import MANAGED_BY, Edge
from sluice.handlers.owned import OWNED
from sluice.kafka.admin import KafkaAdmin
from sluice.kube.client import Kube
from sluice.kube.lease import Elector
from sluice.observability.events import Events
from sluice.observability.health import HealthServer
from sluice.observability.metrics import Metrics
from sluice.observability.probe import ProbeMetrics

_LOG = logging.getLogger(__name__)

_CRD_WAIT: Final = 2.0


class Operator:
    """All parts of one replica, from start to stop."""

    def __init__(self, settings: Settings, own: Kube, metrics: Metrics) -> None:
        """
        Args:
            settings: the settings.
            own: a client that isn't fenced, for what every replica does.
            metrics: the metrics, in which that client counts its requests.
        """
        self.settings = settings
        self.metrics = metrics
        self.failed = False
        """Whether a part that must always run has ended."""
        self.ending = asyncio.Event()
        """Set to make the process end, and when it has been cleaned up."""
        self.own = own
        workers = self.workers = Workers(concurrency=settings.concurrency, queue_limit=settings.queue_limit)
        elector = self.elector = Elector(
            own,
            namespace=settings.namespace,
            name=settings.lease,
            identity=settings.identity,
            duration=settings.lease_seconds,
            on_change=self._lead,
        )
        kube = own.fenced(self.fence)
        index = Index()
        self.clusters = Clusters(kube, index, partial(KafkaAdmin, fence=self.fence, on_request=metrics.count_kafka))
        self.prober = Prober(ProbeMetrics(metrics.registry), fence=self.fence, on_request=metrics.count_kafka)
        self.probing = Probing(self.prober, self.clusters)
        self.resync = Resync(
            own, index, workers, namespaces=settings.watch_namespaces, interval=settings.resync_seconds
        )
        self.edge = Edge(index, workers, self.clusters, self.resync)
        self.certificate = WebhookCertificate(
            own,
            namespace=settings.namespace,
            secret=settings.webhook_secret,
            service=settings.service,
            configuration=settings.webhook_configuration,
        )
        self.events = Events(kube, instance=settings.identity)
        self.context = Context(
            kube=kube,
            clusters=self.clusters,
            index=index,
            events=self.events,
            metrics=metrics,
            settings=settings,
            clock=lambda: datetime.now(UTC),
            enqueue=workers.enqueue,
            fence=self.fence,
        )
        self.admission: AdmissionServer | None = None
        self.health = HealthServer(
            metrics,
            settings.metrics_port,
            healthy={"parts": lambda: not self.failed, "election": lambda: not elector.stuck()},
            ready={
                "index": lambda: self.resync.synced,
                "admission": lambda: self.admission is not None and self.admission.serving,
            },
        )
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def make(cls, settings: Settings) -> Operator:
        """Connect to the API server, and make everything; nothing runs yet."""
        metrics = Metrics()
        return cls(settings, await Kube.connect(count=metrics.count_kubernetes), metrics)

    def fence(self) -> None:
        """Called before each effect.

        Raises:
            NotLeaderError: this replica may not act.
        """
        if not self.elector.may_act():
            raise NotLeaderError("this replica doesn't hold the Lease, or couldn't renew it in time")

    async def start(self) -> AdmissionServer:
        """Start every part; returns the admission server, which kopf runs."""
        self.workers.equip(self.context, self.reconcilers())
        await self.health.start()
        while missing := sorted(set(KINDS) - await self.own.served_kinds(API_VERSION)):
            _LOG.warning("the API server doesn't know %s: waiting for the CRDs", ", ".join(missing))
            await asyncio.sleep(_CRD_WAIT)
        await self.certificate.ensure()
        path = str(self.certificate.path)
        self.admission = AdmissionServer(port=self.settings.webhook_port, certfile=path, pkeyfile=path)
        await self.resync.first()
        for name, part in self._parts().items():
            task = asyncio.create_task(part, name=name)
            task.add_done_callback(self._ended)
            self._tasks.append(task)
        _LOG.info("started", extra={"identity": self.settings.identity})
        return self.admission

    def reconcilers(self) -> list[Reconciler]:
        """One reconciler a kind."""
        return [
            ClusterReconciler(self.context, self.probing),
            TopicReconciler(self.context),
            UserReconciler(self.context),
            ConsumerGroupReconciler(self.context),
            ReplayJobReconciler(self.context),
        ]

    async def stop(self) -> None:
        """Finish what runs, in bounded time; then another replica may lead at once."""
        await self.workers.stop()
        await self.probing.stop()
        await self.events.flush()
        for task in self._tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.elector.release()
        await self.clusters.close()
        await self.health.stop()
        await self.own.close()
        self.certificate.remove()
        _LOG.info("stopped", extra={"identity": self.settings.identity})

    def _lead(self, leads: bool) -> None:
        self.metrics.lead(leads)
        self.workers.lead(leads)
        if not leads:
            self.prober.clear()

    def _parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "workers": self.workers.run(),
            "probe": self.prober.run(),
            "resync": self.resync.run(),
            "election": self.elector.run(),
            "certificate": self.certificate.keep(),
        }

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that must always run has ended: without it this replica is worse than none."""
        error = None if task.cancelled() else task.exception()
        _LOG.critical("%s has ended: %s", task.get_name(), error, exc_info=error)
        self.failed = True
        self.ending.set()


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Credentials for kopf's watches, found as those of the operator's own client are."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        return kopf.login_with_service_account(**kwargs)
    return kopf.login_with_kubeconfig(**kwargs)


@kopf.on.startup(errors=kopf.ErrorsMode.PERMANENT)
async def startup(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Make and start the operator, and keep kopf to what it is here for: watching and admission."""
    own = Settings.from_environment()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    # Workers are kopf's tasks for objects; with a limit, a slow one would hold up the events of others.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1.0
    for group, version, plural in OWNED:
        settings.watching.label_selectors[group, version, plural] = f"{MANAGED_BY}=sluice"
    operator = await memo.get("operator_type", Operator).make(own)
    operator.ending = memo.get("ending", operator.ending)
    memo.operator = operator
    memo.edge = operator.edge
    settings.admission.managed = None
    settings.admission.server = await operator.start()


@kopf.on.cleanup()
async def cleanup(memo: kopf.Memo, **_: Any) -> None:
    """Stop the operator."""
    if "operator" in memo:
        await memo.operator.stop()
        # kopf has a task that waits for this, and would wait five seconds for that task.
        memo.operator.ending.set()
