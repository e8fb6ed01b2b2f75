"""ACLs, SCRAM credentials and quotas of principals."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka.protocol.admin import (
    AlterUserScramCredentialsRequest,
    CreateAclsRequest,
    DeleteAclsRequest,
    DescribeAclsRequest,
    DescribeUserScramCredentialsRequest,
)
from kafka.protocol.admin.client_quotas import AlterClientQuotasRequest, DescribeClientQuotasRequest

from sluice.kafka.errors import check, code_name
from sluice.kafka.requests import Channel, chunks
from sluice.plan.observed import AclBinding

ANY: Final = 1
"""``ANY`` in each enumeration of an ACL filter."""
RESOURCES: Final = {"Topic": 2, "Group": 3, "Cluster": 4, "TransactionalId": 5, "DelegationToken": 6, "User": 7}
CLUSTER_NAME: Final = "kafka-cluster"
PATTERNS: Final = {"Literal": 3, "Prefixed": 4}
OPERATIONS: Final = {
    "All": 2,
    "Read": 3,
    "Write": 4,
    "Create": 5,
    "Delete": 6,
    "Alter": 7,
    "Describe": 8,
    "ClusterAction": 9,
    "DescribeConfigs": 10,
    "AlterConfigs": 11,
    "IdempotentWrite": 12,
    "CreateTokens": 13,
    "DescribeTokens": 14,
    "TwoPhaseCommit": 15,
}
PERMISSIONS: Final = {"Deny": 2, "Allow": 3}

SCRAM_MECHANISMS: Final = {"SCRAM-SHA-256": 1, "SCRAM-SHA-512": 2}
SCRAM_ITERATIONS: Final = 8192
MATCH_EXACT: Final = 0
MATCH_ANY_NAMED: Final = 2


class SecurityAdmin(Channel):
    """What principals may do, how they authenticate by password, and how much they may use."""

    async def describe_acls(self, principal: str | None = None) -> set[AclBinding]:
        """ACLs of a principal (``User:alice``), or all; kinds that have no word here yet go by Kafka's numbers.

        Raises:
            KafkaRefusedError: code ``SECURITY_DISABLED``: the cluster has no authorizer.
        """
        request = DescribeAclsRequest(
            resource_type_filter=ANY,
            resource_name_filter=None,
            pattern_type_filter=ANY,
            principal_filter=principal,
            host_filter=None,
            operation=ANY,
            permission_type=ANY,
        )
        response = await self.read(request, "ACLs")
        check(response.error_code, "ACLs", response.error_message)
        return {_binding(resource, acl) for resource in response.resources for acl in resource.acls}

    async def create_acls(self, bindings: Sequence[AclBinding]) -> None:
        """Make ACLs; those that exist already are no error."""
        creation = CreateAclsRequest.AclCreation
        for chunk in chunks(bindings):
            request = CreateAclsRequest(
                creations=[
                    creation(
                        resource_type=_number(RESOURCES, acl.resource),
                        resource_name=acl.name,
                        resource_pattern_type=_number(PATTERNS, acl.pattern),
                        principal=acl.principal,
                        host=acl.host,
                        operation=_number(OPERATIONS, acl.operation),
                        permission_type=_number(PERMISSIONS, acl.permission),
                    )
                    for acl in chunk
                ]
            )
            response = await self.write(request, "create ACLs")
            for acl, result in zip(chunk, response.results, strict=True):
                check(result.error_code, f"ACL {describe_acl(acl)}", result.error_message)

    async def delete_acls(self, bindings: Sequence[AclBinding]) -> None:
        """Delete exactly these ACLs; those that are gone already are no error."""
        await self._delete_acls(
            [
                DeleteAclsRequest.DeleteAclsFilter(
                    resource_type_filter=_number(RESOURCES, acl.resource),
                    resource_name_filter=acl.name,
                    pattern_type_filter=_number(PATTERNS, acl.pattern),
                    principal_filter=acl.principal,
                    host_filter=acl.host,
                    operation=_number(OPERATIONS, acl.operation),
                    permission_type=_number(PERMISSIONS, acl.permission),
                )
                for acl in bindings
            ]
        )

    async def delete_acls_of(self, principal: str) -> None:
        """Delete every ACL of a principal (``User:alice``)."""
        await self._delete_acls(
            [
                DeleteAclsRequest.DeleteAclsFilter(
                    resource_type_filter=ANY,
                    resource_name_filter=None,
                    pattern_type_filter=ANY,
                    principal_filter=principal,
                    host_filter=None,
                    operation=ANY,
                    permission_type=ANY,
                )
            ]
        )

    async def _delete_acls(self, filters: Sequence[Any]) -> None:
        for chunk in chunks(filters):
            response = await self.write(DeleteAclsRequest(filters=list(chunk)), "delete ACLs")
            for result in response.filter_results:
                check(result.error_code, "delete ACLs", result.error_message)
                for acl in result.matching_acls:
                    check(acl.error_code, "delete ACLs", acl.error_message)

    async def describe_scram(self, users: Sequence[str]) -> dict[str, frozenset[str]]:
        """Mechanisms for which each user has a password; users without any are left out."""
        if not users:
            return {}
        name = DescribeUserScramCredentialsRequest.UserName
        request = DescribeUserScramCredentialsRequest(users=[name(name=user) for user in users])
        response = await self.read(request, "SCRAM credentials")
        check(response.error_code, "SCRAM credentials", response.error_message)
        mechanisms = {number: mechanism for mechanism, number in SCRAM_MECHANISMS.items()}
        found: dict[str, frozenset[str]] = {}
        for result in response.results:
            if result.error_code:
                if code_name(result.error_code) == "RESOURCE_NOT_FOUND":
                    continue
                check(result.error_code, f"SCRAM credentials of {result.user}", result.error_message)
            found[result.user] = frozenset(
                mechanisms[info.mechanism] for info in result.credential_infos if info.mechanism in mechanisms
            )
        return found

    async def upsert_scram(self, user: str, password: str, mechanism: str = "SCRAM-SHA-512") -> None:
        """Set a user's password. Only the salted hash (RFC 5802) leaves this process."""
        salt = os.urandom(24)
        digest = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}[mechanism]
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, SCRAM_ITERATIONS)
        upsertion = AlterUserScramCredentialsRequest.ScramCredentialUpsertion(
            name=user,
            mechanism=SCRAM_MECHANISMS[mechanism],
            iterations=SCRAM_ITERATIONS,
            salt=salt,
            salted_password=salted,
        )
        await self._alter_scram(AlterUserScramCredentialsRequest(deletions=[], upsertions=[upsertion]))

    async def delete_scram(self, user: str, mechanisms: Sequence[str]) -> None:
        """Delete a user's passwords; one that is gone already is no error."""
        deletion = AlterUserScramCredentialsRequest.ScramCredentialDeletion
        for mechanism in mechanisms:  # a request may name a user only once
            deletions = [deletion(name=user, mechanism=SCRAM_MECHANISMS[mechanism])]
            await self._alter_scram(AlterUserScramCredentialsRequest(deletions=deletions, upsertions=[]))

    async def _alter_scram(self, request: AlterUserScramCredentialsRequest) -> None:
        response = await self.write(request, "SCRAM credentials")
        for result in response.results:
            if result.error_code and code_name(result.error_code) == "RESOURCE_NOT_FOUND":
                continue
            check(result.error_code, f"SCRAM credentials of {result.user}", result.error_message)

    async def describe_user_quotas(self, users: Sequence[str]) -> dict[str, dict[str, float]]:
        """Quotas of users whatever the client id, such as ``producer_byte_rate``; users without any are left out."""
        component = DescribeClientQuotasRequest.ComponentData
        one = len(users) == 1
        request = DescribeClientQuotasRequest(
            components=[
                component(
                    entity_type="user",
                    match_type=MATCH_EXACT if one else MATCH_ANY_NAMED,
                    match=users[0] if one else None,
                )
            ],
            strict=True,
        )
        response = await self.read(request, "quotas")
        check(response.error_code, "quotas", response.error_message)
        found = {
            entry.entity[0].entity_name: {value.key: value.value for value in entry.values}
            for entry in response.entries or ()
        }
        return {user: found[user] for user in users if user in found}

    async def alter_user_quotas(self, user: str, changes: Mapping[str, float | None]) -> None:
        """Set quotas of a user, or remove them (None)."""
        entry = AlterClientQuotasRequest.EntryData
        request = AlterClientQuotasRequest(
            entries=[
                entry(
                    entity=[entry.EntityData(entity_type="user", entity_name=user)],
                    ops=[
                        entry.OpData(key=key, value=float(value or 0), remove=value is None)
                        for key, value in changes.items()
                    ],
                )
            ],
            validate_only=False,
        )
        response = await self.write(request, "quotas")
        for result in response.entries:
            check(result.error_code, f"quotas of {user}", result.error_message)


def describe_acl(acl: AclBinding) -> str:
    """An ACL in words."""
    return f"{acl.permission} {acl.operation} on {acl.resource} {acl.name} ({acl.pattern}) for {acl.principal}"


def _binding(resource: Any, acl: Any) -> AclBinding:
    return AclBinding(
        _word(RESOURCES, resource.resource_type),
        resource.resource_name,
        _word(PATTERNS, resource.pattern_type),
        acl.principal,
        acl.host,
        _word(OPERATIONS, acl.operation),
        _word(PERMISSIONS, acl.permission_type),
    )


def _word(words: Mapping[str, int], number: int) -> str:
    return next((word for word, value in words.items() if value == number), str(number))


def _number(words: Mapping[str, int], word: str) -> int:
    return words[word] if word in words else int(word)
