"""What changed between two recordings of the same thing: an upgrade of a framework, or of the code.

A recording is judged by an earlier one as a port is judged by its reference: an error may be up to
four times as large (`parity.judge.PRECISION_FACTOR`) as the earlier one, or as the rounding floor
where that is larger. More than that, a claim that held and fails, or a score whose interval lies
below the earlier one's, is a regression.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parity.errors import InputError
from parity.judge import FUNCTION_FACTOR, PRECISION_FACTOR, Verdict
from parity.measurements import verdicts_of
from parity.schemas import AUDIT, EVALUATION
from reports.derived import claims_of, incomplete
from reports.document import flatten, number
from reports.evidence import RUN, Evidence
from reports.run_pairs import compared
from reports.subjects import NOT_RECORDED, Subject, difference, differing, shown, subject

SCHEMA = "maskformer-replication/comparison/1"
COUNTED = ("none", "sum", "matching", "missed")
"""Rules of claims whose value is a count: there, the verdict alone says what is too much."""


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was; `regression` where it is worse than rounding explains."""

    kind: str
    name: str
    before: str
    after: str
    regression: bool
    reason: str = ""


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


def compare(before: Sequence[Evidence], after: Sequence[Evidence]) -> dict[str, Any]:
    """The comparison of two sets of recorded results, as one JSON object (`SCHEMA`).

    Results are paired by what they are about (`reports.subjects`). Raises InputError where no two
    are about the same, and where two of one set are.
    """
    earlier, later = _by_subject(before), _by_subject(after)
    both = [key for key in earlier if key in later]
    if not both:
        raise _nothing_in_common(before, after)
    found = earlier | later
    names = dict(zip(found, _names(list(found.values())), strict=True))
    pairs = [_pair(names[key], earlier[key], later[key]) for key in both]
    regressions = [one for pair in pairs for one in pair.regressions]
    return {
        "schema": SCHEMA,
        "verdict": "regression" if regressions else "no regression",
        "pairs": [asdict(pair) for pair in pairs],
        "only_before": [names[key] for key in earlier if key not in later],
        "only_after": [names[key] for key in later if key not in earlier],
        "regressions": len(regressions),
    }


def _by_subject(found: Sequence[Evidence]) -> dict[str, Evidence]:
    """Results by what they are about. Raises InputError for two that nothing tells apart."""
    known: dict[str, Evidence] = {}
    for one in found:
        key = json.dumps([one.schema, _subject(one)], sort_keys=True)
        if key in known:
            (name, *_) = _names([one])
            raise InputError(
                f"{known[key].source} and {one.source} are about the same",
                f"both are {name}, and nothing in them but what they measured tells them apart",
                "compare each by itself: name the files instead of their folder",
            )
        known[key] = one
    return known


def _subject(one: Evidence) -> Subject:
    try:
        return subject(one)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise incomplete(one, error) from error


def _names(found: Sequence[Evidence]) -> list[str]:
    """What results are called: kind, configuration, and the facts that tell them from others."""
    names = []
    for one in found:
        alike = [_subject(other) for other in found if _alike(one, other)]
        own = _subject(one)
        facts = [f"{fact} {shown(own.get(fact, NOT_RECORDED))}" for fact in differing(alike)]
        name = " ".join(filter(None, (one.kind, one.config)))
        names.append(f"{name} ({', '.join(facts)})" if facts else name)
    return names


def _alike(one: Evidence, other: Evidence) -> bool:
    return (one.schema, one.config) == (other.schema, other.config)


