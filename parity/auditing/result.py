"""Turns the measured gaps of an audit into its result: claims, layers, verdict. Numbers only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from parity.claims import Claim, Place, claim, margin_claim, verdict_of
from parity.judge import (
    BFLOAT16,
    MARGINAL,
    PRECISION_FACTOR,
    Verdict,
    least_floor,
    same_function,
    same_precision,
)
from parity.localise import Localisation
from parity.measurements import Findings, Largest, Multiple
from parity.metrics import Gap
from parity.names import BY_IDENTITY
from parity.results import Result
from parity.trace import Site, module_of, shown
from parity.weights.standing import EXTRA, ORDER, by_pattern, condensed

Verdicts = Mapping[str, Verdict]
NAMED = 3  # tensors that a claim's place names


@dataclass(frozen=True)
class Precision:
    """What one float32 execution measured: gaps by key, and decisions where they were compared."""

    gaps: Mapping[str, Gap]
    decisions: Sequence[Verdict] = ()
    unpaired: Sequence[str] = ()
    missing: Sequence[str] = ()


@dataclass
class Measured:
    """Everything an audit measured, before it is judged; numbers only, no tensor is kept.

    `places` are the reference's taps (`Trace.places`), `function` are the float64 port's gaps,
    `floors` the float64 floors, `reference32` and `floors32` the same of the float32 reference,
    `reference16` and `floors16` of the one in bfloat16.
    `tensors_converted` counts the weights that the port was given, None where it came with its own;
    `port_source` is a checkpoint of its own, where it was not given the reference's.
    `returned_sha256` is the digest of those that came back, `tensors_changed` are those that the
    reference does not have so and `tensors_lacking` those without a counterpart, each by name to
    its kind (`parity.weights.standing`). `effects` are what reading the taps changes, by execution.
    `borders` and `unjudged` are as in `parity.localise.Located`; `not_finite` says which modules
    make the first NaN or infinite numbers, where both sides have some. `changed_by_running` are
    variables of the port that have other values after a run; `by_default` how many variables and
    outputs there are, and those that are others where nobody says whether it trains. `assumed` says
    of each place where tensors were paired by their shapes alone how. `kept` are, by side, the
    casts to float32 that were kept in float64, as (line of source, what) to how often.
    """

    places: Mapping[str, Site]
    floors: Mapping[str, Gap] = field(default_factory=dict)
    function: Mapping[str, Gap] = field(default_factory=dict)
    unpaired: Sequence[str] = ()
    missing: Sequence[str] = ()
    reference32: Mapping[str, Gap] = field(default_factory=dict)
    floors32: Mapping[str, Gap] = field(default_factory=dict)
    reference16: Mapping[str, Gap] = field(default_factory=dict)
    floors16: Mapping[str, Gap] = field(default_factory=dict)
    executions: dict[str, Precision] = field(default_factory=dict)
    tensors_converted: int | None = 0
    tensors_changed: Mapping[str, str] = field(default_factory=dict)
    tensors_lacking: Mapping[str, str] = field(default_factory=dict)
    returned_sha256: str = ""
    port_source: str = ""
    effects: dict[str, dict[str, float]] = field(default_factory=dict)
    borders: Mapping[str, str] = field(default_factory=dict)
    unjudged: Mapping[str, str] = field(default_factory=dict)
    not_finite: Mapping[str, Any] = field(default_factory=dict)
    changed_by_running: Sequence[str] = ()
    by_default: tuple[int, Sequence[str]] = (0, ())
    assumed: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, Mapping[tuple[str, str], int]] = field(default_factory=dict)

    def own(self, execution: str) -> tuple[Mapping[str, Gap], Mapping[str, Gap]]:
        """The reference's own errors, and its floors, in the precision of an execution."""
        if execution == BFLOAT16:
            return self.reference16, self.floors16
        return self.reference32, self.floors32

    @property
    def remarks(self) -> list[str]:
        """What was not compared, and why, a sentence each."""
        alone = (f"{path} by itself: {why}" for path, why in self.unjudged.items())
        seen = (f"{place}, paired by shapes: {how}" for place, how in self.assumed.items())
        return [*(f"{key}: {why}" for key, why in self.borders.items()), *alone, *seen]

    @property
    def marginal(self) -> bool:
        """Whether some float32 error is above its limit, and none is far above it."""
        failing = [
            verdict.margin
            for name, run in self.executions.items()
            if name != BFLOAT16
            for verdict in same_precision(run.gaps, self.reference32, self.floors32)
            if verdict.fails
        ]
        return bool(failing) and max(failing) <= MARGINAL

    @property
    def undecided(self) -> bool:
        """Whether rounding alone may be what some taps differ by, and no tap differs by more."""
        verdicts = same_function(self.function, self.floors)
        wrong = any(one.fails for one in verdicts)
        return not wrong and any(one.undecided for one in verdicts)

    @property
    def differing(self) -> list[str]:
        """Keys of the taps that have no counterpart, or where the float64 claim fails."""
        verdicts = same_function(self.function, self.floors)
        wrong = [one.key for one in verdicts if not one.passed]
        return [*self.missing, *self.unpaired, *wrong]


