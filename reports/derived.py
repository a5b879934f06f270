"""The claims of any evidence: those it recorded, and those that follow from what it recorded.

Every command records what it measured; not all say what that claims. Here they do, each claim with
its "measured" (`parity.claims`), so that a report and its verification say the same. A derived
claim whose schema does not say its rung has the id "RUNG/...", with a rung of `reports.ladder`.
"""

from collections.abc import Sequence

from parity.errors import InputError
from reports.checks import ClaimRow
from reports.evidence import Evidence, names

KEYS = (
    "id",
    "title",
    "verdict",
    "value",
    "limit",
    "cases",
    "derivation",
    "evidence_sha256",
    "command",
)
"""What every claim has; of a claim that was not run, some are None."""


def all_claims(found: Sequence[Evidence]) -> list[ClaimRow]:
    """The claims of a report on this evidence, in order, each with its `rung` and its `file`.

    Those of several results together come last. Raises InputError for evidence that is not
    complete.
    """
    placed = [
        (one, next(iter(places.values()))) for one, places in zip(found, names(found), strict=True)
    ]
    claims = []
    for one, file in placed:
        try:
            for each in claims_of(one):
                rung = one.kind.rung_of(each["id"])
                words = {name: each[name] for name in ("id", "title", "verdict", "command")}
                if one.kind.special.members:
                    words["title"] += f" ({each['id'].partition('/')[0]})"
                claims.append({**dict.fromkeys(KEYS), **each, **words, "rung": rung, "file": file})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise incomplete(one, error) from error
    files = {id(one): file for one, file in placed}
    for kind in dict.fromkeys(one.kind for one in found):
        if kind.special.together is not None:
            own = [one for one in found if one.kind is kind]
            for one, each in kind.special.together(own):
                rung = kind.rung_of(each.id)
                claims.append({**each.to_json(), "rung": rung, "file": files[id(one)]})
    return claims


def incomplete(one: Evidence, error: Exception) -> InputError:
    """What to tell of evidence that lacks what its schema promises."""
    return InputError(
        f"{one.source} is not a complete {one.schema}",
        f"{type(error).__name__}: {error}",
        "record it again; a report is never made from a part of a result",
    )


def claims_of(one: Evidence) -> list[ClaimRow]:
    """All claims of one piece of evidence. Raises KeyError, TypeError or ValueError where the
    evidence lacks what its schema promises."""
    derived = [] if one.kind.derived is None else one.kind.derived(one)
    return [*one.content.get("claims", ()), *(each.to_json() for each in derived)]
