"""What stands at the top of a report: the verdict, the ladder over all results, what is open."""

from collections.abc import Iterable, Sequence

from reports import words
from reports.derived import Stated
from reports.document import (
    Block,
    Cell,
    Column,
    Items,
    Section,
    Step,
    Steps,
    Summary,
    Table,
    Text,
    number,
)
from reports.evidence import Evidence
from reports.ladder import BESIDE, RUNGS, Rung, verdict_of
from reports.sections import environment, errata, scores
from reports.story import story_of

ON_THE_LADDER = {
    "losses, matching, gradients and weight updates",
    "training runs and the PQ or mIoU they reach",
}
"""What an audit names as not verified, and rungs of the ladder say better."""

LADDER = (
    "From the ground up: weights first, trained models last. Open a rung for its claims: what was "
    "measured, the limit and where it comes from, and the command that measures it again, in which "
    "DIR is a folder of yours."
)

WEAK = 5.0
"""Percent, below which a score shows little."""

PLACES = 3
"""How many places of claims that fail the answer names."""

EXECUTION = "Execution on a TPU: a preflight compiles for it and runs nothing there."


def summary(found: Sequence[Evidence], claims: Sequence[Stated]) -> Summary:
    """The summary of all evidence, whose claims are `claims`.

    Of any two models it has the rungs that were run, and nothing of a configuration's.
    """
    general = all(one.config is None and one.kind.special.of_pairs for one in found)
    steps = [step(rung, claims) for rung in RUNGS]
    beside = [step(rung, claims) for rung in BESIDE]
    if general:
        steps, beside = ([one for one in each if one.claims] for each in (steps, beside))
    story = story_of(found, claims)
    ladder = (Text(LADDER), Steps(tuple(steps)))
    sections = [Section("Ladder of claims", ladder)]
    if beside:
        sections.append(Section("Beside the ladder", (Steps(tuple(beside), numbered=False),)))
    left = not_verified(found, claims, [*steps, *beside], general)
    sections.append(Section("What was not verified", (left,)))
    if not general:
        sections += [
            *scores.sections(found),
            Section("Environment of the two sides", environment.blocks(found)),
            Section("Known errata of published numbers", known_errata(found)),
        ]
    return Summary(
        story=story,
        tone=words.tone(story.verdict),
        general=general,
        headline=headline(steps, claims),
        answer=answer(claims),
        sections=tuple(sections),
    )


def verdict(claims: Iterable[Stated]) -> str:
    """Of a report: "fails" where any claim fails, "holds" where all that was run holds."""
    claims = [*claims]
    verdicts = {claim.verdict for claim in claims}
    if "fails" in verdicts:
        return "fails"
    drowned = any(claim.drowned for claim in claims)
    return "holds" if "holds" in verdicts and not drowned else "not decided"


def step(rung: Rung, claims: Sequence[Stated]) -> Step:
    """A rung in words: its verdict, and the margin of the claim that is nearest to its limit."""
    own = [claim for claim in claims if claim.rung == rung.id]
    judged = verdict_of(own)
    nearest = nearest_to_limit(own)
    cases = sum(claim.cases or 0 for claim in own)
    return Step(
        id=rung.id,
        title=rung.title,
        statement=rung.statement,
        verdict=judged,
        tone=words.tone(judged),
        margin="" if nearest is None or judged not in ("holds", "fails") else _margin(nearest),
        cases="" if not own else f"{_count(cases, 'case')}, {_count(len(own), 'claim')}",
        command=rung.command,
        claims=tuple(words.in_words(claim) for claim in own),
    )


def _margin(claim: Stated) -> str:
    return words.margin(claim.value, claim.limit)


def _count(amount: int, noun: str) -> str:
    return f"{number(amount)} {noun}" + ("" if amount == 1 else "s")


def nearest_to_limit(claims: Sequence[Stated]) -> Stated | None:
    """The claim that fails, or that uses the largest share of its limit; None without numbers."""
    measured = [
        claim for claim in claims if words.is_number(claim.value) and words.is_number(claim.limit)
    ]

    def share(claim: Stated) -> tuple[bool, float]:
        value, limit = claim.value, claim.limit
        used = value / limit if limit > 0 else float(value > limit)
        return claim.verdict == "fails", used if used == used else float("inf")

    return max(measured, key=share, default=None)


