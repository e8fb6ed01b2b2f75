"""The way requests go to a cluster: a lazy connection, one thread, errors classified, writes fenced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from kafka import errors as client_errors
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.protocol.admin import DescribeQuorumRequest
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.metadata import CoordinatorType, FindCoordinatorRequest

from sluice.kafka.connection import CLIENT_ID, ConnectionSettings, diagnose
from sluice.kafka.errors import Answers, KafkaError, KafkaUnreachableError, classify, from_code
from sluice.kafka.undecoded import Undecoded

logger = logging.getLogger(__name__)

# Every failure reaches us as an exception, with its text. The library's own log would repeat each one at every attempt,
# and its debug level prints whole requests, SCRAM credentials among them.
logging.getLogger("kafka").setLevel(logging.CRITICAL)

BOOTSTRAP_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 30.0
"""How long one request may take, from asking for it to its answer."""
ATTEMPTS: Final = 3
"""Times a request is tried that was not sent, or that is harmless to send twice."""
ATTEMPT_PAUSE_SECONDS: Final = 0.2
COORDINATOR_ATTEMPTS: Final = 6
NAMES_PER_REQUEST: Final = 1_000
"""Things described or changed in one request; Kafka takes at most 10,000 records of metadata from one."""

T = TypeVar("T")


def chunks(items: Sequence[T], size: int = NAMES_PER_REQUEST) -> Iterator[Sequence[T]]:
    """``items`` in pieces of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Channel:
    """Sends requests to a cluster. Connects when first used, and again after the cluster was out of reach.

    kafka-python's connection manager runs in a thread of its own; here its futures become awaitable. All methods may be
    used by any number of tasks of one event loop at a time.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        fence: Callable[[], None] = lambda: None,
        on_request: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            settings: where and as whom to connect.
            fence: called before each write; raises if we may not write (any more).
            on_request: called with the type of each request sent, such as ``CreateTopics``.
        """
        self.settings = settings
        self._fence = fence
        self._on_request = on_request
        self._manager: KafkaConnectionManager | None = None
        self._connecting = asyncio.Lock()
        self._coordinators: dict[tuple[int, str], int] = {}

    async def close(self) -> None:
        """Close every connection and end the thread. The channel may be used again: it connects anew."""
        manager, self._manager = self._manager, None
        self._coordinators.clear()
        if manager is not None:
            await _shut(manager)

    async def read(self, request: ApiMessage, what: str, *, node: int | None = None) -> Any:
        """Send a request that changes nothing, to broker ``node`` or any.

        Raises:
            KafkaUnreachableError: nobody answered.
            KafkaRefusedError: the cluster doesn't accept us, or doesn't know the request.
        """
        return await self._send(request, what, node, again=True)

    async def read_raw(self, request: ApiMessage, what: str) -> bytes:
        """The undecoded answer of any broker: to see cheaply whether anything has changed since the last time."""
        answer: bytes = (await self._send(Undecoded(request), what, None, again=True)).payload
        return answer[4:]  # without throttle_time_ms, with which every answer starts

    async def write(self, request: ApiMessage, what: str, *, node: int | None = None) -> Any:
        """Send a request that changes something, to broker ``node`` or the controller (KRaft brokers forward).

        Raises:
            KafkaUnreachableError: nobody answered; whether the change was made is not known.
            KafkaRefusedError: the cluster doesn't accept us, or doesn't know the request.
        """
        self._fence()
        return await self._send(request, what, node, again=False, to_controller=node is None)

    async def version_of(self, request: type[ApiMessage]) -> int:
        """The highest version of a request that the cluster and the library both know."""
        manager = await self._connected()
        try:
            return int(manager.broker_version_data.api_version(request))
        except client_errors.KafkaError as error:
            raise classify(error, request.__name__) from error

    async def broker_ids(self) -> list[int]:
        """Brokers as of the last metadata response."""
        manager = await self._connected()
        return sorted(broker.node_id for broker in manager.cluster.brokers())

    async def refresh_brokers(self) -> None:
        """Learn addresses of brokers that joined since the last metadata response."""
        manager = await self._connected()
        await self._await(manager, manager.cluster.refresh_metadata, "metadata")

    async def coordinators(self, keys: Sequence[str], kind: CoordinatorType = CoordinatorType.GROUP) -> dict[str, int]:
        """Broker that coordinates each group or transactional id. Remembered until `forget_coordinators`."""
        return (await self.each_coordinator(keys, kind)).all()

    async def each_coordinator(
        self, keys: Sequence[str], kind: CoordinatorType = CoordinatorType.GROUP
    ) -> Answers[str, int]:
        """As `coordinators`, each key with its own error."""
        errors: dict[str, KafkaError] = {}
        for attempt in range(1, COORDINATOR_ATTEMPTS + 1):
            unknown = [key for key in keys if (int(kind), key) not in self._coordinators]
            errors = await self._find_coordinators(unknown, kind) if unknown else {}
            # Normal for a moment in a new cluster, whose internal topics are made when first asked for.
            coming = any(error.code == "COORDINATOR_NOT_AVAILABLE" for error in errors.values())
            if not coming or attempt == COORDINATOR_ATTEMPTS:
                break
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS * attempt)
        answers: Answers[str, int] = Answers(errors=errors)
        for key in keys:
            if (node := self._coordinators.get((int(kind), key))) is not None:
                answers.found[key] = node
            elif key not in errors:  # another task has found out meanwhile that it has moved
                errors[key] = KafkaUnreachableError(f"the coordinator of {key} is on the move")
        return answers

    async def _find_coordinators(self, keys: Sequence[str], kind: CoordinatorType) -> dict[str, KafkaError]:
        """Ask for coordinators and remember them; the errors of the others."""
        errors: dict[str, KafkaError] = {}
        batched = await self.version_of(FindCoordinatorRequest) >= 4  # KIP-699
        for chunk in chunks(keys, NAMES_PER_REQUEST if batched else 1):
            if batched:
                request = FindCoordinatorRequest(key_type=int(kind), coordinator_keys=list(chunk), min_version=4)
            else:
                request = FindCoordinatorRequest(key_type=int(kind), key=chunk[0], max_version=3)
            response = await self.read(request, "coordinators")
            answers = [(found.key, found) for found in response.coordinators] if batched else [(chunk[0], response)]
            for key, found in answers:
                if found.error_code:
                    errors[key] = from_code(found.error_code, f"coordinator of {key}", found.error_message)
                else:
                    self._coordinators[int(kind), key] = found.node_id
        return errors

    def forget_coordinators(self, keys: Sequence[str], kind: CoordinatorType = CoordinatorType.GROUP) -> None:
        """Look them up again next time, as after ``NOT_COORDINATOR``."""
        for key in keys:
            self._coordinators.pop((int(kind), key), None)

    async def _send(
        self, request: ApiMessage | Undecoded, what: str, node: int | None, *, again: bool, to_controller: bool = False
    ) -> Any:
        """``again``: harmless to send twice, so it is tried again when the connection breaks under it."""
        name = request.name.removesuffix("Request")
        for attempt in range(1, ATTEMPTS + 1):
            manager = await self._connected()
            self._on_request(name)
            target = _controller_of(manager) if to_controller else node
            try:
                return await self._await(manager, partial(_deliver, manager, request, target), what)
            except KafkaUnreachableError as error:
                if attempt == ATTEMPTS or not (again or isinstance(error.__cause__, _NotSentError)):
                    if node is None:  # any broker would have done: the addresses that we know may be out of date
                        await self._drop(manager)
                    raise
                if node is not None:
                    await self.refresh_brokers()
                await asyncio.sleep(ATTEMPT_PAUSE_SECONDS * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _await(self, manager: KafkaConnectionManager, call: Callable[[], Any], what: str) -> Any:
        """Run a call in the manager's thread, and wait for it here."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await _bridge(manager.call_soon(call))
        except TimeoutError as error:
            raise KafkaUnreachableError(f"{what}: no answer within {REQUEST_SECONDS:g} s") from error
        except client_errors.KafkaError as error:
            cause = error.cause if isinstance(error, _NotSentError) else error
            if isinstance(cause, client_errors.SaslAuthenticationFailedError):
                await self._drop(manager)  # it never tries a broker again that refused the credentials
            raise classify(cause, what) from error
        except RuntimeError as error:  # closed by another task while this one was about to send
            raise KafkaUnreachableError(f"{what}: {error}") from error

    async def _connected(self) -> KafkaConnectionManager:
        async with self._connecting:
            if self._manager is not None and self._manager._net._exception is not None:
                self._manager = None  # its thread has died
            if self._manager is None:
                self._manager = await self._connect()
            return self._manager

    async def _connect(self) -> KafkaConnectionManager:
        settings = self.settings
        config: Mapping[str, Any] = settings.kafka_python_config() | {
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "receive_message_max_bytes": 100_000_000,
            # The library refuses what exceeds this, and pauses at it; we would rather queue in the broker.
            "max_in_flight_requests_per_connection": 1_000,
            "reconnect_backoff_max_ms": 5_000,
            "socket_connection_setup_timeout_ms": 5_000,
        }
        net = NetworkSelector(client_id=CLIENT_ID)
        manager = KafkaConnectionManager(net, **config)
        net.start()
        try:
            await _bridge(manager.bootstrap_async(timeout_ms=BOOTSTRAP_SECONDS * 1000))
        except client_errors.KafkaError as error:
            said = await _bridge(manager.call_soon(_why_not, manager))
            await _shut(manager)
            where = f"Kafka at {', '.join(settings.bootstrap_servers)}"
            if said is not None:
                raise classify(said, where) from said
            found = classify(error, where)
            if isinstance(found, KafkaUnreachableError):
                raise KafkaUnreachableError(f"{where} can't be reached: {await diagnose(settings)}") from error
            raise found from error
        except asyncio.CancelledError:
            await _shut(manager)
            raise
        return manager

    async def _drop(self, manager: KafkaConnectionManager) -> None:
        """Forget a manager that can't reach the cluster, unless another task has done so."""
        if self._manager is manager:
            await self.close()


class _NotSentError(client_errors.KafkaError):  # type: ignore[misc] # the library ships no types
    """There was no connection, so the request wasn't sent."""

    def __init__(self, cause: client_errors.KafkaError) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _deliver(manager: KafkaConnectionManager, request: ApiMessage | Undecoded, node: int | None) -> Any:
    """Connect, then send. Runs in the manager's thread.

    Raises:
        _NotSentError: it couldn't connect.
    """
    target = node if node is not None else manager.least_loaded_node()
    try:
        await manager.get_connection(target)
    except client_errors.KafkaError as error:
        raise _NotSentError(error) from error
    return await manager.send(request, node_id=target)


def _controller_of(manager: KafkaConnectionManager) -> int | None:
    """The controller, where only it takes changes: under ZooKeeper. KRaft's brokers forward them, so any will do."""
    forwards = DescribeQuorumRequest.API_KEY in manager.broker_version_data.api_versions
    controller = manager.cluster.controller
    return None if forwards or controller is None else int(controller.node_id)


async def _bridge(future: Any) -> Any:
    """A future of kafka-python's thread, awaited in this event loop."""
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[Any] = loop.create_future()

    def resolve() -> None:
        if mine.done():  # timed out or cancelled meanwhile
            return
        if future.exception is not None:
            mine.set_exception(future.exception)
        else:
            mine.set_result(future.value)

    def hand_over(_: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(resolve)

    future.add_both(hand_over)
    return await mine


async def _why_not(manager: KafkaConnectionManager) -> BaseException | None:
    """What a broker said when it refused us, if the library caught it before the broker hung up.

    The library tries again until time is up, and then only says so. Runs in the manager's thread.
    """
    for broker in manager.cluster.bootstrap_brokers():
        manager.reset_backoff(broker.node_id)
        try:
            await manager.get_connection(broker.node_id)
        except client_errors.BrokerResponseError as error:
            refusal: BaseException = error
            return refusal
        except client_errors.KafkaError:
            continue
    return None


async def _shut(manager: KafkaConnectionManager) -> None:
    net = manager._net
    await _bridge(manager.call_soon(manager.close))
    await asyncio.to_thread(net.stop)
    net.close()
