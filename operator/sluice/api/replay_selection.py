"""What of a range a ReplayJob takes, and what it changes in the records that it takes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from sluice.api.base import Model, cel, rules

JOB_HEADER: Final = "sluice-replay-job"
SOURCE_HEADER: Final = "sluice-replay-source"
COUNT_HEADER: Final = "sluice-replay-count"

HeaderName = Annotated[str, Field(min_length=1, max_length=249)]
Exact = Annotated[list[Annotated[str, Field(max_length=1024)]], Field(min_length=1, max_length=1000)]
Prefixes = Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(min_length=1, max_length=100)]
Regex = Annotated[str, Field(min_length=1, max_length=512)]
"""In RE2's syntax, which takes time in proportion to the text, whatever the expression."""


class HashRange(Model):
    """A share of all keys: the same keys each time, whatever the number of partitions."""

    model_config = rules(cel("self.from < self.to", "the range is empty: hashRange.from has to be below hashRange.to"))

    from_: int = Field(alias="from", default=0, ge=0, le=99, description="Per cent of all hashes (inclusive).")
    to: int = Field(ge=1, le=100, description="Per cent of all hashes (exclusive).")


class KeySelection(Model):
    """Which keys are taken. A record without a key isn't, whatever is said here."""

    model_config = rules(
        cel(
            "[has(self.exact), has(self.prefix), has(self.regex), has(self.hashRange)].filter(x, x).size() == 1",
            "select.key says exactly one of exact, prefix, regex and hashRange",
        )
    )

    exact: Exact | None = Field(default=None, description="Keys, as UTF-8.")
    prefix: Prefixes | None = Field(default=None, description="How keys begin, as UTF-8; one of them is enough.")
    regex: Regex | None = Field(
        default=None,
        description="An expression (RE2) that is found in the key, read as UTF-8; `^` and `$` bind it to its ends.",
    )
    hash_range: HashRange | None = Field(
        default=None,
        description="A share of all keys by murmur2, the hash of Kafka's default partitioner: `to: 10` is a tenth of them, from all partitions.",
    )


class HeaderSelection(Model):
    """A header that a record must have, or must not. Where a name comes more than once, one of them is enough."""

    model_config = rules(
        cel(
            "[has(self.exact), has(self.prefix), has(self.regex), self.absent].filter(x, x).size() <= 1",
            "a header says at most one of exact, prefix, regex and absent",
        )
    )

    name: HeaderName = Field(description="Name of the header.")
    exact: Exact | None = Field(default=None, description="Values, as UTF-8.")
    prefix: Prefixes | None = Field(default=None, description="How the value begins, as UTF-8; one of them is enough.")
    regex: Regex | None = Field(default=None, description="An expression (RE2) that is found in the value.")
    absent: bool = Field(default=False, description="Records that have no such header.")


class Selection(Model):
    """Which records of the range are taken: those that all of it holds for."""

    model_config = rules(
        cel(
            "has(self.key) || (has(self.headers) && self.headers.size() > 0)",
            "select says nothing: give it a key or headers, or leave it out",
        )
    )

    key: KeySelection | None = Field(default=None, description="By the record's key.")
    headers: list[HeaderSelection] = Field(
        default_factory=list, max_length=20, description="By the record's headers; all of these must hold."
    )


class HeaderChanges(Model):
    """What is changed in the headers of records that are taken. Their order stays."""

    model_config = rules(
        cel(
            "(has(self.drop) && self.drop.size() > 0) || (has(self.rename) && self.rename.size() > 0)",
            "headers says nothing: give it drop or rename, or leave it out",
        ),
        cel(
            "!has(self.drop) || !has(self.rename) || !self.drop.exists(name, name in self.rename)",
            "a header can't be both dropped and renamed",
        ),
        cel(
            "!has(self.rename) || !('' in self.rename) && self.rename.all(name, !self.rename[name].startsWith('sluice-replay-'))",
            "headers.rename needs names on both sides, and gives none that starts with sluice-replay-, which replays set themselves",
        ),
    )

    drop: list[HeaderName] = Field(default_factory=list, max_length=50, description="Names of headers to leave out.")
    rename: dict[str, HeaderName] = Field(
        default_factory=dict, max_length=50, description="New names by present names."
    )


class Provenance(StrEnum):
    """What a copied record says of where it comes from."""

    NONE = "None"
    HEADERS = "Headers"
