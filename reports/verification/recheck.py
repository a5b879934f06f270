"""Whether a recorded result says what its own measurements say; no model is needed.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.records import strict
from reports.checks import Difference, differ, same
from reports.derived import BROKEN
from reports.evidence import FOLDER, Evidence
from reports.verification.differences import Problem, shown
from reports.verification.listing import is_report, listing, unlisted


def contradictions(named: Sequence[tuple[str, Evidence]]) -> list[Problem]:
    """Every place where a result, called by its name, does not say what it measured."""
    problems = []
    for name, one in named:
        try:
            problems += [
                Problem(name, place, shown(expected), shown(present))
                for place, expected, present in recheck(one)
            ]
        except BROKEN as error:
            text = f"{type(error).__name__}: {error}"
            problems.append(Problem(name, "the content", f"a complete {one.schema}", shown(text)))
    return problems


def unfounded(found: Sequence[Evidence]) -> list[Problem]:
    """All that is wrong with results before anything is said of them.

    They contradict what they measured, or they lie in a report and are not what it lists.
    """
    problems = contradictions([(one.source, one) for one in found])
    for folder in dict.fromkeys(filter(None, (_report_of(Path(one.source)) for one in found))):
        known = listing(folder)
        problems += [*known.problems, *unlisted(folder, known)]
    return problems


def _report_of(source: Path) -> Path | None:
    """The folder of the report in whose evidence a result lies; None where it lies in none."""
    for parent in (source.absolute(), *source.absolute().parents):
        if parent.name == FOLDER and is_report(parent.parent):
            return parent.parent
    return None


def recheck(one: Evidence) -> list[Difference]:
    """Every place where the result disagrees with its measurements; none for a sound one.

    Raises one of `reports.derived.BROKEN` for a result whose parts do not belong together.
    """
    found = list(_claims(one))
    if not found:
        found = list(_altered("", strict(one.result.to_json()), json.loads(one.files[one.main])))
    if not found and one.kind.recheck is not None:
        found = list(one.kind.recheck(one.result))
    return found


def _claims(one: Evidence) -> Iterator[Difference]:
    for index, each in enumerate(one.result.claims):
        place = f"claims[{index}] ({each.id})"
        if each.measured is None:
            if one.kind.records_claims and each.verdict != "not run":
                yield f"{place}.measured", "what was measured", None
            continue
        judged = each.measured.judge()
        expected = {
            "verdict": judged.verdict,
            "value": judged.value,
            "limit": judged.limit,
            "cases": judged.cases,
            "evidence_sha256": each.measured.sha256,
        }
        yield from differ(place, expected, {name: getattr(each, name) for name in expected})
        if judged.holds and not math.isfinite(judged.limit):
            yield f"{place}.limit", "a limit that is a number", judged.limit


def _altered(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    """Where what follows from other parts of a result is recorded as something else."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in expected.keys() & found.keys() - {"schema"}:
            yield from _altered(f"{place}.{name}" if place else name, expected[name], found[name])
    elif isinstance(expected, list) and isinstance(found, list):
        for index, pair in enumerate(zip(expected, found, strict=True)):
            yield from _altered(f"{place}[{index}]", *pair)
    elif not same(expected, found):
        yield place, expected, found
