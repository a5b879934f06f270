"""Verdicts and claims as people read them, with the margin to each limit."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.document import Cell, Chapter, Claim, Column, Section, Table, describe, number
from reports.evidence import Evidence

TONES = {
    "equal": "good",
    "holds": "good",
    "agree": "good",
    "different": "bad",
    "fails": "bad",
    "does not hold": "bad",
}


def tone(verdict: str) -> str:
    """How a verdict is coloured: "good", "bad", or "open" for all that was not decided."""
    return TONES.get(verdict, "open")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def margin(value: Any, limit: Any) -> str:
    """How far `value` is from `limit`, where both are numbers and smaller is better."""
    if not (is_number(value) and is_number(limit)):
        return "not a number to compare"
    if value != value:
        return "no margin: the value is not a number"
    if value == 0:
        return "exact: the value is 0"
    if value == limit:
        return "on the limit"
    if value > limit:
        return f"{_factor(value / limit)} times the limit" if limit > 0 else "above the limit"
    return f"{_factor(limit / value)} times below the limit"


def _margin(claim: Mapping[str, Any]) -> str:
    """A claim's margin; of one that fails for what only one side has, that."""
    lacking = (claim.get("measured") or {}).get("lacking")
    if lacking:
        return f"only on one side: {', '.join(lacking)}"
    return margin(claim["value"], claim["limit"])


def _with_place(claim: Mapping[str, Any]) -> str:
    """A claim's title, and where it fails."""
    place = claim.get("place")
    if not place:
        return claim["title"]
    return f"{claim['title']} ({place})"


def _factor(ratio: float) -> str:
    """Two digits are enough for a margin."""
    return number(float(f"{ratio:.2g}"))


def in_words(claim: Mapping[str, Any]) -> Claim:
    """A claim as people read it."""
    facts = [("measured", describe(claim["value"])), ("limit", describe(claim["limit"]))]
    if is_number(claim["value"]) and is_number(claim["limit"]):
        facts.append(("margin", _margin(claim)))
    facts.append(("cases", describe(claim["cases"])))
    # Only a claim that fails has these.
    names = {"place": "where", "cause": "likely cause"}
    facts += [(name, describe(claim[key])) for key, name in names.items() if claim.get(key)]
    return Claim(
        title=claim["title"],
        verdict=claim["verdict"],
        tone=tone(claim["verdict"]),
        facts=tuple(facts) if claim["verdict"] != "not run" else (),
        derivation=describe(claim["derivation"]),
        evidence=claim["evidence_sha256"] or "none recorded",
        command=claim["command"],
        file=claim.get("file", ""),
    )


def table(claims: Sequence[Mapping[str, Any]]) -> Table:
    """The claims of one result, a row each; the ladder says more of them."""
    rows = tuple(
        (
            Cell(claim["verdict"], tone=tone(claim["verdict"])),
            Cell(_with_place(claim)),
            Cell(describe(claim["value"]), claim["value"] if is_number(claim["value"]) else ""),
            Cell(describe(claim["limit"]), claim["limit"] if is_number(claim["limit"]) else ""),
            Cell(_margin(claim)),
            Cell(describe(claim["cases"]), claim["cases"] or 0),
        )
        for claim in claims
    )
    columns = (
        Column("Verdict"),
        Column("Claim", prose=True),
        Column("Measured", numeric=True),
        Column("Limit", numeric=True),
        Column("Margin"),
        Column("Cases", numeric=True),
    )
    return Table("Claims of this result", columns, rows)


def chapter(
    one: Evidence,
    claims: Sequence[Mapping[str, Any]],
    headline: str,
    *sections: Section,
    verdict: str | None = None,
) -> Chapter:
    """The chapter of one result: its claims, where it has any, then what else it holds.

    Its verdict is `verdict`, or the one that was recorded.
    """
    verdict = one.content["verdict"] if verdict is None else verdict
    own = [Section("Claims", (table(claims),))] if claims else []
    return Chapter(one.title, verdict, tone(verdict), headline, (*own, *sections))
