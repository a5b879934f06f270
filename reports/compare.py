"""What changed between two recordings of the same thing: an upgrade of a framework, or of the code.

A recording is judged by an earlier one as a port is judged by its reference: an error may be up to
four times as large (`parity.judge.PRECISION_FACTOR`) as the earlier one, or as the rounding floor
where that is larger. More than that, a claim that held and fails, or a score whose interval lies
below the earlier one's, is a regression.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from parity.claims import Claim
from parity.errors import InputError
from parity.judge import FUNCTION_FACTOR
from parity.measurements import Equivalence, Findings, Margins, Matching, Missed, Sum
from parity.results import Result
from reports.changes import Change, too_large
from reports.derived import claims_of
from reports.document import flatten, number
from reports.escaping import in_code, in_markdown
from reports.evidence import Evidence
from reports.subjects import NOT_RECORDED, difference, differing, shown, subject

UNLIKE = (Findings, Sum, Matching, Missed, Equivalence, Margins)
"""Measurements whose value is no error that may grow: there, the verdict alone says what is too
much, and verdicts are compared tensor by tensor where they are listed."""


@dataclass(frozen=True)
class Pair:
    """Two recordings of the same thing, and all that changed between them."""

    kind: str
    name: str
    changes: tuple[Change, ...]
    unchanged: int

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(one for one in self.changes if one.regression)


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Two sets of recordings compared: those of the same things, and those that one lacks."""

    schema: ClassVar[str] = "maskformer-replication/comparison/2"
    derived: ClassVar[tuple[str, ...]] = ("regressions",)

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def regressions(self) -> int:
        """How many changes are for the worse."""
        return sum(len(pair.regressions) for pair in self.pairs)


def compare(before: Sequence[Evidence], after: Sequence[Evidence]) -> Comparison:
    """The comparison of two sets of recorded results.

    Results are paired by what they are about (`reports.subjects`). Raises InputError where no two
    are about the same, and where two of one set are.
    """
    earlier, later = _bysubject(before), _bysubject(after)
    both = [key for key in earlier if key in later]
    if not both:
        raise _nothing_in_common(before, after)
    found = earlier | later
    names = dict(zip(found, _names(list(found.values())), strict=True))
    pairs = [_pair(names[key], earlier[key], later[key]) for key in both]
    return Comparison(
        verdict="regression" if any(pair.regressions for pair in pairs) else "no regression",
        pairs=tuple(pairs),
        only_before=tuple(names[key] for key in earlier if key not in later),
        only_after=tuple(names[key] for key in later if key not in earlier),
    )


def _bysubject(found: Sequence[Evidence]) -> dict[str, Evidence]:
    """Results by what they are about. Raises InputError for two that nothing tells apart."""
    known: dict[str, Evidence] = {}
    for one in found:
        key = json.dumps([one.kind.schema, subject(one)], sort_keys=True)
        if key in known:
            (name, *_) = _names([one])
            raise InputError(
                f"{known[key].source} and {one.source} are about the same",
                f"both are {name}, and nothing in them but what they measured tells them apart",
                "compare each by itself: name the files instead of their folder",
            )
        known[key] = one
    return known


def _names(found: Sequence[Evidence]) -> list[str]:
    """What results are called: kind, configuration, and the facts that tell them from others."""
    names = []
    for one in found:
        alike = [subject(other) for other in found if _alike(one, other)]
        own = subject(one)
        facts = [f"{fact} {shown(own.get(fact, NOT_RECORDED))}" for fact in differing(alike)]
        name = " ".join(filter(None, (one.kind.name, one.config)))
        names.append(f"{name} ({', '.join(facts)})" if facts else name)
    return names


def _alike(one: Evidence, other: Evidence) -> bool:
    return (one.kind, one.config) == (other.kind, other.config)


