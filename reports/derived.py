"""The claims of any evidence: those it recorded, and those that follow from what it recorded.

Every command records what it measured; not all say what that claims. Here they do, each claim with
its "measured" (`parity.claims`), so that a report and its verification say the same. A derived
claim whose schema does not say its rung has the id "RUNG/...", with a rung of `reports.ladder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.claims import Claim
from parity.errors import InputError
from reports.evidence import Evidence, names


@dataclass(frozen=True)
class Stated(Claim):
    """A claim of a report: with the rung that it stands on, and the file of its evidence."""

    rung: str = ""
    file: str = ""


def all_claims(found: Sequence[Evidence]) -> list[Stated]:
    """The claims of a report on this evidence, in order.

    Those of several results together come last. Raises InputError for evidence that is not
    complete.
    """
    placed = [
        (one, next(iter(places.values()))) for one, places in zip(found, names(found), strict=True)
    ]
    claims = []
    for one, file in placed:
        try:
            claims += [_stated(one, each, file) for each in claims_of(one)]
        except BROKEN as error:
            raise incomplete(one, error) from error
    files = {id(one): file for one, file in placed}
    for kind in dict.fromkeys(one.kind for one in found):
        if kind.special.together is not None:
            own = [one for one in found if one.kind is kind]
            for one, each in kind.special.together(own):
                claims.append(_stated(one, each, files[id(one)]))
    return claims


def _stated(one: Evidence, each: Claim, file: str) -> Stated:
    member = f" ({each.id.partition('/')[0]})" if one.kind.special.members else ""
    said = {"title": each.title + member, "rung": one.kind.rung_of(each.id), "file": file}
    return Stated(**{**vars(each), **said})


BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What drawing or judging a result raises whose parts do not belong together."""


def incomplete(one: Evidence, error: Exception) -> InputError:
    """What to tell of evidence that lacks what its schema promises."""
    return InputError(
        f"{one.source} is not a complete {one.schema}",
        f"{type(error).__name__}: {error}",
        "record it again; a report is never made from a part of a result",
    )


def claims_of(one: Evidence) -> list[Claim]:
    """All claims of one piece of evidence. Raises one of `BROKEN` where its parts do not belong
    together."""
    return [*one.result.claims, *([] if one.kind.derived is None else one.kind.derived(one))]
