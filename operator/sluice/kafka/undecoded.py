"""A request whose answer stays bytes: decoding is what costs, and a hash needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kafka.protocol.api_message import ApiMessage


@dataclass(frozen=True)
class Payload:
    """The body of an answer, as received."""

    payload: bytes


class Undecoded:
    """Stands for a request towards kafka-python's connection, which asks the request's header how to decode."""

    def __init__(self, request: ApiMessage) -> None:
        self._request = request
        self.name: str = request.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    @property
    def API_VERSION(self) -> int | None:
        """Version that the connection has chosen."""
        version: int | None = self._request.API_VERSION
        return version

    @API_VERSION.setter
    def API_VERSION(self, version: int) -> None:
        self._request.API_VERSION = version

    @property
    def header(self) -> _Header:
        """The request's header, as the connection remembers it until the answer comes."""
        return _Header(self._request.header)


class _Header:
    def __init__(self, header: Any) -> None:
        self._header = header
        self.correlation_id: int = header.correlation_id

    def get_response_class(self) -> _Decoder:
        return _Decoder(self._header.get_response_class())


class _Decoder:
    def __init__(self, response: Any) -> None:
        self._response = response

    def parse_header(self, data: Any) -> Any:
        return self._response.parse_header(data)

    def decode(self, data: Any) -> Payload:
        return Payload(data.read())
