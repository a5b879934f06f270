"""Faults on purpose: what is planted, what a harness should say of it, and what it said.

A fault is planted by changing one line of a function while a context lasts; files are never edited.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

Plant = Callable[[Any], AbstractContextManager]
RELATIVE = 1e-3
ABSOLUTE = 1e-4
LEAST_COSINE = 0.999


@dataclass(frozen=True)
class Fault:
    """One fault that ports have, and what should be said of it.

    Args:
        id: short name, such as `layer-norm-epsilon-1e-6`.
        family: kind of mistake, such as `epsilon`; its stage where none is given.
        stage: part of the program that it sits in.
        what: the mistake in words.
        imitates: where it is known from, or "".
        bench: name of the case that it is planted in.
        plant: plant(bench) is a context in which the port is wrong.
        places: modules, edges or stages; naming any of them is exact. One may stand alone.
        causes: phrases; a cause that has any of them is right. One may stand alone.
    """

    id: str
    stage: str
    what: str
    bench: str
    plant: Plant
    places: tuple[str, ...]
    causes: tuple[str, ...] = ()
    imitates: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        for name in ("places", "causes"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        object.__setattr__(self, "family", self.family or self.stage)


@dataclass(frozen=True)
class Named:
    """A place that was named, the edge where it shows, and the causes given, likeliest first."""

    place: str
    edge: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was said of one planted fault, which it describes as `Fault` does.

    Args:
        claims: ids of the claims that failed, none where the fault went unseen.
        named: the places named, in order.
        seconds: wall time of the audit.
        noticed: by conventional criterion, whether it would have noticed.
        problem: why the audit could not be run, or None.
    """

    derived: ClassVar[tuple[str, ...]] = ("detected", "place_exact", "rank", "cause_named")

    id: str
    family: str
    stage: str
    what: str
    imitates: str = ""
    bench: str
    places: tuple[str, ...]
    causes: tuple[str, ...]
    claims: tuple[str, ...]
    named: tuple[Named, ...]
    noticed: Mapping[str, bool] = field(default_factory=dict)
    seconds: float
    problem: str | None = None

    @classmethod
    def of(cls, fault: Fault, **said: Any) -> "Outcome":
        """What was said of `fault`."""
        described = {one.name: getattr(fault, one.name) for one in fields(fault)}
        del described["plant"]
        return cls(**described, **said)

    @property
    def detected(self) -> bool:
        """Whether any claim failed."""
        return bool(self.claims)

    @property
    def rank(self) -> int | None:
        """At which position, from 1, a right place was named; None if nowhere."""
        for index, one in enumerate(self.named, 1):
            if {one.place, one.edge} & set(self.places):
                return index
        return None

    @property
    def place_exact(self) -> bool:
        """Whether the first place named is right."""
        return self.rank == 1

    @property
    def cause_named(self) -> bool:
        """Whether the first cause given at a right place is right."""
        if self.rank is None:
            return False
        given = self.named[self.rank - 1].causes[:1]
        return any(phrase in text for text in given for phrase in self.causes)


@dataclass(frozen=True)
class Score:
    """How many faults of a catalogue were found, placed and explained; the rest by id."""

    faults: int
    detected: int
    place_exact: int
    cause_named: int
    missed: Mapping[str, int]
    undetected: tuple[str, ...]
    misplaced: tuple[str, ...]
    unexplained: tuple[str, ...]
    seconds: float


def score(outcomes: Sequence[Outcome]) -> Score:
    """The score of a harness over its catalogue, with that of each conventional criterion."""
    criteria = {name for one in outcomes for name in one.noticed}
    return Score(
        len(outcomes),
        sum(one.detected for one in outcomes),
        sum(one.place_exact for one in outcomes),
        sum(one.cause_named for one in outcomes),
        {
            name: sum(not one.noticed[name] for one in outcomes if name in one.noticed)
            for name in sorted(criteria)
        },
        tuple(one.id for one in outcomes if not one.detected),
        tuple(one.id for one in outcomes if not one.place_exact),
        tuple(one.id for one in outcomes if not one.cause_named),
        sum(one.seconds for one in outcomes),
    )


def conventional(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, bool]:
    """Whether each customary check of two sets of results would notice that they differ.

    The checks are those that porting scripts use: elementwise closeness with a typed tolerance, the
    mean difference, the angle between flattened tensors, the largest difference of the outputs.
    """

    def each(differs: Callable[[np.ndarray, np.ndarray], bool]) -> bool:
        for name, theirs in reference.items():
            ours = port.get(name)
            if ours is None or ours.shape != theirs.shape or not np.isfinite(ours).all():
                return True
            if differs(ours.astype(np.float64), theirs.astype(np.float64)):
                return True
        return False

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float((a * b).sum()) / size if size else float(not a.any() and not b.any())

    return {
        f"allclose(rtol={RELATIVE:g})": each(
            lambda a, b: not np.allclose(a, b, rtol=RELATIVE, atol=1e-8)
        ),
        f"mean difference < {RELATIVE:g} of the mean": each(
            lambda a, b: bool(np.abs(a - b).mean() > RELATIVE * np.abs(b).mean())
        ),
        f"cosine similarity > {LEAST_COSINE:g}": each(lambda a, b: angle(a, b) < LEAST_COSINE),
        f"outputs within {ABSOLUTE:g}": each(lambda a, b: bool(np.abs(a - b).max() > ABSOLUTE)),
    }
