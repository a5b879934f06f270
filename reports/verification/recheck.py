"""Whether a recorded result says what its own measurements say; no model is needed.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from parity.records import strict
from reports.checks import Difference, differ, same
from reports.evidence import Evidence


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
