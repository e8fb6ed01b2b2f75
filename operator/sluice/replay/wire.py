"""One connection to a broker: framed requests out, responses in order, record bytes never copied in between.

Small requests use kafka-python's generated classes. Fetch and Produce go through ``send`` as raw parts, so that a batch
travels from the socket it came from to the socket it leaves by in the same memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kafka.errors import KafkaError as ClientLibraryError
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from sluice.kafka.connection import ConnectionSettings
from sluice.kafka.errors import KafkaRefusedError, KafkaUnreachableError, classify, from_code
from sluice.replay.dial import connect
from sluice.replay.errors import ReplayError

CLIENT_ID: Final = "sluice-replay"
_CLIENT_ID_BYTES: Final = CLIENT_ID.encode()
_REQUEST_HEADER: Final = struct.Struct(">ihhih")
_SIZE: Final = struct.Struct(">i")
_RESPONSE_HEADER: Final = struct.Struct(">ii")
_MAX_RESPONSE_BYTES: Final = 512 * 1024 * 1024
_READ_SLICE: Final = 8 * 1024 * 1024
"""Bytes read from one connection before others get their turn."""
_PARTS_PER_WRITE: Final = 64
_TLS_RECORD: Final = 16 * 1024
"""The most that a TLS record holds."""
CONNECT_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 30.0
_REAUTHENTICATE_AT: Final = 0.8

Part = bytes | bytearray | memoryview
_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ConnectionLostError(KafkaUnreachableError):
    """The connection ended; whatever was asked may or may not have been done."""


@dataclass(slots=True)
class _Waiting:
    correlation: int
    flexible: bool
    """Whether the response's header ends with (empty) tagged fields."""
    future: asyncio.Future[memoryview]
    timeout: float
    deadline: float = math.inf


