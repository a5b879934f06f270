"""Whether a recorded result says what its own measurements say; no model is needed.

A hash shows that a file is the one a report was made from. These checks show more: that verdicts,
limits and counts follow from the measurements recorded beside them.
"""

from collections.abc import Iterator

from parity.measurements import digest, judge
from reports.checks import Difference, differ
from reports.evidence import Evidence


def recheck(one: Evidence) -> list[Difference]:
    """Every place where the result disagrees with its measurements; none for a sound one.

    Raises KeyError, TypeError, ValueError, AttributeError or IndexError for a result that lacks
    what its schema promises.
    """
    found = list(_claims(one))
    if not found and one.kind.recheck is not None:
        found = list(one.kind.recheck(one.content))
    return found


def _claims(one: Evidence) -> Iterator[Difference]:
    for index, each in enumerate(one.content.get("claims", ())):
        place = f"claims[{index}] ({each['id']})"
        measured = each.get("measured")
        if measured is None:
            if one.kind.records_claims and each["verdict"] != "not run":
                yield f"{place}.measured", "what was measured", None
            continue
        judged = judge(measured)
        expected = {
            "verdict": judged.verdict,
            "value": judged.value,
            "limit": judged.limit,
            "cases": judged.cases,
            "evidence_sha256": digest(measured),
        }
        yield from differ(place, expected, {name: each.get(name) for name in expected})
