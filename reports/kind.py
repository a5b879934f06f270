"""What a report must know of a kind of result: one declaration, of which no part can be forgotten.

A chapter (`reports/chapters/`) ends with its `KIND`; `reports/kinds.py` lists them. A part that a
kind does not have is None, and is written down as that. Evidence (`reports.evidence.Evidence`)
holds its kind, so that its type stands as `Any` here.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.claims import Claim
from parity.results import Result
from reports.changes import Change
from reports.checks import Difference
from reports.document import Cell, Chapter, Plot
from reports.given import CLAIMS, COMMON
from reports.ladder import IDENTITIES


@dataclass(frozen=True)
class Unnamed:
    """How a file is known that names no schema.

    `beginning` matches its first bytes, and `holds` is true of what is in it.
    """

    beginning: re.Pattern[bytes]
    holds: Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a result with scores shows among others of its configuration, in percent.

    rows: of the table of scores (`reports.sections.scores`), of evidence of one configuration.
    plots: of the classes' scores, of the same evidence.
    values: what the models of one result score; empty where their weights are random or they were
        not evaluated, so that a low score says nothing.
    """

    rows: Callable[[str, Sequence[Any]], list[tuple[Cell, ...]]]
    plots: Callable[[Sequence[Any]], list[Plot]]
    values: Callable[[Any], Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Special:
    """What few kinds have; without arguments, none of it: one JSON file that names its schema.

    folder: a result is a folder, which `reports.loading` reads as a training run.
    pictures: its `pictures` names images, which lie beside its file and are kept with it.
    unnamed: how a file of it is known that names no schema.
    members: it claims the same of several, `MEMBER/ID` of each.
    together: (evidence, claim) for what several results show together, all evidence of the kind
        being given; `chapter` is given all evidence of a configuration then, and not one.
    environment: (side, fact, value) of what a result says of a side's surroundings; without it,
        that is read from its `provenance` or its `versions`.
    scored: what it shows of scores.
    of_pairs: a result without a configuration is about any two models.
    left_open: what no result of the kind verifies, and what to do about it.
    """

    folder: bool = False
    pictures: bool = False
    unnamed: Unnamed | None = None
    members: bool = False
    together: Callable[[Sequence[Any]], Iterable[tuple[Any, Claim]]] | None = None
    environment: Callable[[Any], Iterable[tuple[str, str, Any]]] | None = None
    scored: Scored | None = None
    of_pairs: bool = False
    left_open: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """A kind of result, whole: every part is given, or is None where that says something.

    result: its type, which has the name of its format.
    name: what its files are called after.
    title: what it is called on a page.
    detail: what stands behind the title of one result, to tell it from others; None: nothing.
    subject: facts by name, beside the configuration, that tell what a result is about from what
        others are about: two recordings with the same facts can be compared.
    rungs: the rung of the ladder by how a claim's id begins; the first that fits counts, and the
        last one, "", fits all. An id `RUNG/...` names its rung itself.
    chapter: draws one result and its claims.
    recheck: where a result disagrees with its own measurements, beside its claims; None: it has
        nothing but claims.
    given: what follows from nothing else in it and is taken as it was recorded: places
        (`reports.given`) to words for it, beside what every kind has.
    derived: the claims that a report derives from one result; None: it has only recorded ones.
    records_claims: its command records every claim with what was measured.
    changes: what is not as it was in an earlier recording, beside claims and versions, and None
        for each thing that is about as it was; None: it has nothing else to compare.
    special: what few kinds have.

    Raises ValueError for a part that cannot be what it should be.
    """

    result: type[Result]
    name: str
    title: str
    detail: Callable[[Any], str] | None
    subject: Callable[[Any], Mapping[str, Any]]
    rungs: Mapping[str, str]
    chapter: Callable[[Any, Sequence[Claim]], Chapter]
    recheck: Callable[[Any], Iterator[Difference]] | None
    given: Mapping[str, str]
    derived: Callable[[Any], list[Claim]] | None
    records_claims: bool
    changes: Callable[[Any, Any], Iterator[Change | None]] | None
    special: Special

    def __post_init__(self) -> None:
        made = isinstance(self.result, type) and issubclass(self.result, Result)
        self._must("result", made and self.result.schema != "", "a kind of Result")
        for part in ("name", "title"):
            text = getattr(self, part)
            self._must(part, isinstance(text, str) and text != "", "a text")
        for part in ("subject", "chapter"):
            self._must(part, callable(getattr(self, part)), "a function")
        for part in ("detail", "recheck", "derived", "changes"):
            made = getattr(self, part)
            self._must(part, made is None or callable(made), "a function, or None")
        texts = self.given.items() if isinstance(self.given, Mapping) else [("", "")]
        self._must("given", all(place and text for place, text in texts), "words by places")
        self._must("records_claims", isinstance(self.records_claims, bool), "true or false")
        self._must("special", isinstance(self.special, Special), "a Special")
        rungs = self.rungs if isinstance(self.rungs, Mapping) else {}
        whole = [*rungs][-1:] == [""] and set(rungs.values()) <= IDENTITIES
        self._must("rungs", whole, 'known rungs by the start of an id, "" the last')

    def _must(self, part: str, right: bool, words: str) -> None:
        if not right:
            found = getattr(self, part)
            raise ValueError(f"the kind {self.name!r}: {part} is {found!r}, but must be {words}")

    @property
    def schema(self) -> str:
        """The name of its format, in its current version."""
        return self.result.schema

    @property
    def taken(self) -> Mapping[str, str]:
        """All that is taken as it was recorded: places to words for it."""
        return {**COMMON, **CLAIMS, **self.given}

    def rung_of(self, identity: str) -> str:
        """The rung that the claim with this id stands on."""
        first, slash, _ = identity.partition("/")
        if slash and first in IDENTITIES:
            return first
        if self.special.members:
            identity = identity.rpartition("/")[2]
        return next(rung for start, rung in self.rungs.items() if identity.startswith(start))


def registry(*kinds: Kind) -> dict[str, Kind]:
    """The kinds by schema, in order. Raises ValueError for two with one schema or one name."""
    for part in ("schema", "name"):
        parts = [getattr(kind, part) for kind in kinds]
        twice = sorted({one for one in parts if parts.count(one) > 1})
        if twice:
            raise ValueError(f"two kinds of results have the {part} {twice[0]!r}")
    return {kind.schema: kind for kind in kinds}
