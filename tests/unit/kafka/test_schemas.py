"""Requests that the library doesn't know are encoded and decoded by it all the same."""

from __future__ import annotations

from sluice.kafka.schemas import ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse


def test_a_request_is_as_the_protocol_has_it() -> None:
    request = ConsumerGroupDescribeRequest(group_ids=["g"], include_authorized_operations=False, version=0)
    assert (request.API_KEY, bytes(request.encode())) == (69, b"\x02\x02g\x00\x00")


def test_members_are_read_from_an_answer() -> None:
    nothing = b"\x01\x00"  # no partitions, no tagged fields
    member = (
        b"\x02m"
        + b"\x00"
        + b"\x00"
        + b"\x00\x00\x00\x05"
        + b"\x04app"
        + b"\x03/1"
        + b"\x01"
        + b"\x00"
        + nothing
        + nothing
    )
    group = (
        b"\x00\x00"
        + b"\x00"
        + b"\x02g"
        + b"\x07Stable"
        + b"\x00\x00\x00\x01" * 2
        + b"\x02u"
        + b"\x02"
        + member
        + b"\x00"
    )
    answer = b"\x00\x00\x00\x00" + b"\x02" + group + b"\x80\x00\x00\x00" + b"\x00" + b"\x00"
    (found,) = ConsumerGroupDescribeResponse.decode(answer, version=0).groups
    assert (found.group_id, found.group_state, found.error_code) == ("g", "Stable", 0)
    assert [(m.member_id, m.client_id, m.client_host, m.member_epoch) for m in found.members] == [("m", "app", "/1", 5)]
