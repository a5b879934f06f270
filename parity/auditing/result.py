"""Turns the measured gaps of an audit into its result: claims, layers, verdict. Numbers only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.claims import Claim, Place, all_hold, claim, margin_claim
from parity.judge import Verdict, least_floor, same_function, same_precision
from parity.localise import Localisation
from parity.measurements import Findings, Largest, Multiple
from parity.metrics import Gap
from parity.names import BY_IDENTITY
from parity.schemas import AUDIT
from parity.trace import Site

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
    `floors` the float64 floors, `reference32` and `floors32` the same of the float32 reference.
    `tensors_converted` counts the weights that the port was given, None where it came with its own;
    `port_source` is a checkpoint of its own, where it was not given the reference's.
    `returned_sha256` is the digest of those that came back, and `tensors_changed` are those that
    the reference does not have so. `effects` are what reading the taps changes, by execution.
    `borders` and `unjudged` are as in `parity.localise.Located`; `not_finite` says which modules
    make the first NaN or infinite numbers, where both sides have some. `changed_by_running` are
    variables of the port that have other values after a run. `assumed` says of each place where
    tensors were paired by their shapes alone how.
    """

    places: Mapping[str, Site]
    floors: Mapping[str, Gap] = field(default_factory=dict)
    function: Mapping[str, Gap] = field(default_factory=dict)
    unpaired: Sequence[str] = ()
    missing: Sequence[str] = ()
    reference32: Mapping[str, Gap] = field(default_factory=dict)
    floors32: Mapping[str, Gap] = field(default_factory=dict)
    executions: dict[str, Precision] = field(default_factory=dict)
    tensors_converted: int | None = 0
    tensors_changed: Sequence[str] = ()
    returned_sha256: str = ""
    port_source: str = ""
    effects: dict[str, dict[str, float]] = field(default_factory=dict)
    borders: Mapping[str, str] = field(default_factory=dict)
    unjudged: Mapping[str, str] = field(default_factory=dict)
    not_finite: Mapping[str, Any] = field(default_factory=dict)
    changed_by_running: Sequence[str] = ()
    assumed: Mapping[str, str] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """What was not compared, and why, a sentence each."""
        alone = (f"{path} by itself: {why}" for path, why in self.unjudged.items())
        seen = (f"{place}, paired by shapes: {how}" for place, how in self.assumed.items())
        return [*(f"{key}: {why}" for key, why in self.borders.items()), *alone, *seen]

    @property
    def differs(self) -> bool:
        """Whether a tap has no counterpart, or the float64 claim fails at any."""
        verdicts = same_function(self.function, self.floors)
        return bool(self.unpaired or self.missing) or not all(one.passed for one in verdicts)


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
    inputs: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    not_verified: Sequence[str]
    timings: Mapping[str, float]
    stage: Callable[[str], str]
    pairing: str = BY_IDENTITY


def build_result(
    measured: Measured,
    localisations: Sequence[Localisation],
    about: About,
    further_claims: Sequence[Claim] = (),
) -> dict[str, Any]:
    """The audit's result object (`parity.schemas.AUDIT`), every figure from `measured`.

    Not yet strict JSON. `further_claims` are judged already.
    """
    function = {v.key: v for v in same_function(measured.function, measured.floors)}
    precision = {
        name: {v.key: v for v in same_precision(run.gaps, measured.reference32, measured.floors32)}
        for name, run in measured.executions.items()
    }
    claims = [*_claims(measured, function, precision, about), *further_claims]
    failed = [
        key
        for key in measured.places
        if any(
            key in by_key and not by_key[key].passed for by_key in (function, *precision.values())
        )
    ]
    unpaired = {"reference": list(measured.missing), "port": list(measured.unpaired)}
    equal = all_hold(claims)
    first = measured.places[failed[0]].path if failed else None
    if not first and localisations:
        first = localisations[0].path
    elif first == "":
        first = "model"
    result = {
        "schema": AUDIT,
        "verdict": "equal" if equal else "different",
        "taps": len(function),
        "unpaired": unpaired,
        "float64": function_summary(function),
        "float32": {name: precision_summary(v) for name, v in precision.items()},
        "first_divergence": first,
        "localisation": localisations[0].to_json() if localisations else None,
        "localisations": [one.to_json() for one in localisations],
        "claims": [one.to_json() for one in claims],
        "layers": _layers(measured, function, precision, about.stage),
        "capture_effect": dict(measured.effects),
        "inputs": list(about.inputs),
        "timings": {name: round(seconds, 3) for name, seconds in about.timings.items()},
        "not_verified": list(about.not_verified),
        "provenance": dict(about.provenance),
    }
    if measured.not_finite:
        result["not_finite"] = dict(measured.not_finite)
    return result