class Connection:
    """An authenticated connection. Requests are answered in the order they were sent."""

    def __init__(self, sock: socket.socket, address: str, settings: Callable[[], ConnectionSettings]) -> None:
        self.address = address
        self._settings = settings
        self.api_versions: Mapping[int, tuple[int, int]] = {}
        self.features: Mapping[str, int] = {}
        self._throttled_until = 0.0
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._held: deque[tuple[_Waiting, Sequence[Part]]] | None = None
        """Requests that wait until we have proved again who we are."""
        self._out: deque[memoryview] = deque()
        self._writing = False
        self._correlation = 0
        self._head = bytearray(8)
        self._target = memoryview(self._head)
        self._filled = 0
        self._body: bytearray | None = None
        self._read_correlation = 0
        self._lost: KafkaUnreachableError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reauthentication: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def closed(self) -> bool:
        """Whether it can't be used any more."""
        return self._lost is not None

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._waiting) + len(self._held or ())

    @property
    def throttled(self) -> float:
        """For how many seconds the broker doesn't read what we send."""
        return max(0.0, self._throttled_until - self._loop.time())

    def throttle(self, milliseconds: int) -> None:
        """The broker said that it doesn't read from us for a while (KIP-219): requests have that much longer."""
        if milliseconds <= 0:
            return
        self._throttled_until = max(self._throttled_until, self._loop.time() + milliseconds / 1000)
        for waiting in self._waiting:
            waiting.deadline = max(waiting.deadline, self._throttled_until + waiting.timeout)

    # -- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, host: str, port: int, settings: Callable[[], ConnectionSettings]) -> Connection:
        """Connect, encrypt, learn the broker's versions and authenticate, as ``settings`` say.

        ``settings`` are asked again whenever credentials are to be shown, since they may have been renewed.

        Raises:
            KafkaUnreachableError: nobody answers, or not as Kafka.
            KafkaRefusedError: the credentials aren't accepted.
        """
        address = f"{host}:{port}"
        now = settings()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                sock = await connect(host, port, now)
                connection = cls(sock, address, settings)
                connection._loop.add_reader(sock.fileno(), connection._on_readable)
                try:
                    await connection._learn_versions()
                    if now.sasl_mechanism:
                        await connection._authenticate(now)
                except BaseException:
                    connection.close()
                    raise
                return connection
        except TimeoutError as error:
            raise KafkaUnreachableError(f"{address} didn't answer within {CONNECT_SECONDS:g} s") from error
        except OSError as error:
            raise KafkaUnreachableError(f"{address}: {error}") from error

    async def _learn_versions(self) -> None:
        request = ApiVersionsRequest(client_software_name="sluice", client_software_version="1")
        # Version 3 tells the features; version 4 those with minimum 0 too, which isn't needed.
        response = await self._exchange(request, 3, header_flexible=False)
        if response.error_code:
            raise from_code(response.error_code, f"{self.address}: asking for the versions of requests")
        self.api_versions = {key.api_key: (key.min_version, key.max_version) for key in response.api_keys}
        self.features = {feature.name: feature.max_version_level for feature in response.finalized_features or ()}

    async def _authenticate(self, settings: ConnectionSettings) -> None:
        mechanism = settings.sasl_mechanism
        handshake = await self._exchange(SaslHandshakeRequest(mechanism=mechanism), 1, proof=True)
        if handshake.error_code:
            raise from_code(handshake.error_code, f"{self.address}: authenticating with {mechanism}")
        sasl = get_sasl_mechanism(mechanism)(
            sasl_mechanism=mechanism,
            security_protocol=settings.security_protocol,
            sasl_plain_username=settings.username,
            sasl_plain_password=settings.password,
        )
        lifetime = 0
        while not sasl.is_done():
            request = SaslAuthenticateRequest(auth_bytes=sasl.auth_bytes())
            response = await self._exchange(request, self.version(SaslAuthenticateRequest), proof=True)
            if response.error_code:
                raise from_code(
                    response.error_code,
                    f"{self.address}: authenticating as {settings.username}",
                    response.error_message,
                )
            lifetime = response.session_lifetime_ms or 0
            try:
                sasl.receive(bytes(response.auth_bytes))
            except (ValueError, ClientLibraryError) as error:
                raise classify(error, f"{self.address}: authenticating as {settings.username}") from error
        if lifetime:
            # KIP-368: a session past its life is cut off by the broker, so the proof is renewed before.
            self._reauthentication = self._loop.call_later(lifetime / 1000 * _REAUTHENTICATE_AT, self._reauthenticate)

    def _reauthenticate(self) -> None:
        task = self._loop.create_task(self._prove_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prove_again(self) -> None:
        """Authenticate in between: brokers hang up on other requests while a proof is under way, so those wait.

        What was asked before needs no waiting for: brokers take one request of a connection after the other.
        """
        self._held = deque()
        try:
            await self._authenticate(self._settings())
        except (KafkaUnreachableError, KafkaRefusedError, ReplayError) as error:
            self._fail(ConnectionLostError(f"{self.address}: {error}"))
            return
        held, self._held = self._held, None
        for waiting, parts in held:
            self._post(waiting, parts)

    # -- asking -------------------------------------------------------------------------------------------------------

    def version(self, request: Any, highest: int | None = None) -> int:
        """The newest version of ``request`` (class or message) that both sides know, at most ``highest``.

        Raises:
            KafkaRefusedError: the broker is too old.
        """
        low, high = self.api_versions.get(request.API_KEY, (0, -1))
        version: int = min(high, request.max_version if highest is None else highest)
        if version < low or version < 0:
            raise from_code(35, f"{self.address}: {request.name}")
        return version

    async def call(self, request: Any, highest: int | None = None) -> Any:
        """Send a generated ``request`` and return its decoded response.

        Raises:
            ConnectionLostError: whether it was done isn't known.
        """
        return await self._exchange(request, self.version(request, highest))

    async def _exchange(
        self, request: Any, version: int, header_flexible: bool | None = None, *, proof: bool = False
    ) -> Any:
        self._correlation += 1
        request.with_header(self._correlation, CLIENT_ID)
        data = request.encode(version=version, header=True, framed=True)
        flexible = request.flexible_version_q(version) if header_flexible is None else header_flexible
        body = await self._enqueue(self._correlation, flexible, (data,), REQUEST_SECONDS, proof=proof)
        response_class = request.header.get_response_class()
        response = response_class.decode(body)
        self.throttle(getattr(response, "throttle_time_ms", None) or 0)
        return response

    def send(self, api_key: int, version: int, parts: Sequence[Part], timeout: float) -> asyncio.Future[memoryview]:
        """Send a flexible request given as raw ``parts``; the future is the response's body.

        ``parts`` must not change until the response is there.
        """
        self._correlation += 1
        size = sum(map(len, parts)) + _REQUEST_HEADER.size - 4 + len(_CLIENT_ID_BYTES) + 1
        head = _REQUEST_HEADER.pack(size, api_key, version, self._correlation, len(_CLIENT_ID_BYTES))
        return self._enqueue(self._correlation, True, (head + _CLIENT_ID_BYTES + b"\x00", *parts), timeout)

    def _enqueue(
        self, correlation: int, flexible: bool, parts: Sequence[Part], timeout: float, *, proof: bool = False
    ) -> asyncio.Future[memoryview]:
        future: asyncio.Future[memoryview] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(self._lost)
            return future
        waiting = _Waiting(correlation, flexible, future, timeout)
        if self._held is not None and not proof:
            self._held.append((waiting, parts))
        else:
            self._post(waiting, parts)
        return future

    def _post(self, waiting: _Waiting, parts: Sequence[Part]) -> None:
        waiting.deadline = self._loop.time() + self.throttled + waiting.timeout
        self._waiting.append(waiting)
        self._look_by(waiting.deadline)
        self._out.extend(memoryview(part) for part in parts if len(part))
        if not self._writing:
            self._on_writable()

    def _look_by(self, deadline: float) -> None:
        """Look at deadlines at this time, or before: the timer of an earlier request may be a later one."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiting:
            left = self._waiting[0].deadline - self._loop.time()
            if left <= 0:
                self._fail(ConnectionLostError(f"{self.address} didn't answer a request in time"))
            else:
                self._timer = self._loop.call_later(left, self._check_deadline)

    # -- socket -------------------------------------------------------------------------------------------------------

    def _on_writable(self) -> None:
        out = self._out
        try:
            while out:
                if isinstance(self._socket, ssl.SSLSocket):
                    sent = self._socket.send(_first_bytes(out))
                else:
                    sent = self._socket.sendmsg([out[i] for i in range(min(len(out), _PARTS_PER_WRITE))])
                while sent:
                    size = len(out[0])
                    if sent < size:
                        out[0] = out[0][sent:]
                        break
                    out.popleft()
                    sent -= size
        except _WOULD_BLOCK:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._socket.fileno(), self._on_writable)
            return
        except OSError as error:
            self._fail(ConnectionLostError(f"{self.address}: {error}"))
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        budget = _READ_SLICE
        try:
            while budget > 0:
                count = self._socket.recv_into(self._target[self._filled :])
                if count == 0:
                    self._fail(ConnectionLostError(f"{self.address} closed the connection"))
                    return
                budget -= count
                self._filled += count
                if self._filled == len(self._target) and not self._on_filled():
                    return
        except _WOULD_BLOCK:
            return
        except OSError as error:
            self._fail(ConnectionLostError(f"{self.address}: {error}"))
            return
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._loop.call_soon(self._on_readable)  # decrypted bytes don't make the socket readable

    def _on_filled(self) -> bool:
        """Header or body is complete; False if the connection is lost."""
        self._filled = 0
        if self._body is None:
            size, self._read_correlation = _RESPONSE_HEADER.unpack(self._head)
            if not 4 < size <= _MAX_RESPONSE_BYTES:
                self._fail(ConnectionLostError(f"{self.address}: a response of {size} bytes is not Kafka's"))
                return False
            self._body = bytearray(size - 4)
            self._target = memoryview(self._body)
            return True
        body, self._body = self._target, None
        self._target = memoryview(self._head)
        if not self._waiting or self._waiting[0].correlation != self._read_correlation:
            self._fail(ConnectionLostError(f"{self.address} answered what wasn't asked"))
            return False
        waiting = self._waiting.popleft()
        if not waiting.future.done():
            waiting.future.set_result(body[1:] if waiting.flexible else body)
        return True

    def _fail(self, error: KafkaUnreachableError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        for timer in (self._timer, self._reauthentication):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(OSError):
            self._socket.close()
        self._out.clear()
        lost = [*self._waiting, *(waiting for waiting, _ in self._held or ())]
        self._waiting.clear()
        self._held = None
        for waiting in lost:
            future = waiting.future
            if not future.done():
                future.set_exception(error)
                future.exception()  # looked at: whoever waits gets it, and nobody else need

    def close(self) -> None:
        """End the connection; requests in flight fail with ``ConnectionLostError``."""
        self._fail(ConnectionLostError(f"the connection to {self.address} was closed"))


def _first_bytes(out: deque[memoryview]) -> memoryview:
    """What to encrypt next: small parts join the next ones, since each write makes a TLS record of its own.

    They stay joined in ``out``: a write that would block has to be tried again with the same bytes.
    """
    if len(out) > 1 and len(out[0]) < _TLS_RECORD:
        joined = bytearray()
        while out and len(joined) < _TLS_RECORD:
            part = out.popleft()
            room = _TLS_RECORD - len(joined)
            joined += part[:room]
            if len(part) > room:
                out.appendleft(part[room:])
        out.appendleft(memoryview(joined))
    return out[0]
