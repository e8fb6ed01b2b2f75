"""Consumer groups: state and committed offsets, many groups at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from kafka.protocol.admin import DeleteGroupsRequest, DescribeGroupsRequest
from kafka.protocol.consumer import OffsetCommitRequest, OffsetFetchRequest

from sluice.kafka.admin_topics import Results
from sluice.kafka.errors import KafkaError, KafkaUnreachableError, check, code_name, from_code
from sluice.kafka.requests import Channel
from sluice.plan.observed import GroupDescription, TopicPartition

MOVED: Final = frozenset({"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"})
OFFSETS_BY_NAME: Final = 9
"""Highest version of OffsetFetch and OffsetCommit that says topics by name rather than by id."""
NO_OFFSET: Final = -1


class GroupAdmin(Channel):
    """Describes groups, reads and sets their committed offsets, deletes them."""

    async def describe_groups(self, groups: Sequence[str]) -> dict[str, GroupDescription]:
        """State and number of members of each group. A group that doesn't exist is ``Dead`` without members."""
        found: dict[str, GroupDescription] = {}

        async def describe(coordinator: int, names: Sequence[str]) -> None:
            response = await self.read(DescribeGroupsRequest(groups=list(names)), "groups", node=coordinator)
            for group in response.groups:
                missing = group.error_code and code_name(group.error_code) == "GROUP_ID_NOT_FOUND"  # since v6, 4.0
                if not missing:
                    check(group.error_code, f"group {group.group_id}")
                state = "Dead" if missing else group.group_state
                found[group.group_id] = GroupDescription(group.group_id, state, group.protocol_type, len(group.members))

        await self._at_coordinators(groups, describe)
        return found

    async def list_group_offsets(
        self, groups: Mapping[str, Sequence[TopicPartition] | None], *, require_stable: bool = False
    ) -> dict[str, dict[TopicPartition, int]]:
        """Committed offsets of each group, of the named partitions (of all with any for None).

        Partitions without a committed offset are left out. ``require_stable`` fails, retriably, while a transaction's
        commit of an offset is pending (KIP-447).
        """
        found: dict[str, dict[TopicPartition, int]] = {}

        async def fetch(coordinator: int, names: Sequence[str]) -> None:
            if await self.version_of(OffsetFetchRequest) >= 8:  # KIP-709
                requests = [{name: groups[name] for name in names}]
            else:
                requests = [{name: groups[name]} for name in names]
            for wanted in requests:
                request = _offset_fetch(wanted, require_stable, batched=await self.version_of(OffsetFetchRequest) >= 8)
                response = await self.read(request, "committed offsets", node=coordinator)
                if response.API_VERSION >= 8:
                    for group in response.groups:
                        found[group.group_id] = _offsets(group, group.group_id)
                else:
                    (name,) = wanted
                    found[name] = _offsets(response, name)

        await self._at_coordinators(list(groups), fetch)
        return found

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

        async def commit(coordinator: int, names: Sequence[str]) -> None:
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

        await self._at_coordinators([group], commit)

    async def delete_groups(self, groups: Sequence[str]) -> Results:
        """Delete groups and their offsets; one that is gone already is a success, one with members a refusal."""
        results: Results = {}

        async def delete(coordinator: int, names: Sequence[str]) -> None:
            response = await self.write(
                DeleteGroupsRequest(groups_names=list(names)), "delete groups", node=coordinator
            )
            for result in response.results:
                gone = result.error_code and code_name(result.error_code) == "GROUP_ID_NOT_FOUND"
                failed = result.error_code and not gone
                if failed and code_name(result.error_code) in MOVED:
                    raise from_code(result.error_code, f"group {result.group_id}")
                results[result.group_id] = from_code(result.error_code, f"group {result.group_id}") if failed else None

        await self._at_coordinators(groups, delete)
        return results

    async def _at_coordinators(
        self, groups: Sequence[str], call: Callable[[int, Sequence[str]], Awaitable[None]]
    ) -> None:
        """Call each coordinator with its groups, side by side; once more if a coordinator has moved."""
        for last in (False, True):
            by_coordinator: dict[int, list[str]] = defaultdict(list)
            for group, coordinator in (await self.coordinators(groups)).items():
                by_coordinator[coordinator].append(group)
            results = await asyncio.gather(
                *(call(coordinator, names) for coordinator, names in by_coordinator.items()), return_exceptions=True
            )
            problems = [result for result in results if isinstance(result, BaseException)]
            if not problems:
                return
            moved = all(isinstance(problem, KafkaUnreachableError) for problem in problems)
            self.forget_coordinators(groups)
            if last or not moved:
                raise next((problem for problem in problems if not isinstance(problem, KafkaError)), problems[0])


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
