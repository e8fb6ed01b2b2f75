"""One connection to a broker: framed requests out, responses in order, record bytes never copied in between.

Small requests use kafka-python's generated classes. Fetch and Produce go through ``send`` as raw parts, so that a batch
travels from the socket it came from to the socket it leaves by in the same memory.
"""

from __future__ import annotations

import asyncio
import contextlib
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

CLIENT_ID: Final = "sluice-replay"
_CLIENT_ID_BYTES: Final = CLIENT_ID.encode()
_REQUEST_HEADER: Final = struct.Struct(">ihhih")
_SIZE: Final = struct.Struct(">i")
_RESPONSE_HEADER: Final = struct.Struct(">ii")
_MAX_RESPONSE_BYTES: Final = 512 * 1024 * 1024
_READ_SLICE: Final = 8 * 1024 * 1024
"""Bytes read from one connection before others get their turn."""
_PARTS_PER_WRITE: Final = 64
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
    deadline: float


class Connection:
    """An authenticated connection. Requests are answered in the order they were sent."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.address = address
        self.api_versions: Mapping[int, tuple[int, int]] = {}
        self.features: Mapping[str, int] = {}
        self.throttled_until = 0.0
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
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
        return len(self._waiting)

    # -- opening ------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, host: str, port: int, settings: ConnectionSettings) -> Connection:
        """Connect, encrypt, learn the broker's versions and authenticate, as ``settings`` say.

        Raises:
            KafkaUnreachableError: nobody answers, or not as Kafka.
            KafkaRefusedError: the credentials aren't accepted.
        """
        address = f"{host}:{port}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                sock = await _connect(host, port, settings)
                connection = cls(sock, address)
                connection._loop.add_reader(sock.fileno(), connection._on_readable)
                try:
                    await connection._learn_versions()
                    if settings.sasl_mechanism:
                        await connection._authenticate(settings)
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
        handshake = await self._exchange(SaslHandshakeRequest(mechanism=mechanism), 1)
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
            response = await self._exchange(request, self.version(SaslAuthenticateRequest))
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
            self._reauthentication = self._loop.call_later(
                lifetime / 1000 * _REAUTHENTICATE_AT, self._reauthenticate, settings
            )

    def _reauthenticate(self, settings: ConnectionSettings) -> None:
        async def renew() -> None:
            try:
                await self._authenticate(settings)
            except (KafkaUnreachableError, KafkaRefusedError) as error:
                self._fail(ConnectionLostError(f"{self.address}: {error}"))

        task = self._loop.create_task(renew())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    async def _exchange(self, request: Any, version: int, header_flexible: bool | None = None) -> Any:
        self._correlation += 1
        request.with_header(self._correlation, CLIENT_ID)
        data = request.encode(version=version, header=True, framed=True)
        flexible = request.flexible_version_q(version) if header_flexible is None else header_flexible
        body = await self._enqueue(self._correlation, flexible, (data,), REQUEST_SECONDS)
        response_class = request.header.get_response_class()
        return response_class.decode(body)

    def send(self, api_key: int, version: int, parts: Sequence[Part], timeout: float) -> asyncio.Future[memoryview]:
        """Send a flexible request given as raw ``parts``; the future is the response's body.

        ``parts`` must not change until the response is there.
        """
        self._correlation += 1
        size = sum(map(len, parts)) + _REQUEST_HEADER.size - 4 + len(_CLIENT_ID_BYTES) + 1
        head = _REQUEST_HEADER.pack(size, api_key, version, self._correlation, len(_CLIENT_ID_BYTES))
        return self._enqueue(self._correlation, True, (head + _CLIENT_ID_BYTES + b"\x00", *parts), timeout)

    def _enqueue(
        self, correlation: int, flexible: bool, parts: Sequence[Part], timeout: float
    ) -> asyncio.Future[memoryview]:
        future: asyncio.Future[memoryview] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(self._lost)
            return future
        self._waiting.append(_Waiting(correlation, flexible, future, self._loop.time() + timeout))
        if self._timer is None:
            self._timer = self._loop.call_later(timeout, self._check_deadline)
        self._out.extend(memoryview(part) for part in parts if len(part))
        if not self._writing:
            self._on_writable()
        return future

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
                    sent = self._socket.send(out[0])
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
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(error)
                future.exception()  # looked at: whoever waits gets it, and nobody else need

    def close(self) -> None:
        """End the connection; requests in flight fail with ``ConnectionLostError``."""
        self._fail(ConnectionLostError(f"the connection to {self.address} was closed"))


async def _connect(host: str, port: int, settings: ConnectionSettings) -> socket.socket:
    loop = asyncio.get_running_loop()
    last: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
            return await _encrypt(sock, host, settings) if settings.tls else sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


async def _encrypt(sock: socket.socket, host: str, settings: ConnectionSettings) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    wrapped = settings.ssl_context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    while True:
        try:
            wrapped.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(loop.add_reader, loop.remove_reader, wrapped.fileno())
        except ssl.SSLWantWriteError:
            await _ready(loop.add_writer, loop.remove_writer, wrapped.fileno())
        except BaseException:
            wrapped.close()
            raise
        else:
            return wrapped


async def _ready(add: Callable[..., None], remove: Callable[[int], bool], descriptor: int) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(descriptor, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        remove(descriptor)