def headline(steps: Sequence[Step], claims: Sequence[Stated]) -> str:
    """How much holds and fails, in one line, and what is open."""
    held = [one for one in steps if one.verdict == "holds"]
    failing = [claim for claim in claims if claim.verdict == "fails"]
    missing = [one.title.lower() for one in steps if one.verdict == "not run"]
    undecided = [one.title.lower() for one in steps if one.verdict == "not decided"]
    if failing:
        text = f"{_count(len(failing), 'claim')} {'fails' if len(failing) == 1 else 'fail'}, "
        text += f"{len(held)} of {len(steps)} rungs hold"
    else:
        cases = _count(sum(claim.cases or 0 for claim in claims), "case")
        text = (
            f"{len(held)} of {len(steps)} rungs hold, none fails: {_count(len(claims), 'claim')} "
            f"on {cases}"
        )
    if undecided:
        text += f"; not decided: {', '.join(undecided)}"
    if missing:
        text += f"; not run: {', '.join(missing)}"
    return f"{text}."


def answer(claims: Sequence[Stated]) -> str:
    """Whether the differences that were found are acceptable, in a sentence or two.

    What stands beside the ladder says nothing of it.
    """
    on_ladder = [claim for claim in claims if claim.rung not in {rung.id for rung in BESIDE}]
    judged = verdict(on_ladder)
    drowned = [claim for claim in on_ladder if claim.drowned]
    if judged == "not decided" and drowned:
        return (
            f"Not decided: {drowned[0].worst}. The reference is as far from itself when its "
            "roundings move, so that these weights and inputs cannot tell."
        )
    if judged == "not decided":
        return "Not decided: no claim in these results that compares the two sides was judged."
    if judged == "holds":
        undecided = sum(one.verdict not in ("holds", "not run") for one in on_ladder)
        left = f" {_count(undecided, 'claim')} could not be decided." if undecided else ""
        return (
            "Yes, for what was run: no difference is above its limit, and every claim says where "
            f"its limit comes from.{left} What was not verified is listed below."
        )
    failing = [claim for claim in on_ladder if claim.verdict == "fails"]
    named = dict.fromkeys(one.place for one in failing if one.place and not one.place.inherited)
    places = [place.text for place in named]
    text = f"No: {_count(len(failing), 'claim')} {'fails' if len(failing) == 1 else 'fail'}"
    if places:
        more = len(places) - PLACES
        text += f", at {', '.join(places[:PLACES])}"
        text += f" and {_count(more, 'other place')}" if more > 0 else ""
    return f"{text}. The rungs that are open below say what was measured, and its limit."


def not_verified(
    found: Sequence[Evidence], claims: Sequence[Stated], steps: Sequence[Step], general: bool
) -> Block:
    """Rungs without evidence, what could not be decided, and what results say they left open."""
    items = [
        f"{one.title} ({one.statement}): {one.verdict}. To run: {one.command}."
        for one in steps
        if one.verdict not in ("holds", "fails")
    ]
    said: dict[str, list[str]] = {}
    for one in found:
        for text in getattr(one.result, "not_verified", ()):
            if text not in ON_THE_LADDER:
                said.setdefault(text, []).append(one.title)
    for text, titles in said.items():
        of = titles[0] if len(set(titles)) == 1 else f"{len(titles)} results"
        items.append(f"{text[:1].upper()}{text[1:]} (said by: {of}).")
    items += [
        f"{one.title}: not decided. {words.reason(one)}"
        for one in claims
        if words.spoken(one.verdict) == "not decided" and words.reason(one)
    ]
    items += weak_scores(found)
    items += filter(None, dict.fromkeys(one.kind.special.left_open for one in found))
    if not general and not any(text.startswith("execution on a TPU") for text in said):
        items.append(EXECUTION)
    return Items(tuple(items))


def weak_scores(found: Sequence[Evidence]) -> list[str]:
    """Results whose models score next to nothing, so that scoring alike says little."""
    items = []
    for one in found:
        scored = one.kind.special.scored
        values = [] if scored is None else scored.values(one)
        if not values:
            continue
        best = max((value for value in values if value is not None), default=0.0)
        if best < WEAK:
            items.append(
                f"{one.title}: no score is above {best:.2g} %. Models that find nearly nothing "
                "score alike whether or not they learn alike."
            )
    return items


def known_errata(found: Sequence[Evidence]) -> tuple[Block, ...]:
    """The errata of the configs in this report first, then those of others."""
    present = {one.config for one in found}
    own = [one for one in errata.ERRATA if present & set(one.configs)]
    others = [one for one in errata.ERRATA if one not in own]
    rows = tuple(
        (
            Cell(", ".join(one.configs)),
            Cell(one.text),
            Cell(one.source),
            Cell("yes" if one in own else "no"),
        )
        for one in (*own, *others)
    )
    columns = (
        Column("Configs"),
        Column("What is known", prose=True),
        Column("Source"),
        Column("In this report"),
    )
    text = (
        "Published numbers are compared as the zoo's table has them. These remarks say where a "
        "number that can be found elsewhere should not be trusted, or how firm it is."
    )
    return (Text(text), Table("Errata and remarks", columns, rows))
