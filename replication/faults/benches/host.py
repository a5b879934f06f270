"""What runs on the host on both sides, compared result by result: where they part, and why.

A side's results are a mapping of (place, case) to arrays or tuples, in the order in which they are
computed. The first place that differs is the one at fault; its cause is an edit of the reference's
source, or another setting, with which the reference gives the port's results.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from parity.causes.source import Mistake, explained
from parity.claims import Claim, Place, claim
from parity.faults import conventional
from parity.measurements import Findings
from replication.faults.benches.finding import broken, of_claims

Results = Mapping[tuple[str, str], Any]
EXPLAINED = 1e-9  # relative; what is left of a difference when the mistake is made on purpose
MOST_NUMBERS = 24


@dataclass(frozen=True)
class Part:
    """One part of the program, run by both sides on the same inputs.

    Args:
        name: of the part, such as `data`; also of its claim.
        title: of its claim.
        expected: the reference's results.
        run: computes at least the reference's results of these keys, with the code as it is now.
        functions: the reference's functions in which a mistake may be made, by place; "" for all;
            none for a place at which only `known` mistakes are tried.
        settings: the reference's settings, whose values may be mistaken.
        known: mistakes that are no edit of one expression, by place.
        limits: by key, the largest relative gap (l2) of floating point results; others are equal.
        together: places of which a mistake explains either all or none, beside those of one stage.
        first: chooses the place at fault among those that differ, by default the first.
    """

    name: str
    title: str
    expected: Results
    run: Callable[[Sequence[tuple[str, str]]], Results]
    functions: Mapping[str, Sequence[Callable]]
    settings: Sequence[Any] = ()
    known: Callable[[str], Sequence[Mistake]] = lambda place: ()
    limits: Mapping[tuple[str, str], float] | None = None
    together: Collection[str] = ()
    first: Callable[[Results, Results, list[tuple[str, str]]], str] | None = None


def part_claim(part: Part, found: Results, command: str) -> Claim:
    """The claim that the port's results are the reference's; where it fails, with place and causes.

    `found` lacks what the port could not compute.
    """
    wrong = differing(part, found)
    one = claim(
        f"host_{part.name}",
        part.title,
        Findings(len(part.expected), [": ".join(key) for key in wrong]),
        "results that differ from the reference's: numbers by more than its own rounding, "
        "decisions at all",
        command,
    )
    if one.holds:
        return one
    choose = part.first or (lambda expected, found, wrong: wrong[0][0])
    place = choose(part.expected, found, wrong)
    causes = _causes(part, found, place)
    return one.located(Place.at(part.name, place), *causes)


def differing(part: Part, found: Results) -> list[tuple[str, str]]:
    """The keys whose results differ, or that the port lacks, in the order of computation."""
    limits = part.limits or {}
    return [
        key
        for key, value in part.expected.items()
        if key not in found or not _equal(found[key], value, limits.get(key, 0.0))
    ]


def _equal(ours: Any, theirs: Any, limit: float) -> bool:
    """Whether floats differ by at most `limit`, relative, and all else by nothing."""
    if isinstance(theirs, np.ndarray):
        ours = np.asarray(ours)
        if ours.shape != theirs.shape or ours.dtype.kind != theirs.dtype.kind:
            return False
        if theirs.dtype.kind != "f":
            return bool((ours == theirs).all())
        finite = np.isfinite(theirs)  # any number would be near enough to an infinite one
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            return False
        ours, theirs = ours[finite], theirs[finite]
        size = float(np.linalg.norm(theirs)) or 1.0
        return bool(np.linalg.norm(ours - theirs) <= limit * size)
    if isinstance(theirs, float) and isfinite(theirs):
        return abs(ours - theirs) <= limit * (abs(theirs) or 1.0)
    return ours == theirs or (ours != ours and theirs != theirs)


def _causes(part: Part, found: Results, place: str) -> list[str]:
    from parity.causes.source import setting_mistakes, shared_mistakes

    functions = part.functions.get(place, part.functions.get("", ()))
    wanted = {key: value for key, value in found.items() if key[0] == place}
    wrong = [key for key in differing(part, found) if key in wanted]
    # What differs by rounding alone, any mistake that hardly matters would explain.
    wrong = [key for key in wrong if not _equal(found[key], part.expected[key], EXPLAINED)]
    if not wrong:
        return []

    def run() -> Results:
        """One result that differs, and where a mistake explains it, all others; none where the
        reference does not make it by itself."""
        one = part.run(wrong[:1])
        if wrong[0] not in one or not _equal(wanted[wrong[0]], one[wrong[0]], EXPLAINED):
            return {}
        return part.run(list(wanted))

    def same(results: Results) -> bool:
        return all(
            key in results and _equal(value, results[key], EXPLAINED)
            for key, value in wanted.items()
        )

    # Of one stage, "draws Crop" and "draws Flip", a mistake should explain all.
    stage = place.split()[0]
    kin = {
        key: value
        for key, value in found.items()
        if key[0].split()[0] == stage or {place, key[0]}.issubset(part.together)
    }

    def complete() -> bool:
        results = part.run(list(kin))
        return all(
            key in results and _equal(value, results[key], EXPLAINED) for key, value in kin.items()
        )

    numbers = _numbers(wanted.values())
    others = [*part.known(place)]
    if functions:
        others += shared_mistakes(part.settings, numbers)
        others += (one for each in part.settings for one in setting_mistakes(each, numbers))
    seen = observed(wanted, {key: part.expected[key] for key in wanted if key in part.expected})
    if seen:
        return seen
    return explained(run, same, functions, numbers, others, complete)


def observed(ours: Results, theirs: Results) -> list[str]:
    """What holds of all of the port's arrays by comparison with the reference's, in words."""
    pairs = [
        (ours[key], value)
        for key, value in theirs.items()
        if isinstance(value, np.ndarray) and isinstance(ours.get(key), np.ndarray)
    ]
    different = [(a, b) for a, b in pairs if a.shape != b.shape or (a != b).any()]
    if not different:
        return []
    texts = []
    if all(a.ndim == 3 and a.shape[0] == a.shape[1] for a, _ in pairs) and any(
        b.shape[0] != b.shape[1] for _, b in pairs
    ):
        side = pairs[0][0].shape[0]
        texts.append(f"every one is a square of {side}, whatever the photograph's shape")
    for text, change in _CHANGES:
        if all(_same(a, change(b)) for a, b in different):
            texts.append(f"where it differs, it is the reference's {text}")
    return texts


def _same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.shape == theirs.shape and bool((ours == theirs).all())


def _negative(x: np.ndarray) -> np.ndarray:
    """The negative of levels; zeros after their last row and column stay, which pad them."""
    if x.dtype != np.uint8 or x.ndim != 3 or not x.any():
        return x
    rows, columns = (np.flatnonzero(x.any(axis=axes))[-1] + 1 for axes in ((1, 2), (0, 2)))
    negative = x.copy()
    negative[:rows, :columns] = 255 - x[:rows, :columns]
    return negative


_CHANGES: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("with its three channels reversed", lambda x: x[..., ::-1] if x.shape[-1:] == (3,) else x),
    ("subtracted from 255, beside what pads it", _negative),
    ("upside down", lambda x: x[::-1]),
    ("with left and right exchanged", lambda x: x[:, ::-1] if x.ndim > 1 else x),
    ("turned by 180 degrees", lambda x: x[::-1, ::-1] if x.ndim > 1 else x),
    ("transposed", lambda x: np.swapaxes(x, 0, 1) if x.ndim > 1 else x),
    ("plus 1", lambda x: x + 1 if x.dtype.kind in "iu" else x),
    ("minus 1", lambda x: x - 1 if x.dtype.kind in "iu" else x),
    ("plus 1 where that is not 0", lambda x: np.where(x != 0, x + 1, x)),
    ("with zeros alone", np.zeros_like),
)


def _numbers(values: Iterable[Any]) -> list[float]:
    """Numbers that the port's own results show, which may be constants of it."""
    met: dict[float, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, tuple | list):
            for one in value:
                visit(one)
        elif isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            met[value] = met.get(value, 0) + 1

    for value in values:
        visit(value)
    return sorted(met, key=lambda one: -met[one])[:MOST_NUMBERS]


def customary(part: Part, found: Results) -> dict[str, bool]:
    """What customary checks would notice in the arrays of both sides."""

    def arrays(results: Results) -> dict[str, np.ndarray]:
        return {
            "/".join(key): value.astype(np.float64)
            for key, value in results.items()
            if isinstance(value, np.ndarray)
        }

    return conventional(arrays(found), arrays(part.expected))


def audited(part: Part, port: Callable[[], Results]) -> Any:
    """What the claim on one part says of the port as it is now; a port that breaks is noticed."""
    try:
        found = port()
    except Exception as error:
        return broken(part.name, error)
    return of_claims([part_claim(part, found, "")], customary(part, found))
