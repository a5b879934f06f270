"""Recorded results as types: what every kind has, how it is written, and how it is read back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from parity.claims import Claim
from parity.errors import InputError
from parity.records import parts, typed

Some = TypeVar("Some", bound="Result")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command recorded; a kind of result adds its own parts.

    A part with a default is left out of the file where it has that, and may lack there. Parts in
    `derived` follow from others: they are written for readers, and not read back. The number at the
    end of `schema` is raised where the format changes; earlier versions are read as well.

    Args:
        title: what a report calls it, where that is not said by its kind.
        verdict: of all of it, in a word.
        claims: what it claims, with what was measured.
        command: the command that measures it again.
        provenance: where its numbers come from (`parity.provenance`), and what they are about.
    """

    schema: ClassVar[str] = ""
    derived: ClassVar[tuple[str, ...]] = ()

    title: str = ""
    verdict: str
    claims: tuple[Claim, ...] = ()
    command: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failing(self) -> tuple[Claim, ...]:
        """The claims that fail."""
        return tuple(one for one in self.claims if one.verdict == "fails")

    def claimed(self, identity: str) -> Claim:
        """The claim with this id; raises KeyError where there is none."""
        return {one.id: one for one in self.claims}[identity]

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is recorded."""
        return {"schema": self.schema, **parts(self)}

    @classmethod
    def from_json(cls: type[Some], content: Any, source: str = "the result") -> Some:
        """The inverse of `to_json`, also for files of earlier versions.

        Raises InputError, which names `source` and the part, where a part lacks, is unknown or is
        not what it should be.
        """
        schema = content.get("schema") if isinstance(content, Mapping) else None
        if not written_as(schema, cls.schema):
            raise InputError(
                f"{source} is no {cls.schema.split('/')[-2]}",
                f"its schema is {schema!r}, not {cls.schema!r}",
                "record the result again with this version, or read it with the one that made it",
            )
        own = {name: value for name, value in content.items() if name != "schema"}
        try:
            return typed(cls, own)
        except ValueError as error:
            raise InputError(
                f"{source} is not a complete {schema}",
                str(error),
                "record it again; a report is never made from a part of a result",
            ) from error


def written_as(schema: Any, current: str) -> bool:
    """Whether `schema` is that format, in its current version or an earlier one."""
    stem, _, version = current.rpartition("/")
    start, _, own = schema.rpartition("/") if isinstance(schema, str) else ("", "", "")
    return start == stem and own.isdecimal() and 1 <= int(own) <= int(version)


@dataclass(frozen=True, kw_only=True)
class SuiteResult(Result):
    """The claims that the tests of a project recorded (`parity.pytest_plugin`)."""

    schema: ClassVar[str] = "maskformer-replication/suite/2"

    claims: tuple[Claim, ...]