def _nothing_in_common(before: Sequence[Evidence], after: Sequence[Evidence]) -> InputError:
    """Says in what the two differ that are about nearly the same, where there are such."""
    pairs = [
        (subject(one), subject(other), one)
        for one in before
        for other in after
        if _alike(one, other)
    ]
    if pairs:
        *nearest, one = min(pairs, key=lambda pair: len(differing(pair[:2])))
        (name, *_) = _names([one])
        evidence = f"both have {name}, but they differ in {difference(*nearest)}"
    else:
        sides = ("; ".join(_names(found)) or "nothing" for found in (before, after))
        evidence = "one has {}, the other {}".format(*sides)
    return InputError(
        "the two have no result in common",
        evidence,
        "compare recordings of the same kind, configuration, inputs and weights",
    )


def _pair(name: str, before: Evidence, after: Evidence) -> Pair:
    changes = [*_versions(before, after), *_claims(before, after)]
    further = before.kind.changes
    found = [] if further is None else list(further(before, after))
    changes += [one for one in found if one is not None]
    return Pair(before.kind.name, name, tuple(changes), found.count(None))


def _versions(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Versions of packages, Python, the machine and the code."""
    facts = []
    for one in (before, after):
        own = {name: getattr(one.result, name, None) for name in ("versions", "git_commit")}
        recorded = {name: value for name, value in own.items() if value is not None}
        facts.append(dict(flatten({**one.result.provenance, **recorded})))
    for name in dict.fromkeys((*facts[0], *facts[1])):
        old, new = (one.get(name, "not recorded") for one in facts)
        if old != new and name != "date":
            yield Change("version", name, old, new, False)


def _claims(before: Evidence, after: Evidence) -> Iterator[Change]:
    old, new = ({one.id: one for one in claims_of(each)} for each in (before, after))
    for identity in dict.fromkeys((*old, *new)):
        one, other = old.get(identity), new.get(identity)
        if one is None or other is None:
            texts = ("not claimed" if x is None else x.verdict for x in (one, other))
            yield Change("claim", identity, *texts, False, (one or other).title)
            continue
        texts = [f"{x.verdict}, {number(x.value)}" for x in (one, other)]
        if one.verdict == "holds" and other.verdict == "fails":
            yield Change("claim", identity, *texts, True, f"fails now: {other.title}")
        elif one.verdict != other.verdict:
            yield Change("claim", identity, *texts, False, other.title)
        elif reason := _grown(one, other):
            yield Change("claim", identity, *texts, True, reason)


def _grown(one: Claim, other: Claim) -> str:
    """Why the value of a claim grew by more than rounding explains; empty where it did not."""
    if other.measured is None or isinstance(other.measured, UNLIKE):
        return ""
    values = (one.value, other.value, other.limit)
    if not all(isinstance(x, int | float) for x in values):
        return ""
    return too_large(values[0], values[1], values[2] / FUNCTION_FACTOR)


def markdown(result: Comparison, before: str, after: str) -> str:
    """The comparison as a summary for a pull request."""
    sign = "x" if result.regressions else "white_check_mark"
    names = [in_code(name) for name in (after, before)]
    lines = [f"## :{sign}: {result.verdict}: {' against '.join(names)}", ""]
    for pair in result.pairs:
        lines += [f"### {in_markdown(pair.name)}", ""]
        if pair.unchanged:
            lines += [f"{pair.unchanged:,} tensors are about as they were.", ""]
        shown = [one for one in pair.changes if one.kind != "version"]
        versions = [one for one in pair.changes if one.kind == "version"]
        lines += _table(shown) if shown else ["No claim, tensor or score changed."]
        if versions:
            lines += ["", f"<details><summary>{len(versions)} versions and flags</summary>", ""]
            lines += [*_table(versions), "", "</details>"]
        lines.append("")
    for name in ("only_before", "only_after"):
        if found := getattr(result, name):
            lines.append(f"{name.replace('_', ' ')}: {', '.join(map(in_markdown, found))}")
    return "\n".join(lines).rstrip() + "\n"


def _table(changes: Sequence[Change]) -> list[str]:
    rows = ["| | what | before | after | |", "| --- | --- | --- | --- | --- |"]
    for one in sorted(changes, key=lambda one: not one.regression):
        mark = ":x:" if one.regression else ""
        texts = map(in_markdown, (one.before, one.after, one.reason))
        rows.append(f"| {' | '.join((mark, in_code(one.name), *texts))} |")
    return rows
