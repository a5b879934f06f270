"""The claim on what a loss matches: the same pairs, and proven to be the cheapest."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.assignment import Certificate, assignment_faults, certify
from parity.claims import Claim, Place, claim
from parity.judge import DEFAULT
from parity.measurements import Matching, matching_place

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Problem:
    """One matching of rows to columns, as both sides made it.

    Args:
        place: what it is called.
        cost: the reference's own costs [rows, columns].
        wanted: the reference's pairs (row, column), rows increasing.
        in_place, alone: the port's, in its own step and by the reference's costs, in each way in
            which it tells them, the first by rows.
        duals: those of the port's solver on these costs, of rows and of columns.
    """

    place: str
    cost: np.ndarray
    wanted: Pairs
    in_place: Mapping[str, Pairs]
    alone: Mapping[str, Pairs]
    duals: tuple[np.ndarray, np.ndarray]

    @property
    def chosen(self) -> Pairs:
        """The pairs of the port alone."""
        return next(iter(self.alone.values()))

    @property
    def certificate(self) -> Certificate:
        """Whether no cheaper ones than these exist."""
        rows, columns = (np.array([one[side] for one in self.chosen], int) for side in (0, 1))
        return certify(self.cost, rows, columns, *self.duals)

    def differing(self) -> dict[str, Pairs]:
        """The port's pairs that are others, by way and by where they were made."""
        return {
            f"{way}, {how}": pairs
            for how, both in (("in place", self.in_place), ("alone", self.alone))
            for way, pairs in both.items()
            if pairs != self.wanted
        }

    def costs(self) -> dict[str, float]:
        """What the port's pairs that are others cost by the reference's own costs.

        Infinite where they are no matching, and where both ways do not tell the same pairs.
        """
        found = {}
        for way, pairs in self.differing().items():
            both = self.in_place if way.endswith("in place") else self.alone
            rows, columns = (np.array([one[side] for one in pairs], int) for side in (0, 1))
            told = all(one == pairs for one in both.values())
            is_whole = not assignment_faults(self.cost.shape, rows, columns)
            found[way] = (
                math.fsum(self.cost[rows, columns].tolist()) if told and is_whole else math.inf
            )
        return found

    def own(self) -> list[str]:
        """What of the port's pairs alone is wrong."""
        found = [f"{way}, {self.place}" for way, one in self.alone.items() if one != self.wanted]
        certificate = self.certificate
        return found if certificate.holds else [*found, f"{self.place}: {certificate}"]

    def dearer(self) -> str | None:
        """That the port matches every column, but not at the least cost, or None."""
        if sorted(column for _, column in self.chosen) != sorted(one for _, one in self.wanted):
            return None
        own, least = (
            math.fsum(self.cost[pair] for pair in pairs) for pairs in (self.chosen, self.wanted)
        )
        if own - least <= DEFAULT.loss_gap * abs(least):
            return None
        return (
            f"the matching is not optimal: {self.place} costs {own:.6g}, where {least:.6g} is "
            "possible"
        )


def matching_claim(
    problems: Sequence[Problem],
    costs: Claim | None,
    explain: Callable[[Sequence[str]], str | None],
    command: str,
) -> Claim:
    """The port's pairs are the reference's, and optimal by a certificate that trusts no solver.

    Args:
        costs: the claim on the costs, where that fails: what it differs by is inherited.
        explain: a cause from what is wrong with the port's pairs alone.
    """
    places: list[dict[str, Any]] = []
    for one in problems:
        others = (one.differing(), one.certificate, one.costs())
        places.append(matching_place(one.place, one.wanted, *others))
    found = claim(
        "train_matching",
        "Every target is matched to the same query, and no cheaper matching exists",
        Matching(places),
        "pairs compared with the reference's, in both directions, and certified from dual "
        "variables on the reference's own costs: feasible and complementary duals prove the "
        "optimum; where others are as cheap as the reference's, up to rounding, neither is wrong, "
        "and nothing is decided",
        command,
    )
    if not found.fails:
        return found
    own = [text for one in problems for text in one.own()]
    if not own:
        return found.located(Place.inherits("the predictions"))
    if costs is not None:
        return found.located(Place.inherits("the matching costs"), costs.cause)
    dearer = next(filter(None, (one.dearer() for one in problems)), None)
    return found.located(Place.at("matcher", "; ".join(own[:3])), explain(own) or dearer)
