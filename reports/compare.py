"""What changed between two recordings of the same thing: an upgrade of a framework, or of the code.

A recording is judged by an earlier one as a port is judged by its reference: an error may be up to
four times as large (`parity.judge.PRECISION_FACTOR`) as the earlier one, or as the rounding floor
where that is larger. More than that, a claim that held and fails, or a score whose interval lies
below the earlier one's, is a regression.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parity.errors import InputError
from parity.judge import FUNCTION_FACTOR
from reports.changes import Change, too_large
from reports.derived import claims_of
from reports.document import flatten, number
from reports.evidence import Evidence

SCHEMA = "maskformer-replication/comparison/1"
COUNTED = ("none", "sum", "matching", "missed")
"""Rules of claims whose value is a count: there, the verdict alone says what is too much."""


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

    Results are paired by what they are about. Raises InputError where no two are about the same.
    """
    earlier, later = ({_about(one): one for one in found} for found in (before, after))
    both = [key for key in earlier if key in later]
    if not both:
        raise InputError(
            "the two have no result in common",
            f"one has {_names(earlier)}; the other {_names(later)}",
            "compare recordings of the same kind and configuration",
        )
    pairs = [_pair(key, earlier[key], later[key]) for key in both]
    regressions = [one for pair in pairs for one in pair.regressions]
    return {
        "schema": SCHEMA,
        "verdict": "regression" if regressions else "no regression",
        "pairs": [asdict(pair) for pair in pairs],
        "only_before": [_name(key) for key in earlier if key not in later],
        "only_after": [_name(key) for key in later if key not in earlier],
        "regressions": len(regressions),
    }


def _about(one: Evidence) -> tuple[str, ...]:
    """What a result is about: its kind, configuration, and what tells it from others of these."""
    return (one.kind.name, one.config or "", *map(str, one.kind.subject(one.content).values()))


def _name(key: tuple[str, ...]) -> str:
    return " ".join(filter(None, key))


def _names(found: Mapping[tuple[str, ...], Evidence]) -> str:
    return ", ".join(map(_name, found)) or "nothing"


def _pair(key: tuple[str, ...], before: Evidence, after: Evidence) -> Pair:
    changes = [*_versions(before, after), *_claims(before, after)]
    further = before.kind.changes
    found = [] if further is None else list(further(before, after))
    changes += [one for one in found if one is not None]
    return Pair(before.kind.name, _name(key), tuple(changes), found.count(None))


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
    return too_large(values[0], values[1], values[2] / FUNCTION_FACTOR)


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
