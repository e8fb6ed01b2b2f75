"""Consumer groups: state and committed offsets, many groups at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from kafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest
from kafka.protocol.consumer import OffsetCommitRequest, OffsetFetchRequest

from sluice.kafka.admin_topics import Results
from sluice.kafka.errors import Answers, KafkaError, KafkaUnreachableError, check, code_name, from_code
from sluice.kafka.requests import Channel
from sluice.kafka.schemas import ConsumerGroupDescribeRequest
from sluice.plan.observed import SHARE, STREAMS, GroupDescription, GroupMember, TopicPartition

OFFSETS_BY_NAME: Final = 9
"""Highest version of OffsetFetch and OffsetCommit that says topics by name rather than by id."""
NO_OFFSET: Final = -1
CONSUMER: Final = "consumer"
NEW_TYPES: Final = (CONSUMER, SHARE, STREAMS)
"""Types of groups that DescribeGroups doesn't know: KIP-848, KIP-932, KIP-1071."""

T = TypeVar("T")


class GroupAdmin(Channel):
    """Describes groups, reads and sets their committed offsets, deletes them."""

    async def describe_groups(self, groups: Sequence[str]) -> dict[str, GroupDescription]:
        """State and number of members of each group. A group that doesn't exist is ``Dead`` without members.

        Of groups of the newer protocols only the state is told, which says as well whether there are members.
        """
        return (await self.each_group(groups)).all()

    async def each_group(self, groups: Sequence[str]) -> Answers[str, GroupDescription]:
        """As `describe_groups`, each group with its own error."""

        async def describe(coordinator: int, names: Sequence[str]) -> Answers[str, GroupDescription]:
            response = await self.read(DescribeGroupsRequest(groups=list(names)), "groups", node=coordinator)
            answers: Answers[str, GroupDescription] = Answers()
            others: list[str] = []
            for group in response.groups:
                name = group.group_id
                error = code_name(group.error_code) if group.error_code else None
                # Brokers since 4.0 say of groups of other protocols what they say of those that don't exist.
                if error == "GROUP_ID_NOT_FOUND" or (error is None and group.group_state == "Dead"):
                    others.append(name)
                elif error is not None:
                    answers.errors[name] = from_code(group.error_code, f"group {name}")
                else:
                    answers.found[name] = GroupDescription(
                        name, group.group_state, group.protocol_type, len(group.members)
                    )
            listed = await self._newer_groups(coordinator) if others else {}
            answers.found |= {name: listed.get(name, GroupDescription(name, "Dead", "", 0)) for name in others}
            return answers

        return await self._at_coordinators(groups, describe)

    async def _newer_groups(self, coordinator: int) -> dict[str, GroupDescription]:
        """Groups at a coordinator that don't use the classic protocol; their ``protocol_type`` is the group's type."""
        if await self.version_of(ListGroupsRequest) < 5:  # Kafka 3.8
            return {}
        request = ListGroupsRequest(states_filter=[], types_filter=list(NEW_TYPES), min_version=5)
        response = await self.read(request, "groups", node=coordinator)
        check(response.error_code, "groups")
        return {
            group.group_id: GroupDescription(group.group_id, group.group_state, group.group_type.lower(), 0)
            for group in response.groups
        }

    async def group_members(self, group: GroupDescription) -> tuple[GroupMember, ...]:
        """Who is in a group, by its description; of share and streams groups nobody can be named."""
        name = group.group_id
        if group.empty or (not group.members and group.protocol_type != CONSUMER):
            return ()
        request = (
            DescribeGroupsRequest(groups=[name])
            if group.members
            else ConsumerGroupDescribeRequest(group_ids=[name], include_authorized_operations=False)
        )

        async def describe(coordinator: int, _: Sequence[str]) -> Answers[str, tuple[GroupMember, ...]]:
            (found,) = (await self.read(request, "groups", node=coordinator)).groups
            if found.error_code and code_name(found.error_code) != "GROUP_ID_NOT_FOUND":  # it has just gone
                check(found.error_code, f"group {name}")
            return Answers({name: tuple(GroupMember(m.member_id, m.client_id, m.client_host) for m in found.members)})

        return (await self._at_coordinators([name], describe)).all()[name]

    async def list_group_offsets(
        self, groups: Mapping[str, Sequence[TopicPartition] | None], *, require_stable: bool = False
    ) -> dict[str, dict[TopicPartition, int]]:
        """Committed offsets of each group, of the named partitions (of all with any for None).

        Partitions without a committed offset are left out. ``require_stable`` fails, retriably, while a transaction's
        commit of an offset is pending (KIP-447).
        """
        return (await self.each_group_offsets(groups, require_stable=require_stable)).all()

    async def each_group_offsets(
        self, groups: Mapping[str, Sequence[TopicPartition] | None], *, require_stable: bool = False
    ) -> Answers[str, dict[TopicPartition, int]]:
        """As `list_group_offsets`, each group with its own error."""

        async def fetch(coordinator: int, names: Sequence[str]) -> Answers[str, dict[TopicPartition, int]]:
            batched = await self.version_of(OffsetFetchRequest) >= 8  # KIP-709
            answers: Answers[str, dict[TopicPartition, int]] = Answers()
            for chunk in [names] if batched else [[name] for name in names]:
                wanted = {name: groups[name] for name in chunk}
                request = _offset_fetch(wanted, require_stable, batched=batched)
                response = await self.read(request, "committed offsets", node=coordinator)
                for name, group in [(g.group_id, g) for g in response.groups] if batched else [(chunk[0], response)]:
                    try:
                        answers.found[name] = _offsets(group, name)
                    except KafkaError as error:
                        answers.errors[name] = error
            return answers

        return await self._at_coordinators(list(groups), fetch)

    async def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets for a group that has no members.

        Raises:
            KafkaRefusedError: the group has members (code ``UNKNOWN_MEMBER_ID``), or we may not commit for it.
        """
        topic = OffsetCommitRequest.OffsetCommitRequestTopic
        by_topic: dict[str, list[Any]] = defaultdict(list)
        for (name, partition), offset in offsets.items():
            by_topic[name].append(
                topic.OffsetCommitRequestPartition(
                    partition_index=partition, committed_offset=offset, committed_metadata=""
                )
            )

        async def commit(coordinator: int, names: Sequence[str]) -> Answers[str, None]:
            request = OffsetCommitRequest(
                group_id=group,
                generation_id_or_member_epoch=-1,
                member_id="",
                topics=[topic(name=name, partitions=partitions) for name, partitions in by_topic.items()],
                max_version=OFFSETS_BY_NAME,
            )
            response = await self.write(request, f"offsets of group {group}", node=coordinator)
            for answered in response.topics:
                for partition in answered.partitions:
                    what = f"offset of group {group} in {answered.name}-{partition.partition_index}"
                    check(partition.error_code, what)
            return Answers({group: None})

        (await self._at_coordinators([group], commit)).all()

    async def delete_groups(self, groups: Sequence[str]) -> Results:
        """Delete groups and their offsets; one that is gone already is a success, one with members a refusal."""

        async def delete(coordinator: int, names: Sequence[str]) -> Answers[str, None]:
            response = await self.write(
                DeleteGroupsRequest(groups_names=list(names)), "delete groups", node=coordinator
            )
            answers: Answers[str, None] = Answers()
            for result in response.results:
                if result.error_code and code_name(result.error_code) != "GROUP_ID_NOT_FOUND":
                    answers.errors[result.group_id] = from_code(result.error_code, f"group {result.group_id}")
                else:
                    answers.found[result.group_id] = None
            return answers

        answers = await self._at_coordinators(groups, delete)
        return {**answers.found, **answers.errors}

    async def _at_coordinators(
        self, groups: Sequence[str], call: Callable[[int, Sequence[str]], Awaitable[Answers[str, T]]]
    ) -> Answers[str, T]:
        """Call each coordinator with its groups, side by side; once more for those whose coordinator may have moved."""
        answers = await self._ask_coordinators(groups, call)
        again = [group for group, error in answers.errors.items() if isinstance(error, KafkaUnreachableError)]
        if again:
            self.forget_coordinators(again)
            for group in again:
                del answers.errors[group]
            answers.add(await self._ask_coordinators(again, call))
        return answers

    async def _ask_coordinators(
        self, groups: Sequence[str], call: Callable[[int, Sequence[str]], Awaitable[Answers[str, T]]]
    ) -> Answers[str, T]:
        coordinators = await self.each_coordinator(groups)
        answers: Answers[str, T] = Answers(errors=dict(coordinators.errors))
        by_coordinator: dict[int, list[str]] = defaultdict(list)
        for group, coordinator in coordinators.found.items():
            by_coordinator[coordinator].append(group)

        async def ask(coordinator: int, names: Sequence[str]) -> Answers[str, T]:
            try:
                return await call(coordinator, names)
            except KafkaError as error:
                return Answers(errors=dict.fromkeys(names, error))

        for answered in await asyncio.gather(*(ask(node, names) for node, names in by_coordinator.items())):
            answers.add(answered)
        return answers


def _offset_fetch(
    wanted: Mapping[str, Sequence[TopicPartition] | None], require_stable: bool, *, batched: bool
) -> OffsetFetchRequest:
    def topics_of(partitions: Sequence[TopicPartition] | None, topic: Any) -> list[Any] | None:
        if partitions is None:
            return None
        by_topic: dict[str, list[int]] = defaultdict(list)
        for name, partition in partitions:
            by_topic[name].append(partition)
        return [topic(name=name, partition_indexes=indexes) for name, indexes in by_topic.items()]

    if batched:
        group = OffsetFetchRequest.OffsetFetchRequestGroup
        return OffsetFetchRequest(
            groups=[
                group(group_id=name, topics=topics_of(partitions, group.OffsetFetchRequestTopics))
                for name, partitions in wanted.items()
            ],
            require_stable=require_stable,
            min_version=8,
            max_version=OFFSETS_BY_NAME,
        )
    ((name, partitions),) = wanted.items()
    return OffsetFetchRequest(
        group_id=name,
        topics=topics_of(partitions, OffsetFetchRequest.OffsetFetchRequestTopic),
        require_stable=require_stable,
        min_version=7 if require_stable else 2,
        max_version=7,
    )


def _offsets(group: Any, name: str) -> dict[TopicPartition, int]:
    if group.error_code and code_name(group.error_code) == "GROUP_ID_NOT_FOUND":
        return {}
    check(group.error_code, f"committed offsets of group {name}")
    found: dict[TopicPartition, int] = {}
    for topic in group.topics:
        for partition in topic.partitions:
            if partition.error_code and code_name(partition.error_code) == "UNKNOWN_TOPIC_OR_PARTITION":
                continue
            check(partition.error_code, f"committed offset of group {name} in {topic.name}")
            if partition.committed_offset != NO_OFFSET:
                found[TopicPartition(topic.name, partition.partition_index)] = partition.committed_offset
    return found