@dataclass(frozen=True)
class About:
    """What a result says of itself beside what was measured.

    Args:
        command: measures it again.
        inputs: what both models were given: name, size and sha256 of each.
        provenance: where the numbers come from.
        not_verified: what the audit leaves open, a sentence each.
        timings: seconds by step.
        stage: gives the part of the model that a module's path belongs to.
        pairing: how the taps of both sides were paired.
    """

    command: str
    inputs: Sequence["Input"]
    provenance: Mapping[str, Any]
    not_verified: Sequence[str]
    timings: Mapping[str, float]
    stage: Callable[[str], str]
    pairing: str = BY_IDENTITY


@dataclass(frozen=True)
class Input:
    """One array or picture that both models were given: its size as text, and its digest."""

    name: str
    size: str
    sha256: str


@dataclass(frozen=True)
class Nearest:
    """The tensor nearest to its float64 limit, and the metric that is."""

    tap: str
    metric: str
    value: float
    limit: float


@dataclass(frozen=True)
class FunctionSummary:
    """The largest float64 gap in l2 and its limit, and the tensor nearest to its own limit."""

    worst_gap: float
    limit: float
    worst_tap: str
    worst_ratio: float
    nearest_to_limit: Nearest

    @classmethod
    def of(cls, verdicts: Verdicts) -> "FunctionSummary":
        """That of verdicts on the float64 claim, of which at least one is needed."""
        worst = max(verdicts, key=lambda key: verdicts[key].measured["l2"][0])
        closest = nearest(verdicts)
        return cls(
            verdicts[worst].measured["l2"][0],
            verdicts[worst].threshold.value,
            worst,
            closest.ratio,
            Nearest(closest.key, closest.metric, closest.value, closest.threshold.value),
        )


@dataclass(frozen=True)
class PrecisionSummary:
    """The largest float32 error in units of the reference's own."""

    worst_ratio: float
    limit: float
    worst_tap: str
    metric: str

    @classmethod
    def of(cls, verdicts: Verdicts) -> "PrecisionSummary":
        """That of verdicts on one execution's precision, of which at least one is needed."""
        worst = nearest(verdicts)
        limit = worst.threshold.value / worst.threshold.floor
        return cls(worst.ratio, limit, worst.key, worst.metric)


@dataclass(frozen=True)
class FunctionFigures:
    """What the table of layers says of one tensor in float64."""

    gap: float
    gap_max: float
    floor: float
    metric: str
    value: float
    limit: float
    ratio: float
    passed: bool
    measured_floor: float | None = None

    @classmethod
    def of(cls, verdict: Verdict, measured_floor: float | None) -> "FunctionFigures":
        """Those that follow from its verdict."""
        return cls(
            verdict.measured["l2"][0],
            verdict.measured["max"][0],
            verdict.threshold.floor,
            verdict.metric,
            verdict.value,
            verdict.threshold.value,
            verdict.ratio,
            verdict.passed,
            measured_floor,
        )


@dataclass(frozen=True, kw_only=True)
class PrecisionFigures:
    """What the table of layers says of one tensor in float32; ulp: units in the last place."""

    ratio: float
    e_port: float
    metric: str
    passed: bool
    e_ref: float | None = None
    ulp50: int | None = None
    ulp99: int | None = None
    ulp_max: int | None = None

    @classmethod
    def of(cls, verdict: Verdict, **more: Any) -> "PrecisionFigures":
        """Those that follow from its verdict; `more` are the others."""
        return cls(
            ratio=verdict.ratio,
            e_port=verdict.measured["l2"][0],
            metric=verdict.metric,
            passed=verdict.passed,
            **more,
        )


