"""Requests that kafka-python doesn't know (yet), as it wants them: a schema in JSON, and a class of its name."""

from __future__ import annotations

import sys
from typing import Final

from kafka.protocol.api_message import ApiMessage

_HERE: Final = sys.modules[__name__]


class ConsumerGroupDescribeRequest(ApiMessage, load_json=_HERE):  # type: ignore[misc,call-arg] # the library ships no types
    """Groups of the newer consumer protocol, with their members (KIP-848)."""


class ConsumerGroupDescribeResponse(ApiMessage, load_json=_HERE):  # type: ignore[misc,call-arg] # the library ships no types
    """The answer."""
