"""Results come back from their JSON, and a part that lacks is named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from parity.claims import Place, claim
from parity.errors import InputError
from parity.measurements import Findings
from parity.results import Result


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str
    gap: float


@dataclass(frozen=True, kw_only=True)
class Small(Result):
    """A result with a table, and a part that not every one has."""

    schema = "test/small/1"
    rows: tuple[Row, ...]
    worst: Mapping[str, Row]
    note: str | None = None


def small(**changes):
    one = claim("found", "Nothing is lost", Findings(3, ["a"]), "counted", "parity small")
    row = Row("a", 0.5)
    parts = {
        "verdict": "different",
        "claims": (one.located(Place.at("a"), "it was left out"),),
        "command": "parity small",
        "provenance": {"python": "3.11"},
        "rows": (row,),
        "worst": {"gap": row},
    }
    return Small(**{**parts, **changes})


@pytest.mark.parametrize("note", [None, "odd"])
def test_a_result_comes_back_from_its_json(note):
    one = small(note=note)
    recorded = json.loads(json.dumps(one.to_json()))
    assert Small.from_json(recorded) == one
    assert next(iter(recorded)) == "schema"
    assert ("note" in recorded) == (note is not None)


@pytest.mark.parametrize("part", ["verdict", "claims", "rows", "worst"])
def test_a_part_that_lacks_is_named(part):
    recorded = {name: one for name, one in small().to_json().items() if name != part}
    with pytest.raises(InputError, match=f"without {part}"):
        Small.from_json(recorded)


def test_an_unknown_part_and_another_schema_are_refused():
    with pytest.raises(InputError, match="unknown: more"):
        Small.from_json({**small().to_json(), "more": 1})
    with pytest.raises(InputError, match="expected 'test/small/1'"):
        Small.from_json({**small().to_json(), "schema": "test/other/1"})