@dataclass(frozen=True)
class Layer:
    """One tensor that was compared: where it is, and what was measured of it, by execution."""

    key: str
    path: str
    kind: str
    stage: str
    axes: str
    shape: tuple[int, ...]
    float64: FunctionFigures
    float32: Mapping[str, PrecisionFigures]


@dataclass(frozen=True)
class Unpaired:
    """The tensors that only one side has."""

    reference: tuple[str, ...]
    port: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AuditResult(Result):
    """What the audit of a pair found.

    Args:
        taps: how many tensors were compared in float64; `unpaired` have no counterpart.
        float64, float32: the worst of all tensors, float32 by execution.
        first_divergence: the module of the first tensor above its limit.
        localisations: the places at fault, in the reference's order of execution.
        layers: every tensor, in the reference's order of execution.
        capture_effect: what reading the taps changed, by execution.
        inputs: what both models were given.
        timings: seconds by step.
        not_verified: what the audit leaves open, a sentence each.
        witness: what only the caller measured beside, by name.
        not_finite: the module that makes the first NaN or infinite numbers that both have.
        kept_in_float64: the casts to float32 that were kept from leaving float64: side, line of
            source, what, and how often.
    """

    schema: ClassVar[str] = "maskformer-replication/audit/2"
    derived: ClassVar[tuple[str, ...]] = ("localisation",)

    taps: int
    unpaired: Unpaired
    float64: FunctionSummary
    float32: Mapping[str, PrecisionSummary]
    first_divergence: str | None
    localisations: tuple[Localisation, ...]
    claims: tuple[Claim, ...]
    layers: tuple[Layer, ...]
    capture_effect: Mapping[str, Mapping[str, float]]
    inputs: tuple[Input, ...]
    timings: Mapping[str, float]
    not_verified: tuple[str, ...]
    witness: Mapping[str, Any] = field(default_factory=dict)
    not_finite: Mapping[str, Any] = field(default_factory=dict)
    kept_in_float64: tuple[Mapping[str, Any], ...] = ()

    @property
    def localisation(self) -> Localisation | None:
        """The first place at fault, None where none was found."""
        return self.localisations[0] if self.localisations else None


def build_result(
    measured: Measured,
    localisations: Sequence[Localisation],
    about: About,
    further_claims: Sequence[Claim] = (),
) -> AuditResult:
    """The audit's result, every figure from `measured`; `further_claims` are judged already."""
    gaps = {key: measured.function[key] for key in measured.places if key in measured.function}
    function = {v.key: v for v in same_function(gaps, measured.floors)}
    precision = {
        name: {
            v.key: v
            for v in same_precision(run.gaps, *measured.own(name), dtype=precision_of(name))
        }
        for name, run in measured.executions.items()
    }
    claims = (*_claims(measured, function, precision, localisations, about), *further_claims)
    failed = [
        key
        for key in measured.places
        if any(key in by_key and by_key[key].fails for by_key in (function, *precision.values()))
    ]
    first = measured.places[failed[0]].path if failed else None
    if not first and localisations:
        first = localisations[0].path
    elif first == "":
        first = "model"
    return AuditResult(
        verdict=verdict_of(claims),
        taps=len(function),
        unpaired=Unpaired(tuple(measured.missing), tuple(measured.unpaired)),
        float64=FunctionSummary.of(function),
        float32={name: PrecisionSummary.of(v) for name, v in precision.items()},
        first_divergence=first,
        localisations=tuple(localisations),
        claims=claims,
        layers=tuple(_layers(measured, function, precision, about.stage)),
        capture_effect=dict(measured.effects),
        inputs=tuple(about.inputs),
        timings={name: round(seconds, 3) for name, seconds in about.timings.items()},
        not_verified=tuple(about.not_verified),
        provenance=dict(about.provenance),
        not_finite=dict(measured.not_finite),
        kept_in_float64=tuple(
            {"side": side, "line": line, "what": what, "times": times}
            for side, found in measured.kept.items()
            for (line, what), times in found.items()
        ),
    )


