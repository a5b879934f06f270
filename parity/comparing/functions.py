"""Two functions that should compute the same and are no models: a loss, a matcher, a resize."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from parity.calls import fill, flatten, is_array
from parity.claims import Claim, Place, claim, margin_claim, verdict_of
from parity.comparing import causes
from parity.comparing.running import Function, Inputs, Refusal, function_of, named
from parity.errors import InputError
from parity.judge import (
    FUNCTION_FACTOR,
    PRECISION_FACTOR,
    Verdict,
    function_verdict,
    judge_again,
    precision_verdict,
)
from parity.measurements import Findings
from parity.metrics import Gap, gap, perturb_ulp, worst
from parity.provenance import provenance
from parity.results import Result

SEEDS = (0, 1, 2)
TRIES = range(3, 35)
"""Further moved runs where decisions differ: a tie falls the other way in a third of them, and is
seen in one of these but for two in a million."""
Outputs = Mapping[str, np.ndarray]
Cost = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """One case: its name, and name, size and digest of each array that both were given."""

    name: str
    inputs: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Output:
    """One result of one case.

    Args:
        key: `case:result`.
        size: of the reference's.
        discrete: whether it holds decisions, such as integers, and no floats.
        float64, float32: the worst in units of its limit; None where it was not judged.
        detail: where it differs most, and both values there.
        tie: of decisions that are others, and may be: how near their costs are.
    """

    key: str
    size: tuple[int, ...]
    discrete: bool
    float64: float | None
    float32: float | None
    detail: str = ""
    tie: str = ""


@dataclass(frozen=True, kw_only=True)
class FunctionsResult(Result):
    """What comparing two functions found.

    Args:
        cases: what both were given.
        outputs: every result of every case.
        causes: what the port seems to do otherwise, the likeliest first.
        first: the first result that differs, as `case:result`.
    """

    schema: ClassVar[str] = "maskformer-replication/functions/1"

    cases: tuple[Case, ...]
    outputs: tuple[Output, ...]
    causes: tuple[str, ...] = ()
    first: str | None = None


def compare_functions(
    reference: Callable[..., Any],
    port: Callable[..., Any],
    cases: Sequence[Inputs] | Mapping[str, Inputs],
    *,
    cost: Cost | None = None,
    frameworks: tuple[str | None, str | None] = (None, None),
    title: str = "Functions",
    command: str = "parity.compare_functions(reference, port, cases)",
) -> FunctionsResult:
    """Whether two functions give the same for every case: a result for `save`.

    In float64 each float of the port is as near to the reference's as that is to itself where its
    inputs move by one unit in the last place (32 times that, and at most 1e-9); in float32 its
    error is at most 4 times the reference's own. Integers and booleans are decisions: they are the
    same, or the reference decides so too where its inputs are moved, or both decisions cost the
    same up to that rounding.

    Args:
        reference, port: take the arguments of a case as tensors of their framework, or as NumPy
            arrays, and return numbers, tensors or arrays, or any structure of these.
        cases: what both are given, NumPy arrays and other values: a tuple of positional arguments
            or a dictionary of named ones each. Floats are cast to the precision that is compared.
        cost: cost(outputs, *case), with NumPy arrays: what a decision costs, such as the total cost
            of an assignment. `outputs` is what the function returned.
        frameworks: the names of both frameworks, such as "PyTorch" or "NumPy"; None for those that
            the code of the functions names.
        title, command: what a report calls it, and what measures it again.
    Returns: the claims, each with its place and cause; the first says which results both give.
    Raises: InputError where there are no cases, and for a reference that fails in every case or
        gives another result each time.

    Example:
        >>> import numpy
        >>> cases = [(numpy.arange(n, dtype="float32"),) for n in (4, 6)]
        >>> result = parity.compare_functions(numpy.mean, numpy.sum, cases)
        >>> result.verdict, result.causes[0]
        ('different', 'it sums over axis 0 of input `0`, where the reference takes the mean')
    """
    given = named(cases)
    sides = []
    for call, side, framework in zip(
        (reference, port), ("reference", "port"), frameworks, strict=True
    ):
        function = function_of(call, side, framework)
        first = next(iter(given.values()))
        sides.append(function if framework else function.settled(first))
    runs = {name: _Runs.of(*sides, inputs, cost) for name, inputs in given.items()}
    _check(sides[0], given, runs)
    return _result(_Found(sides[0], given, runs, command), title)


@dataclass(frozen=True)
class _Runs:
    """All runs of one case: in each precision the reference's, its moved ones, the port's.

    `costs` has by precision the port's, the reference's and the moved ones' costs; `again` makes
    one more moved run.
    """

    reference: Mapping[str, Outputs | Refusal]
    moved: Mapping[str, Sequence[Outputs | Refusal]]
    port: Mapping[str, Outputs | Refusal]
    costs: Mapping[str, tuple[Any, Any, list[Any]]]
    again: Callable[[str, int], Outputs | Refusal]

    @classmethod
    def of(cls, reference: Function, port: Function, inputs: Inputs, cost: Cost | None) -> "_Runs":
        """Runs both functions on one case."""
        theirs, moved, ours, costs = {}, {}, {}, {}
        for dtype in ("float64", "float32"):
            theirs[dtype] = reference.run(inputs, dtype)
            ours[dtype] = port.run(inputs, dtype)
            others = [_moved(inputs, dtype, seed) for seed in SEEDS]
            moved[dtype] = [reference.run(one, dtype) for one in others]
            if cost is not None:
                costs[dtype] = (
                    _cost(cost, ours[dtype], inputs),
                    _cost(cost, theirs[dtype], inputs),
                    [_cost(cost, theirs[dtype], one) for one in others],
                )

        def again(dtype: str, seed: int) -> Outputs | Refusal:
            return reference.run(_moved(inputs, dtype, seed), dtype)

        return cls(theirs, moved, ours, costs, again)

    @property
    def refusals(self) -> tuple[str | None, str | None]:
        """Why the reference and the port raised, None where they did not."""
        runs = (self.reference["float64"], self.port["float64"])
        theirs, ours = (one.text if isinstance(one, Refusal) else None for one in runs)
        if ours is None and isinstance(self.port["float32"], Refusal):
            ours = f"in float32: {self.port['float32'].text}"
        return theirs, ours


def _moved(inputs: Inputs, dtype: str, seed: int) -> Inputs:
    """The inputs with their floats moved by up to one unit in the last place of `dtype`."""
    template, arrays = flatten(inputs, is_array)
    found = {
        name: perturb_ulp(array.astype(dtype), [seed, index]) if array.dtype.kind == "f" else array
        for index, (name, array) in enumerate(arrays)
    }
    return fill(template, lambda slot: found[slot.name])


def _cost(cost: Cost, outputs: Outputs | Refusal, inputs: Inputs) -> np.ndarray | None:
    """What a decision costs, in float64; None where there is none."""
    if isinstance(outputs, Refusal):
        return None
    template, arrays = flatten(inputs, is_array)
    wide = {name: one.astype("f8") if one.dtype.kind == "f" else one for name, one in arrays}
    inputs = fill(template, lambda slot: wide[slot.name])
    args = inputs if isinstance(inputs, tuple) else tuple(inputs.values())
    made: Any = dict(outputs)
    if list(outputs) == ["result"]:
        made = outputs["result"]
    elif all(name.isdecimal() for name in outputs):
        made = tuple(outputs.values())
    return np.asarray(cost(made, *args), np.float64)


def _check(reference: Function, given: Mapping[str, Inputs], runs: Mapping[str, _Runs]) -> None:
    refused = [one.refusals[0] for one in runs.values()]
    if all(refused):
        raise InputError(
            "the reference fails in every case",
            f"first: {refused[0]}",
            'mend the cases, or say in `frameworks` what it takes, such as ("NumPy", None)',
        )
    for name, one in runs.items():
        theirs = one.reference["float64"]
        again = reference.run(given[name], "float64")
        if isinstance(theirs, Refusal):
            continue
        if not theirs:
            raise InputError(
                f"the reference returns no array and no number for case {name}",
                "there is nothing to compare",
                "return what it computes",
            )
        if isinstance(again, Refusal) or not all(
            np.array_equal(again.get(key), array, equal_nan=array.dtype.kind == "f")
            for key, array in theirs.items()
        ):
            raise InputError(
                f"the reference gives another result each time for case {name}",
                "no port could be compared with it",
                "fix its seed inside, or give what it draws as an argument",
            )


@dataclass
class _Found:
    """What was measured of all cases, judged."""

    reference: Function
    given: Mapping[str, Inputs]
    runs: Mapping[str, _Runs]
    command: str

    def __post_init__(self) -> None:
        self.lacking: list[str] = []
        self.count = 0
        self.function: dict[str, Verdict] = {}
        self.precision: dict[str, Verdict] = {}
        self.decisions: dict[str, dict[str, Verdict]] = {"float64": {}, "float32": {}}
        self.sizes: dict[str, tuple[int, ...]] = {}
        for name, runs in self.runs.items():
            self._judge(name, runs)

    def _judge(self, name: str, runs: _Runs) -> None:
        refusals = runs.refusals
        if any(refusals):
            self.count += 1
            self._refused(name, *refusals)
            return
        theirs, ours = runs.reference["float64"], runs.port["float64"]
        for key, array in theirs.items():
            self.count += 1
            place = f"{name}:{key}"
            if key not in ours:
                self.lacking.append(f"{place} is lacking in the port")
                continue
            if (array.dtype.kind == "f") != (ours[key].dtype.kind == "f"):
                self.lacking.append(f"{place} is {ours[key].dtype} instead of {array.dtype}")
                continue
            self.sizes[place] = array.shape
            if array.dtype.kind == "f":
                self._floats(place, key, runs)
            else:
                for dtype, verdicts in self.decisions.items():
                    verdicts[place] = _decided(place, key, runs, dtype)
        extra = [key for key in ours if key not in theirs]
        self.lacking += [f"{name}:{key} is lacking in the reference" for key in extra]

    def _refused(self, name: str, theirs: str | None, ours: str | None) -> None:
        if not (theirs and ours):
            side, text = ("the reference", theirs) if theirs else ("the port", ours)
            self.lacking.append(f"{name}: {side} alone fails: {text}")

    def _floats(self, place: str, key: str, runs: _Runs) -> None:
        exact = runs.reference["float64"][key]

        def floor(dtype: str) -> Gap:
            found = [gap(one[key], exact) for one in _kept(runs.moved[dtype], key)]
            return worst(found) if found else Gap(0.0, 0.0)

        found = gap(runs.port["float64"][key], exact)
        self.function[place] = function_verdict(place, found, floor("float64"))
        theirs, ours = (one["float32"] for one in (runs.reference, runs.port))
        if not isinstance(theirs, Refusal) and key in theirs and key in ours:
            self.precision[place] = precision_verdict(
                place, gap(ours[key], exact), gap(theirs[key], exact), floor("float32")
            )

    @property
    def failing(self) -> list[Verdict]:
        """The verdicts that fail, float64 before float32."""
        every = (
            self.function,
            self.decisions["float64"],
            self.decisions["float32"],
            self.precision,
        )
        return [one for verdicts in every for one in verdicts.values() if one.fails]

    def outputs(self) -> tuple[Output, ...]:
        """Every result of every case."""
        rows = []
        for place, size in self.sizes.items():
            discrete = place in self.decisions["float64"]
            exact = self.decisions["float64"] if discrete else self.function
            short = self.decisions["float32"] if discrete else self.precision
            one, other = exact[place], short.get(place)
            detail = one.problem or one.detail
            tie = one.detail if discrete and one.passed and one.detail else ""
            rows.append(
                Output(
                    place,
                    size,
                    discrete,
                    one.margin,
                    None if other is None else other.margin,
                    "" if tie else detail,
                    tie,
                )
            )
        return tuple(rows)


def _kept(runs: Sequence[Outputs | Refusal], key: str) -> list[Outputs]:
    return [one for one in runs if not isinstance(one, Refusal) and key in one]


def _decided(place: str, key: str, runs: _Runs, dtype: str) -> Verdict:
    """Whether decisions are the same, or may be others: see `compare_functions`."""

    def verdict(value: float, base: float, detail: str = "", problem: str | None = None) -> Verdict:
        measured = {"margin": (value, base)}
        return judge_again(place, "same_decisions", measured, problem, detail=detail)

    theirs, ours = runs.reference[dtype], runs.port[dtype]
    if (
        isinstance(theirs, Refusal)
        or isinstance(ours, Refusal)
        or not (key in ours and key in theirs)
    ):
        return verdict(0.0, 1.0, f"not compared in {dtype}")
    a, b = ours[key], theirs[key]
    if a.shape != b.shape:
        return verdict(1.0, 1.0, problem=f"shape {list(a.shape)} instead of {list(b.shape)}")
    other = a != b
    if not other.any():
        return verdict(0.0, 1.0)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(other)), other.shape))
    text = (
        f"{int(other.sum())} of {b.size} differ, first at {list(where)}: port {a[where]}, "
        f"reference {b[where]}"
    )
    if dtype in runs.costs:
        return _by_cost(verdict, text, *runs.costs[dtype], dtype)
    for one in (*runs.moved[dtype], *(runs.again(dtype, seed) for seed in TRIES)):
        if not isinstance(one, Refusal) and key in one and one[key].shape == a.shape:
            other &= one[key] != a
        if not other.any():
            text += "; the reference decides so too where its inputs are moved"
            return verdict(0.0, 1.0, text)
    return verdict(1.0, 1.0, text, problem=text)


def _by_cost(
    verdict: Callable[..., Verdict],
    text: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    moved: Sequence[np.ndarray],
    dtype: str,
) -> Verdict:
    """Whether decisions cost the same, up to what moving the inputs changes of that cost."""
    if ours.shape != theirs.shape:
        return verdict(1.0, 1.0, text, problem=f"{text}; their costs have other shapes")
    factor = FUNCTION_FACTOR if dtype == "float64" else PRECISION_FACTOR
    epsilon = float(np.finfo(dtype).eps)
    floor = np.max([np.abs(one - theirs) for one in moved], axis=0)
    limit = factor * np.maximum(floor, epsilon * np.abs(theirs))
    apart = np.abs(ours - theirs)
    ratio = np.divide(apart, limit, out=np.where(apart > 0, np.inf, 0.0), where=limit > 0)
    index = np.unravel_index(int(np.argmax(ratio)), ratio.shape) if ratio.ndim else ()
    costs = f"cost {float(ours[index]):.9g} instead of {float(theirs[index]):.9g}"
    return verdict(float(ratio[index]), 1.0, f"{text}; {costs}")


def _result(found: _Found, title: str) -> FunctionsResult:
    failing = found.failing
    likely = causes.find(found.reference, found.given, _pairs(found, failing)) if failing else []
    claims = _claims(found, likely)
    return FunctionsResult(
        title=title,
        verdict=verdict_of(claims),
        claims=tuple(claims),
        command=found.command,
        provenance=provenance(),
        cases=tuple(Case(name, _described(inputs)) for name, inputs in found.given.items()),
        outputs=found.outputs(),
        causes=tuple(likely),
        first=failing[0].key if failing else None,
    )


def _pairs(found: _Found, failing: Sequence[Verdict]) -> dict[str, dict[str, tuple]]:
    """By result, and case: the port's float64 array and the reference's, where any case differs."""
    keys = dict.fromkeys(one.key.rpartition(":")[2] for one in failing)
    return {
        key: {
            name: (runs.port["float64"][key], runs.reference["float64"][key])
            for name, runs in found.runs.items()
            if f"{name}:{key}" in found.sizes
        }
        for key in keys
    }


def _claims(found: _Found, likely: Sequence[str]) -> list[Claim]:
    command = found.command
    claims = [
        claim(
            "outputs",
            "Both give results of the same names and kinds, and fail in the same cases",
            Findings(found.count, found.lacking),
            "a result that one side lacks cannot be compared",
            command,
        )
    ]
    if found.lacking:
        claims[0] = claims[0].located(Place(found.lacking[0].partition(" ")[0], found.lacking[0]))
    judged = (
        (
            "same_function",
            "In float64 every number agrees to rounding",
            found.function,
            "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
            "reference's own gap when its inputs move by one unit in the last place",
        ),
        (
            "same_decisions_float64",
            "In float64 every decision is the same, or costs the same",
            found.decisions["float64"],
            "a decision may be another where the reference itself decides so when its inputs move "
            "by one unit in the last place, or where the costs differ by no more than 32 x what "
            "that moves them",
        ),
        (
            "same_precision",
            "In float32 no number is less exact than the reference's own float32",
            found.precision,
            "largest error in units of its limit; the limit is 4 x the error of the float32 "
            "reference against its own float64 run, or its rounding floor where larger",
        ),
        (
            "same_decisions_float32",
            "In float32 every decision is the same, or costs the same",
            found.decisions["float32"],
            "as in float64, with the units of float32 and 4 x what they move",
        ),
    )
    for identity, heading, verdicts, derivation in judged:
        if verdicts:
            one = margin_claim(identity, heading, verdicts, derivation, command)
            claims.append(_placed(one, verdicts, likely))
    return claims


def _placed(one: Claim, verdicts: Mapping[str, Verdict], likely: Sequence[str]) -> Claim:
    """A claim that fails, with the first case and element that does."""
    if not one.fails:
        return one
    first = next(v for v in verdicts.values() if v.fails)
    case, _, key = first.key.rpartition(":")
    what = first.problem or first.detail
    text = f"case {case}, {key}" + (f": {what}" if what else "")
    return replace(one, place=Place(first.key, text), causes=tuple(likely))


def _described(inputs: Inputs) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (
            name or "input",
            "x".join(map(str, array.shape)),
            hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(),
        )
        for name, array in flatten(inputs, is_array)[1]
    )
