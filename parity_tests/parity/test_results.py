"""A recorded result is read back as what was written, and a file that is not whole is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from parity.claims import claim
from parity.errors import InputError
from parity.measurements import Findings
from parity.records import json_text
from parity.results import Result


@dataclass(frozen=True)
class Spice:
    """A part with a part that follows from another, and one that may lack."""

    name: str
    grams: float
    from_far: bool | None = None
    derived: ClassVar[tuple[str, ...]] = ("ounces",)

    @property
    def ounces(self) -> float:
        """The same in another unit."""
        return self.grams / 28


@dataclass(frozen=True, kw_only=True)
class Soup(Result):
    """A kind of result with a part of every sort."""

    schema: ClassVar[str] = "kitchen/soup/3"

    spices: tuple[Spice, ...]
    degrees: Mapping[str, tuple[float, int]]
    cook: Spice | str | None = None
    notes: Any = None


SALT = claim("salt", "It is salted", Findings(2, []), "tasted", "taste")
SOUP = Soup(
    verdict="equal",
    claims=(SALT,),
    spices=(Spice("salt", 2.5, True), Spice("ash", float("nan"))),
    degrees={"pot": (float("inf"), 3)},
    cook=Spice("cook", 70.0),
)


def written(result: Result) -> dict[str, Any]:
    return json.loads(json_text(result.to_json()))


def test_a_result_survives_strict_json():
    content = written(SOUP)
    assert not {"notes", "title"} & set(content)
    assert content["spices"][0]["ounces"] == 2.5 / 28
    again = Soup.from_json(content)
    assert written(again) == content
    assert again.degrees == SOUP.degrees
    assert again.claims == SOUP.claims
    assert again.cook == SOUP.cook
    assert Soup.from_json(written(replace(SOUP, cook="nobody"))).cook == "nobody"


@pytest.mark.parametrize("schema", ["kitchen/soup/1", "kitchen/soup/3"])
def test_earlier_versions_are_read(schema):
    assert Soup.from_json(written(SOUP) | {"schema": schema}).verdict == "equal"


@pytest.mark.parametrize("schema", ["kitchen/soup/4", "kitchen/soup/0", "kitchen/stew/3", None, 3])
def test_another_format_is_refused(schema):
    with pytest.raises(InputError, match=r"^pot\.json is no soup\n  its schema is "):
        Soup.from_json(written(SOUP) | {"schema": schema}, "pot.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda soup: soup.pop("spices"), "it lacks spices"),
        (lambda soup: soup.pop("verdict"), "it lacks verdict"),
        (lambda soup: soup.update(pepper=1), "it has an unknown pepper"),
        (lambda soup: soup["spices"][1].pop("grams"), r"spices\[1\] lacks grams"),
        (lambda soup: soup["spices"][0].update(name=3), r"spices\[0\].name is 3, .* a str"),
        (lambda soup: soup["spices"][0].update(grams="much"), r"spices\[0\].grams is 'much'"),
        (lambda soup: soup["spices"][0].update(grams=True), r"spices\[0\].grams is True"),
        (lambda soup: soup.update(spices={}), "spices is {}, but should be a list"),
        (lambda soup: soup.update(degrees=[]), "degrees is .*, but should be an object"),
        (lambda soup: soup.update(degrees={"pot": [1.0]}), "degrees.pot is .* a list of 2"),
        (lambda soup: soup.update(cook=4), "cook is 4, but should be a str"),
        (lambda soup: soup["claims"][0].pop("title"), r"claims\[0\]: KeyError: 'title'"),
        (lambda soup: soup.update(claims=[3]), r"claims\[0\] is 3, but should be an object"),
    ],
)
def test_a_part_that_is_not_as_it_should_be_is_named_with_its_file(change, told):
    content = written(SOUP)
    change(content)
    with pytest.raises(InputError, match=rf"(?s)^pot\.json is not a complete .*\n  {told}"):
        Soup.from_json(content, "pot.json")


def test_the_claims_that_fail_are_told():
    failing = claim("pepper", "It is peppered", Findings(2, ["none"]), "tasted", "taste")
    assert replace(SOUP, claims=(SALT, failing)).failing == (failing,)
    assert SOUP.claimed("salt") == SALT