def _claims(
    measured: Measured,
    function: Mapping[str, Verdict],
    precision: Mapping[str, Mapping[str, Verdict]],
    localisations: Sequence[Localisation],
    about: About,
) -> list[Claim]:
    command = about.command
    claims = [
        _weights_claim(measured, function, localisations, command),
        claim(
            "pairing",
            "Every tensor that goes into or comes out of a module has its counterpart",
            Findings(len(measured.places), [*measured.missing, *measured.unpaired]),
            about.pairing,
            command,
        ),
        margin_claim(
            "same_function",
            "Both compute the same function: in float64 every layer agrees to rounding",
            function,
            "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
            "reference's own gap when its inputs and weights move by one unit in the last place "
            "and its sums are reordered; what lies between 1e-9 and 32 x floor is not decided",
            command,
        ),
    ]
    if measured.tensors_converted is None:
        claims = claims[1:]
    if measured.changed_by_running:
        claims.append(_state_claim(measured.changed_by_running, command))
    if measured.by_default[0]:
        claims.append(_default_claim(*measured.by_default, command))
    for name, verdicts in precision.items():
        said = precision_of(name)
        said = f"{said} ({name})" if said != name else said
        claims.append(
            margin_claim(
                f"same_precision_{name}",
                f"In {said} no layer is less exact than the reference's own {precision_of(name)}",
                verdicts,
                f"largest error in units of its limit; the limit is 4 x the error of the "
                f"{precision_of(name)} reference against its own float64 run, or its rounding "
                "floor where larger",
                command,
            )
        )
        decisions = {v.key: v for v in measured.executions[name].decisions}
        if decisions:
            claims.append(
                margin_claim(
                    f"same_decisions_{name}",
                    f"In {said} every query chooses the same class",
                    decisions,
                    "the reference's largest margin among other choices, in units of twice the "
                    "error that the precision claim allows",
                    command,
                )
            )
    for name, effects in measured.effects.items():
        if "same program" in effects:
            claims.append(
                claim(
                    f"capture_{name}",
                    f"Reading the taps changes no output bit ({name})",
                    Largest({"same program": effects["same program"]}, 0),
                    "the same program must give the same bits, whether its taps are read or not",
                    command,
                )
            )
        if "production" in effects:
            limit = Multiple("float32_ratio", _output_error(measured))
            claims.append(
                claim(
                    f"production_{name}",
                    f"Run without taps ({name}), outputs change by no more than rounding",
                    Largest({"production": effects["production"]}, limit),
                    "without taps the compiler fuses more; the limit is 4 x the float32 "
                    "reference's own error of that output",
                    command,
                )
            )
    return claims


def _weights_claim(
    measured: Measured,
    function: Mapping[str, Verdict],
    places: Sequence[Localisation],
    command: str,
) -> Claim:
    """That the port has the reference's weights, bit for bit; where it fails, which it has not."""
    changed = measured.tensors_changed
    doubtful = {name: kind for name, kind in changed.items() if kind == ORDER}
    lacking = _needed(measured.tensors_lacking, function, places)
    wrong = {name: kind for name, kind in changed.items() if name not in doubtful}
    wrong |= _needed(doubtful, function, places) | lacking
    weights = Findings(
        (measured.tensors_converted or 0) + len(lacking),
        list(wrong),
        beside_it={"returned_sha256": measured.returned_sha256},
    )
    if measured.port_source:
        title = "The port's own checkpoint holds the reference's weights, bit for bit"
        derivation = (
            f"every tensor of {measured.port_source}, in the reference's layout: a conversion "
            "moves axes and never values"
        )
    else:
        title = "Every weight is converted exactly once and comes back bit for bit"
        derivation = (
            "a layout rule moves axes and never values: no tensor may change on the way back"
        )
    one = claim("weights", title, weights, derivation, command)
    if not one.fails:
        return one
    patterns = condensed(wrong)
    more = f" and {len(patterns) - NAMED} more" if len(patterns) > NAMED else ""
    place = Place(next(iter(wrong)), ", ".join(patterns[:NAMED]) + more)
    return one.located(place, "; ".join(by_pattern(wrong)))