def _nothing_in_common(before: Sequence[Evidence], after: Sequence[Evidence]) -> InputError:
    """Says in what the two differ that are about nearly the same, where there are such."""
    pairs = [
        (_subject(one), _subject(other), one)
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
    compared_cases = 0
    if before.schema == AUDIT:
        layers, compared_cases = _layers(before, after)
        changes += layers
    elif before.schema == EVALUATION:
        changes += _evaluated(before.content, after.content)
    elif before.schema == RUN:
        changes += _trained(before, after)
    return Pair(before.kind, name, tuple(changes), compared_cases)


def _versions(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Versions of packages, Python, the machine and the code."""
    facts = []
    for one in (before, after):
        content = one.content
        held = content.get("provenance") or {}
        own = {
            name: content[name]
            for name in ("versions", "environment", "git_commit")
            if name in content
        }
        facts.append(dict(flatten({**held, **own})))
    for name in dict.fromkeys((*facts[0], *facts[1])):
        old, new = (one.get(name, "not recorded") for one in facts)
        if old != new:
            yield Change("version", name, old, new, False)


def _claims(before: Evidence, after: Evidence) -> Iterator[Change]:
    old, new = ({one["id"]: one for one in claims_of(each)} for each in (before, after))
    for identity in dict.fromkeys((*old, *new)):
        one, other = old.get(identity), new.get(identity)
        if one is None or other is None:
            texts = ("not claimed" if x is None else x["verdict"] for x in (one, other))
            yield Change("claim", identity, *texts, False, (one or other)["title"])
            continue
        texts = [f"{x['verdict']}, {number(x['value'])}" for x in (one, other)]
        if one["verdict"] == "holds" and other["verdict"] == "fails":
            yield Change("claim", identity, *texts, True, f"fails now: {other['title']}")
        elif one["verdict"] != other["verdict"]:
            yield Change("claim", identity, *texts, False, other["title"])
        elif reason := _grown(one, other):
            yield Change("claim", identity, *texts, True, reason)


def _grown(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why the value of a claim grew by more than rounding explains; empty where it did not."""
    rule = (other.get("measured") or {}).get("rule")
    if rule is None or rule in (*COUNTED, "equivalence", "verdicts"):
        return ""  # verdicts are compared tensor by tensor where they are listed
    values = (one["value"], other["value"], other["limit"])
    if not all(isinstance(x, int | float) for x in values):
        return ""
    return _too_large(values[0], values[1], values[2] / FUNCTION_FACTOR)


def _too_large(before: float, after: float, floor: float) -> str:
    """Why `after` is more than the precision claim's rule allows over `before`, or nothing."""
    limit = PRECISION_FACTOR * max(before, floor)
    if after <= limit or math.isnan(before):
        return ""
    times = after / max(before, floor) if max(before, floor) > 0 else math.inf
    return (
        f"{number(float(times))} times what it was or its rounding floor, at most "
        f"{PRECISION_FACTOR:g} expected"
    )


def _layers(before: Evidence, after: Evidence) -> tuple[list[Change], int]:
    """Tensors whose verdict changed, or whose error grew; and how many are about as they were."""
    changes, same = [], 0
    old, new = ({one["id"]: one for one in each.content["claims"]} for each in (before, after))
    for identity, other in new.items():
        rules = [(x.get("measured") or {}).get("rule") for x in (old.get(identity, {}), other)]
        if rules != ["verdicts", "verdicts"]:
            continue
        earlier, later = (verdicts_of(x["measured"]) for x in (old[identity], other))
        for key, now in later.items():
            change = _tensor(f"{key} [{identity}]", earlier.get(key), now)
            changes += [change] if change else []
            same += change is None
    return changes, same


def _tensor(name: str, was: Verdict | None, now: Verdict) -> Change | None:
    if was is None:
        return Change("tensor", name, "not compared", f"{now.value:.2g}", not now.passed)
    texts = (f"{was.value:.2g}", f"{now.value:.2g}")
    if was.passed != now.passed:
        reason = "above its limit now" if was.passed else "within its limit now"
        return Change("tensor", name, *texts, was.passed, reason)
    for metric, (value, base) in now.measured.items():
        if metric in was.measured and (reason := _too_large(was.measured[metric][0], value, base)):
            pair = (f"{was.measured[metric][0]:.2g}", f"{value:.2g}")
            return Change("tensor", name, *pair, now.passed, f"{metric}: {reason}")
    return None


def _evaluated(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Scores whose recorded intervals do not meet, and others that are not the same."""
    for side in before["sides"].keys() & after["sides"].keys():
        one, other = before["sides"][side], after["sides"][side]
        values = [
            {"mIoU": x["miou"]} | {f"PQ {k}": v["pq"] for k, v in x.get("panoptic", {}).items()}
            for x in (one, other)
        ]
        for name in values[0].keys() & values[1].keys():
            old, new = values[0][name], values[1][name]
            if old == new:
                continue
            intervals = [x["intervals"].get(name, {}) for x in (one, other)]
            below = all("low" in x for x in intervals) and (
                intervals[1]["high"] < intervals[0]["low"]
            )
            reason = "its interval lies below the earlier one" if below else ""
            texts = (f"{100 * old:.2f}", f"{100 * new:.2f}")
            yield Change("score", f"{side}, {name}", *texts, below, reason)


def _trained(before: Evidence, after: Evidence) -> Iterator[Change]:
    """Final scores of two runs, compared image by image where both were evaluated on the same."""
    for name, one in compared(before.counts, after.counts).items():
        values = [100 * each.counts.samples()[name].value for each in (before, after)]
        if values[0] == values[1]:
            continue
        interval = one.get("difference")
        below = interval is not None and interval.high < 0
        reason = ""
        if interval is not None:
            reason = (
                f"{100 * interval.confidence:.0f} % interval of the difference "
                f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f} points"
            )
        yield Change("score", name, *(f"{x:.2f}" for x in values), below, reason)
    rows = [one.run.column("loss") for one in (before, after)]
    ends = [float(values[-1]) for _, values in rows]
    if ends[0] != ends[1]:
        yield Change("loss", "last row", *(f"{x:.6g}" for x in ends), False)


def markdown(result: Mapping[str, Any], before: str, after: str) -> str:
    """The comparison as a summary for a pull request."""
    sign = "x" if result["regressions"] else "white_check_mark"
    lines = [f"## :{sign}: {result['verdict']}: {after} against {before}", ""]
    for pair in result["pairs"]:
        lines += [f"### {pair['name']}", ""]
        if pair["unchanged"]:
            lines += [f"{pair['unchanged']:,} tensors are about as they were.", ""]
        shown = [one for one in pair["changes"] if one["kind"] != "version"]
        versions = [one for one in pair["changes"] if one["kind"] == "version"]
        lines += _table(shown) if shown else ["No claim, tensor or score changed."]
        if versions:
            lines += ["", f"<details><summary>{len(versions)} versions and flags</summary>", ""]
            lines += [*_table(versions), "", "</details>"]
        lines.append("")
    for name in ("only_before", "only_after"):
        if result[name]:
            lines.append(f"{name.replace('_', ' ')}: {', '.join(result[name])}")
    return "\n".join(lines).rstrip() + "\n"


def _table(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = ["| | what | before | after | |", "| --- | --- | --- | --- | --- |"]
    for one in sorted(changes, key=lambda one: not one["regression"]):
        mark = ":x:" if one["regression"] else ""
        cells = (mark, f"`{one['name']}`", one["before"], one["after"], one["reason"])
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return rows
