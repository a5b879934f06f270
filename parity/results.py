"""Results as types: what a command measured and claims, to JSON and back without a lost part."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, ClassVar

from parity.claims import Claim
from parity.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one command recorded: its verdict, its claims, and what they were made of.

    A kind of result is a subclass with its `schema`. A field with a default is left out of the JSON
    where it has that default.
    """

    schema: ClassVar[str]
    verdict: str
    claims: tuple[Claim, ...]
    command: str
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that begins with the schema; numbers may still be infinite or NaN."""
        return {"schema": self.schema, **json_of(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Result":
        """The inverse of `to_json`. Raises InputError for another schema, or a part that lacks."""
        if content.get("schema") != cls.schema:
            raise InputError(
                f"a result has the schema {content.get('schema')!r}",
                f"expected {cls.schema!r}",
                "read it as the kind of result that it is",
            )
        return of_json(cls, {name: one for name, one in content.items() if name != "schema"})


def json_of(value: Any) -> Any:
    """`value` as JSON; dataclasses become objects of their fields, or what their `to_json` says."""
    if isinstance(value, Mapping):
        return {str(name): json_of(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(one) for one in value]
    if not is_dataclass(value):
        return value
    if not isinstance(value, Result) and hasattr(value, "to_json"):
        return value.to_json()
    return {
        one.name: json_of(getattr(value, one.name))
        for one in fields(value)
        if _required(one) or getattr(value, one.name) != _default(one)
    }


def of_json(kind: type, content: Mapping[str, Any]) -> Any:
    """The dataclass `kind` from a JSON object.

    Raises InputError where a field without a default lacks, or there is one that `kind` has not.
    """
    own = {one.name: one for one in fields(kind)}
    missing = [name for name, one in own.items() if _required(one) and name not in content]
    unknown = [name for name in content if name not in own]
    if missing or unknown:
        raise InputError(
            f"a {kind.__name__} is not complete" if missing else f"a {kind.__name__} has more",
            f"without {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}",
            "record it again with this version",
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: _revived(hints[name], value) for name, value in content.items()})


def _revived(hint: Any, value: Any) -> Any:
    """A JSON value as the type that a field is declared with."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        (rest,) = (one for one in arguments if one is not type(None))
        return _revived(rest, value)
    if origin is tuple and arguments:
        return tuple(_revived(arguments[0], one) for one in value)
    if origin is not None and issubclass(origin, Mapping) and len(arguments) == 2:
        return {name: _revived(arguments[1], one) for name, one in value.items()}
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return hint.from_json(value) if hasattr(hint, "from_json") else of_json(hint, value)
    return value


def _required(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _default(one: Any) -> Any:
    return one.default if one.default is not MISSING else one.default_factory()