def _needed(
    doubtful: Mapping[str, str],
    function: Mapping[str, Verdict],
    places: Sequence[Localisation],
) -> dict[str, str]:
    """Of weights without a counterpart, or in another order, those that are wrong: the module that
    uses them, or the nearest around it of which a tensor is compared, computes something else.

    Where modules were judged alone that is a place at fault, else one whose tensors differ.
    """
    wrong = {one.path for one in places}
    passed: dict[str, bool] = {}
    for key, verdict in function.items():
        module = module_of(key)
        if places:
            passed[module] = module not in wrong
        elif key.partition(":")[2].startswith("output"):
            passed[module] = passed.get(module, True) and not verdict.fails

    def is_wrong(name: str) -> bool:
        path = name
        while path:
            path = path.rpartition(".")[0]
            if shown(path) in passed:
                return not passed[shown(path)]
        return True

    return {name: kind for name, kind in doubtful.items() if kind != EXTRA and is_wrong(name)}


def _state_claim(changed: Sequence[str], command: str) -> Claim:
    """That a run changes no variable of the port; fails, at the layer of the first that it does."""
    one = claim(
        "unchanged_state",
        "A run leaves every variable of the port as it was",
        Findings(len(changed), list(changed)),
        "checksums of all variables before and after a run that is told not to train",
        command,
    )
    layer, _, name = changed[0].rpartition(".")
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return one.located(
        Place(layer or "model", f"{layer or 'model'} of the port: {name}{more}"),
        "the layer runs in training mode, such as a batch norm that updates its statistics",
    )


def _default_claim(count: int, others: Sequence[str], command: str) -> Claim:
    """That a call which does not say whether the port trains is one that does not train."""
    one = claim(
        "untrained_by_default",
        "Called without saying whether it trains, the port computes the same and keeps its state",
        Findings(count, list(others)),
        "outputs and variables after a call without `training`, beside those of one that is told "
        "not to train",
        command,
    )
    if not one.fails:
        return one
    layer, _, name = others[0].rpartition(".")
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return one.located(
        Place(layer or "model", f"{layer or 'model'} of the port: {name}{more}"),
        "a layer trains by default, and those that are called after it do as well; call the model "
        "with training=False",
    )


def isolated_claim(
    verdicts: Mapping[str, Verdict], localisations: Sequence[Localisation], command: str
) -> Claim:
    """That every module, run alone, has no error of its own; where it fails, the first place."""
    one = margin_claim(
        "isolated_function",
        "Given the reference's inputs, every module alone computes the same in float64",
        verdicts,
        "largest gap in units of its limit; the limit is min(32 x floor, 1e-9), the floor the "
        "rounding of one number, or where a module is beyond that, the reference's own gap when "
        "that module's roundings are moved",
        command,
    )
    if not one.fails or not localisations:
        return one
    return one.located(Place.at(localisations[0].path), localisations[0].cause)


def _output_error(measured: Measured) -> float:
    """The largest l2 error of an output of the float32 reference, or its floor where larger."""
    return max(
        max(found.l2, least_floor(found, measured.floors32[key], "float32")["l2"])
        for key, found in measured.reference32.items()
        if measured.places[key].path == "" and measured.places[key].kind == "output"
    )


def _layers(
    measured: Measured,
    function: Mapping[str, Verdict],
    precision: Mapping[str, Mapping[str, Verdict]],
    stage: Callable[[str], str],
) -> Iterator[Layer]:
    for key, verdict in function.items():
        tap = measured.places[key]
        found = {}
        for name, verdicts in precision.items():
            if key in verdicts:
                ulps = measured.executions[name].gaps[key].ulps or (None, None, None)
                found[name] = PrecisionFigures.of(
                    verdicts[key],
                    e_ref=measured.own(name)[0][key].l2,
                    ulp50=ulps[0],
                    ulp99=ulps[1],
                    ulp_max=ulps[2],
                )
        yield Layer(
            key,
            tap.path,
            tap.kind,
            "input" if tap.path == "" and tap.kind == "input" else stage(tap.path),
            tap.axes,
            tuple(tap.shape),
            FunctionFigures.of(verdict, measured.floors[key].l2),
            found,
        )


def nearest(verdicts: Verdicts) -> Verdict:
    """The verdict nearest to its limit, or furthest above it; at least one is needed."""
    return max(verdicts.values(), key=lambda verdict: verdict.margin)


def precision_of(execution: str) -> str:
    """The precision that an execution computes in."""
    return BFLOAT16 if execution == BFLOAT16 else "float32"


def score_error(key: str, measured: Measured, execution: str) -> float:
    """The largest absolute error of one score that the precision claim allows."""
    own, floor = (by_key[key] for by_key in measured.own(execution))
    return PRECISION_FACTOR * max(own.max, floor.max) * own.rms
