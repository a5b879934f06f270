"""A kind of result is declared whole, and one declaration is all that a report needs of it."""

import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest

from parity.claims import claim
from parity.errors import InputError
from parity.measurements import Findings
from parity.results import Result
from parity_tests.reports import recorded
from reports.checks import equal
from reports.document import Chapter, Section, Text
from reports.kind import Kind, Special, registry
from reports.kinds import KINDS, kind_of
from reports.loading import load, of_result
from reports.render import write_report
from reports.verification.verify import verify
from reports.words import table


def draw(one, claims):
    """The chapter of a tasting: its verdict, its claims, and a note."""
    note = Text(one.result.note)
    sections = (Section("Claims", (table(claims),)), Section("Note", (note,)))
    return Chapter(one.title, one.result.verdict, "good", "It tastes alike.", sections)


@dataclass(frozen=True, kw_only=True)
class Tasting(Result):
    """Two soups tasted."""

    schema: ClassVar[str] = "tasting/1"

    dish: str
    note: str


PARTS = {
    "result": Tasting,
    "name": "tasting",
    "title": "Tasting",
    "detail": lambda result: f" of {result.dish}",
    "subject": lambda result: {"dish": result.dish},
    "rungs": {"salt": "precision", "": "activations"},
    "chapter": draw,
    "recheck": equal,
    "given": {"dish": "the dish", "note": "what was tasted"},
    "derived": None,
    "records_claims": True,
    "changes": None,
    "special": Special(),
}
TASTING = Kind(**PARTS)
TOGETHER = registry(*KINDS.values(), TASTING)


def tasting():
    measured = Findings(3, [])
    return {
        "schema": "tasting/1",
        "dish": "soup",
        "verdict": "equal",
        "note": "Both are warm.",
        "claims": [
            claim("salt_spoons", "Both are as salty", measured, "three spoons", "taste").to_json()
        ],
    }


def test_every_part_of_a_kind_is_tried_here():
    assert set(PARTS) == {part.name for part in fields(Kind)}


@pytest.mark.parametrize("part", PARTS)
def test_a_forgotten_part_is_an_error(part):
    with pytest.raises(TypeError, match=part):
        Kind(**{name: value for name, value in PARTS.items() if name != part})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("result", Result),
        ("result", "tasting/1"),
        ("name", None),
        ("title", ""),
        ("detail", "soup"),
        ("subject", None),
        ("rungs", {"": "cellar"}),
        ("rungs", {"salt": "precision"}),
        ("rungs", {"": "activations", "salt": "precision"}),
        ("rungs", None),
        ("chapter", None),
        ("recheck", True),
        ("given", None),
        ("given", {"": "words"}),
        ("derived", ()),
        ("records_claims", None),
        ("changes", {}),
        ("special", None),
    ],
)
def test_a_part_that_cannot_be_right_is_an_error(part, value):
    with pytest.raises(ValueError, match=f"{part} is"):
        replace(TASTING, **{part: value})


@pytest.mark.parametrize(("part", "told"), [("result", "schema"), ("name", "name")])
def test_two_kinds_are_told_apart_by_schema_and_by_name(part, told):
    first = next(iter(KINDS.values()))
    with pytest.raises(ValueError, match=f"the {told} '{getattr(first, told)}'"):
        registry(*KINDS.values(), replace(TASTING, **{part: getattr(first, part)}))


@pytest.mark.parametrize("schema", ["other/9", None, ["tasting/1"]])
def test_an_unknown_schema_is_refused_with_its_source(schema):
    with pytest.raises(InputError, match=r"file\.json has the schema .*, which no report knows"):
        kind_of(schema, "file.json")


def test_a_claim_stands_on_the_first_rung_that_fits_or_on_the_one_it_names():
    assert TASTING.rung_of("salt_spoons") == "precision"
    assert TASTING.rung_of("pepper") == "activations"
    assert TASTING.rung_of("weights/salt") == "weights"
    assert TASTING.rung_of("soup/salt") == "activations"
    assert replace(TASTING, special=Special(members=True)).rung_of("soup/salt") == "precision"


def test_a_new_kind_is_reported_and_verified_by_its_declaration_alone(tmp_path):
    results = [of_result(tasting(), TOGETHER), of_result(recorded.audit(), TOGETHER)]
    write_report(results, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["chapters"][0]["title"] == "Tasting of soup"
    (first,) = (one for one in report["claims"] if one["id"] == "salt_spoons")
    assert (first["rung"], first["file"]) == ("precision", "evidence/01-tasting.json")
    assert "Both are warm." in (tmp_path / "report.html").read_text()
    assert verify(tmp_path, kinds=TOGETHER).problems == ()
    assert [one.kind.name for one in load([tmp_path / "evidence"], TOGETHER)] == [
        "audit",
        "tasting",
    ]


def test_a_new_kind_that_contradicts_its_claims_is_found(tmp_path):
    write_report([of_result(tasting() | {"verdict": "different"}, TOGETHER)], tmp_path)
    (problem,) = verify(tmp_path, kinds=TOGETHER).problems
    assert (problem.place, problem.expected) == ("verdict", "'equal'")


def test_a_kind_that_is_not_registered_is_unknown():
    with pytest.raises(InputError, match="tasting/1"):
        of_result(tasting())
