"""User: a principal, its credentials, what it may do, and how much."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from sluice.api.base import ClusterReference, Model, Status, Timestamp, cel, rules, worded


class AuthenticationType(StrEnum):
    """How a client proves who it is."""

    TLS = "TLS"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class ResourceType(StrEnum):
    """Kinds of resources that an ACL can be about."""

    TOPIC = "Topic"
    GROUP = "Group"
    CLUSTER = "Cluster"
    TRANSACTIONAL_ID = "TransactionalId"
    DELEGATION_TOKEN = "DelegationToken"  # noqa: S105 - a kind of resource
    USER = "User"


class PatternType(StrEnum):
    """How an ACL's resource name is compared."""

    LITERAL = "Literal"
    PREFIXED = "Prefixed"


class Operation(StrEnum):
    """Kafka's ACL operations."""

    ALL = "All"
    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    ALTER = "Alter"
    DESCRIBE = "Describe"
    CLUSTER_ACTION = "ClusterAction"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"
    IDEMPOTENT_WRITE = "IdempotentWrite"
    CREATE_TOKENS = "CreateTokens"
    DESCRIBE_TOKENS = "DescribeTokens"
    TWO_PHASE_COMMIT = "TwoPhaseCommit"


class Permission(StrEnum):
    """Whether an ACL allows or denies; a denial wins."""

    ALLOW = "Allow"
    DENY = "Deny"


class Acl(Model):
    """One rule of access."""

    model_config = rules(
        cel(
            "self.resource == 'Cluster' ? !has(self.name) : has(self.name)",
            "name is needed for Topic, Group, TransactionalId, DelegationToken and User, and not allowed for Cluster",
        ),
    )

    resource: ResourceType = Field(description="Kind of the resource.")
    name: str | None = Field(
        default=None, min_length=1, max_length=1000, description="Name or prefix of the resource; `*` means every one."
    )
    pattern: PatternType = Field(default=PatternType.LITERAL, description="How the name is compared.")
    operations: list[Operation] = Field(min_length=1, max_length=14, description="What may be done, or not.")
    permission: Permission = Field(default=Permission.ALLOW, description="Allow or Deny.")
    host: str = Field(
        default="*", min_length=1, max_length=253, description="Client address that the rule is about; `*` is any."
    )


class Quotas(Model):
    """Limits per broker (Kafka applies them on each broker by itself)."""

    producer_byte_rate: int | None = Field(
        default=None, ge=1, description="Bytes a second that the user may produce to a broker."
    )
    consumer_byte_rate: int | None = Field(
        default=None, ge=1, description="Bytes a second that the user may fetch from a broker."
    )
    request_percentage: int | None = Field(
        default=None, ge=1, description="Share of a broker's request threads, in per cent of one thread."
    )


class UserSpec(Model):
    """Who may do what."""

    model_config = rules(
        cel("self.clusterRef == oldSelf.clusterRef", "clusterRef can't be changed: make another User"),
        cel(
            "has(self.userName) == has(oldSelf.userName) && (!has(self.userName) || self.userName == oldSelf.userName)",
            "userName can't be changed: make another User",
        ),
        cel(
            "!has(self.userName) || !self.userName.startsWith('sluice-')",
            "userName can't start with sluice-: Sluice keeps those for itself; choose another name",
        ),
    )

    cluster_ref: ClusterReference = Field(description="The cluster that the user connects to.")
    user_name: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9._-]+$",
        json_schema_extra=worded("userName has a character that isn't allowed: use letters, digits, ., _ and - only"),
        min_length=1,
        max_length=64,
        description="Name of the principal (`User:<name>`), if another than the object's.",
    )
    authentication: AuthenticationType = Field(
        default=AuthenticationType.TLS,
        description="How the user authenticates: a client certificate or a password (SCRAM).",
    )
    acls: list[Acl] = Field(
        default_factory=list,
        max_length=200,
        description="Rules of access. Rules of this principal that are not here are removed.",
    )
    adopt_existing: bool = Field(
        default=False,
        description="Consent to taking over a principal that has passwords (SCRAM), ACLs or quotas in Kafka which"
        " Sluice didn't make: its password is replaced, so that clients with the former one are locked out, and its rules"
        " and quotas become what is said here. Without it such a User is refused (`Conflict`). Sluice's own login can't"
        " be taken over.",
    )
    quotas: Quotas | None = Field(default=None, description="Limits for this user.")
    secret_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Name of the Secret that receives credentials and client configurations; `<name>-kafka` unless said.",
    )


class UserStatus(Status):
    """What exists for the user."""

    user_name: str | None = Field(default=None, description="Name of the principal in Kafka.")
    secret_name: str | None = Field(default=None, description="Secret with credentials and client configurations.")
    certificate_not_after: Timestamp | None = Field(
        default=None, description="When the client certificate ends; it is renewed before."
    )
