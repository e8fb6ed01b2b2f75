"""Reaching a broker: a TCP connection that doesn't block, and TLS on it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from sluice.kafka.connection import ConnectionSettings


async def connect(host: str, port: int, settings: ConnectionSettings) -> socket.socket:
    """A connection to the first address of ``host`` that takes it.

    Raises:
        OSError: none does.
    """
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
