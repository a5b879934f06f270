"""Verdicts and claims as people read them, with the margin to each limit."""

from collections.abc import Sequence
from typing import Any

from parity.claims import Claim
from parity.measurements import Findings
from reports.document import Cell, Chapter, Column, Section, Table, Text, describe, number
from reports.document import Claim as Shown
from reports.evidence import Evidence

SPOKEN = {
    "does not hold": "fails",
    "agree": "equal",
    "equivalent": "equal",
    **dict.fromkeys(
        ("not shown", "not judged", "trained", "recorded", "evaluated", ""), "not decided"
    ),
}
"""Recorded verdicts in the words of a page: a claim holds or fails, a pair is equal or different,
and what cannot tell is not decided."""

SHOWN = 5
"""Findings of a claim that are named."""

TONES = {"equal": "good", "holds": "good", "different": "bad", "fails": "bad"}


def spoken(verdict: str) -> str:
    """A recorded verdict in the words of a page."""
    return SPOKEN.get(verdict, verdict)


def tone(verdict: str) -> str:
    """How a verdict is coloured: "good", "bad", or "open" for all that was not decided."""
    return TONES.get(spoken(verdict), "open")


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


def _margin(claim: Claim) -> str:
    """A claim's margin; of one that fails for what only one side has, that."""
    lacking = claim.measured.lacking if claim.measured else ()
    if lacking:
        return f"only on one side: {', '.join(lacking)}"
    return margin(claim.value, claim.limit)


def _with_place(claim: Claim) -> str:
    """A claim's title, and where it fails."""
    return f"{claim.title} ({claim.place.text})" if claim.place else claim.title


def _factor(ratio: float) -> str:
    """Two digits are enough for a margin."""
    return number(float(f"{ratio:.2g}"))


def in_words(claim: Claim) -> Shown:
    """A claim as people read it."""
    facts = [("measured", describe(claim.value)), ("limit", describe(claim.limit))]
    if is_number(claim.value) and is_number(claim.limit):
        facts.append(("margin", _margin(claim)))
    facts.append(("cases", describe(claim.cases)))
    if found := reason(claim):
        facts.append(("found", found))
    # Only a claim that fails has these.
    facts += [("where", claim.place.text)] if claim.place else []
    facts += [("likely cause", claim.cause)] if claim.cause else []
    return Shown(
        title=claim.title,
        verdict=spoken(claim.verdict),
        tone=tone(claim.verdict),
        facts=tuple(facts) if claim.verdict != "not run" else (),
        derivation=describe(claim.derivation),
        evidence=claim.evidence_sha256 or "none recorded",
        command=claim.command,
        file=getattr(claim, "file", ""),
    )


def reason(claim: Claim) -> str:
    """What was found and should not be, where a claim does not hold for that; empty else."""
    if not isinstance(claim.measured, Findings) or claim.holds:
        return ""
    return few([*map(describe, claim.measured.found)], SHOWN)


def few(texts: Sequence[str], most: int) -> str:
    """The first texts, and how many more there are."""
    more = len(texts) - most
    return "; ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def table(claims: Sequence[Claim]) -> Table:
    """The claims of one result, a row each; the ladder says more of them."""
    rows = tuple(
        (
            Cell(spoken(claim.verdict), tone=tone(claim.verdict)),
            Cell(_with_place(claim)),
            Cell(describe(claim.value), claim.value if is_number(claim.value) else ""),
            Cell(describe(claim.limit), claim.limit if is_number(claim.limit) else ""),
            Cell(_margin(claim)),
            Cell(describe(claim.cases), claim.cases or 0),
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
    claims: Sequence[Claim],
    headline: str,
    *sections: Section,
    verdict: str | None = None,
    about: str = "",
) -> Chapter:
    """The chapter of one result: its claims, where it has any, then what else it holds.

    Its verdict is `verdict`, or the one that was recorded; `about` explains the claims.
    """
    verdict = one.result.verdict if verdict is None else verdict
    told = (Text(about),) if about else ()
    own = [Section("Claims", (*told, table(claims)))] if claims else []
    return Chapter(one.title, verdict, tone(verdict), headline, (*own, *sections))