def _claims(
    measured: Measured,
    function: Mapping[str, Verdict],
    precision: Mapping[str, Mapping[str, Verdict]],
    about: About,
) -> list[Claim]:
    command = about.command
    weights = Findings(
        measured.tensors_converted,
        list(measured.tensors_changed),
        beside_it={"returned_sha256": measured.returned_sha256},
    )
    claims = [
        _weights_claim(measured, weights, command),
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
            "and its sums are reordered",
            command,
        ),
    ]
    if measured.tensors_converted is None:
        claims = claims[1:]
    if measured.changed_by_running:
        claims.append(_state_claim(measured.changed_by_running, command))
    for name, verdicts in precision.items():
        claims.append(
            margin_claim(
                f"same_precision_{name}",
                f"In float32 ({name}) no layer is less exact than the reference's own float32",
                verdicts,
                "largest error in units of its limit; the limit is 4 x the error of the float32 "
                "reference against its own float64 run, or its rounding floor where larger",
                command,
            )
        )
        decisions = {v.key: v for v in measured.executions[name].decisions}
        if decisions:
            claims.append(
                margin_claim(
                    f"same_decisions_{name}",
                    f"In float32 ({name}) every query chooses the same class",
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


def _weights_claim(measured: Measured, weights: Findings, command: str) -> Claim:
    """That the port has the reference's weights, bit for bit; where it fails, which it has not."""
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
    changed = list(measured.tensors_changed)
    if one.holds:
        return one
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return one.located(Place(changed[0], ", ".join(changed[:NAMED]) + more))


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
    if one.holds or not localisations:
        return one
    return one.located(Place.at(localisations[0].path), localisations[0].cause)


def _output_error(measured: Measured) -> float:
    """The largest l2 error of an output of the float32 reference, or its floor where larger."""
    return max(
        max(found.l2, least_floor(found, measured.floors32[key], np.float32)["l2"])
        for key, found in measured.reference32.items()
        if measured.places[key].path == "" and measured.places[key].kind == "output"
    )


def _layers(
    measured: Measured,
    function: Mapping[str, Verdict],
    precision: Mapping[str, Mapping[str, Verdict]],
    stage: Callable[[str], str],
) -> list[dict[str, Any]]:
    rows = []
    for key, verdict in function.items():
        tap = measured.places[key]
        row = {
            "key": key,
            "path": tap.path,
            "kind": tap.kind,
            "stage": "input" if tap.path == "" and tap.kind == "input" else stage(tap.path),
            "axes": tap.axes,
            "shape": list(tap.shape),
            "float64": function_figures(verdict) | {"measured_floor": measured.floors[key].l2},
            "float32": {},
        }
        for name, verdicts in precision.items():
            if key not in verdicts:
                continue
            gap = measured.executions[name].gaps[key]
            ulps = gap.ulps or (None, None, None)
            row["float32"][name] = precision_figures(verdicts[key]) | {
                "e_ref": measured.reference32[key].l2,
                "ulp50": ulps[0],
                "ulp99": ulps[1],
                "ulp_max": ulps[2],
            }
        rows.append(row)
    return rows


def nearest(verdicts: Verdicts) -> Verdict:
    """The verdict nearest to its limit, or furthest above it; at least one is needed."""
    return max(verdicts.values(), key=lambda verdict: verdict.margin)


def function_summary(verdicts: Verdicts) -> dict[str, Any]:
    """The largest float64 gap in l2 and its limit, and the tensor nearest to its own limit."""
    worst = max(verdicts, key=lambda key: verdicts[key].measured["l2"][0])
    closest = nearest(verdicts)
    return {
        "worst_gap": verdicts[worst].measured["l2"][0],
        "limit": verdicts[worst].threshold.value,
        "worst_tap": worst,
        "worst_ratio": closest.ratio,
        "nearest_to_limit": {
            "tap": closest.key,
            "metric": closest.metric,
            "value": closest.value,
            "limit": closest.threshold.value,
        },
    }


def precision_summary(verdicts: Verdicts) -> dict[str, Any]:
    """The largest float32 error in units of the reference's own."""
    worst = nearest(verdicts)
    return {
        "worst_ratio": worst.ratio,
        "limit": worst.threshold.value / worst.threshold.floor,
        "worst_tap": worst.key,
        "metric": worst.metric,
    }


def function_figures(verdict: Verdict) -> dict[str, Any]:
    """What the table of layers says of one tensor in float64."""
    return {
        "gap": verdict.measured["l2"][0],
        "gap_max": verdict.measured["max"][0],
        "floor": verdict.threshold.floor,
        "metric": verdict.metric,
        "value": verdict.value,
        "limit": verdict.threshold.value,
        "ratio": verdict.ratio,
        "passed": verdict.passed,
    }


def precision_figures(verdict: Verdict) -> dict[str, Any]:
    """What the table of layers says of one tensor in float32."""
    return {
        "ratio": verdict.ratio,
        "e_port": verdict.measured["l2"][0],
        "metric": verdict.metric,
        "passed": verdict.passed,
    }
