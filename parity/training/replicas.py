"""Claims on several replicas of a port: each has what one process, or its rank, would have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.claims import Claim, Place, claim
from parity.judge import FUNCTION_FACTOR
from parity.measurements import Largest, Multiple
from parity.training.rates import movement_gap
from parity.training.sides import Arrays

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Replicas:
    """What each replica has, in float64, and what it should have.

    Args:
        ours, exact: arrays by name, of each replica.
        twins: `exact` as often as its inputs were moved by one unit in the last place.
        known: what each replica would have by a mistake, by its name; arrays that the mistake
            does not change may be left out.
        explained: relative; what is left of a difference when the mistake is made.
        names: what each is called, where it is not `replica 0` and so on.
    """

    ours: Sequence[Arrays]
    exact: Sequence[Arrays]
    twins: Sequence[Sequence[Arrays]]
    known: Mapping[str, Sequence[Arrays]]
    explained: float
    names: Sequence[str] = ()

    def gaps(self, ours: Sequence[Arrays], exact: Sequence[Arrays]) -> dict[str, float]:
        """How far each array of each replica is, relative."""
        called = self.names or [f"replica {index}" for index in range(len(exact))]
        return {
            f"{place}{name and ', '}{name}": movement_gap(one, {name: array})
            for place, one, own in zip(called, ours, exact, strict=True)
            for name, array in own.items()
        }

    @property
    def floor(self) -> float:
        """How far rounding alone moves what replicas should have."""
        moved = (max(self.gaps(twin, self.exact).values()) for twin in self.twins)
        return max([EPSILON, *moved])

    @property
    def cause(self) -> str | None:
        """The mistake with which the reference has what the port's replicas have."""
        for text, wrong in self.known.items():
            if max(self.gaps(self.ours, wrong).values()) <= self.explained:
                return text
        return None


def replicas_claim(found: Replicas, told: tuple[str, str, str], part: str, command: str) -> Claim:
    """That every replica has what it should.

    Args:
        told: the claim's id and title, and what of a replica is compared.
        part: the part of the program that is at fault where it has not.
    """
    identity, title, what = told
    gaps, floor = found.gaps(found.ours, found.exact), found.floor
    one = claim(
        identity,
        title,
        Largest(gaps, Multiple("floor_factor", floor)),
        f"relative gap of {what}; the limit is {FUNCTION_FACTOR:g} x the reference's own gap when "
        "what it is given moves by one unit in the last place",
        command,
    )
    if not one.fails:
        return one
    wrong = [name for name, gap in gaps.items() if not gap <= FUNCTION_FACTOR * floor]
    return one.located(Place.at(part, ", ".join(wrong[:3])), found.cause)
