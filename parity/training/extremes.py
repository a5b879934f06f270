"""The claims on a loss whose outputs are extreme: saturated, far from 0, all the same.

What clips probabilities, takes the logarithm of one that is rounded to 0, or lets an exponential
overflow is right on usual outputs.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from parity.judge import (
    FUNCTION_FACTOR,
    PRECISION_FACTOR,
    Verdict,
    gradient_verdict,
    precision_verdict,
)
from parity.judging.extremes import USUAL, extreme, not_finite
from parity.metrics import Gap, failed, gap, perturb_ulp, worst
from parity.pairing import align, tap_gap
from parity.trace import Tap
from parity.training.loss_causes import bounds
from parity.training.measured import NOTHING_DROPPED, Floored, ReferenceStep
from parity.training.precision import fewer_digits
from parity.training.sides import Side

IN_FLOAT32 = (USUAL, "up to 30", "up to 100", "up to 1000")
"""Without outputs that are alike: sums of terms that are alike round all in one direction, by how
much depends on their order alone."""
ALIKE = "all 3"
KINDS = ("up to 30", "up to 100", "up to 1000", "around a mean of 10000", ALIKE)
NOTHING = 1e-30  # a gradient as small as this is none, where the reference's is exactly none
NO_FLOOR = Gap(0.0, 0.0)
SEEDS = (0, 1, 2, 3)  # of the moved runs by which a gap beyond one rounding is judged
PIXELS = "DHW"
"""Names of axes along which pixels lie."""
Values = Mapping[str, Tap | np.ndarray]
Turn = Callable[[Values], Values]


def extreme_loss_claim(
    step: ReferenceStep, port: Side, recorder: Any, command: str, turn: Turn | None = None
) -> list[Claim]:
    """That on extreme outputs every term of the loss and its gradients are the same in float64.

    `recorder` is the port's, of its forward pass; `turn` as of `moved_gaps`. No claim where the
    reference's loss cannot be computed on any.
    """
    verdicts: dict[str, Verdict] = {}
    wrong: list[tuple[str, tuple[Any, Any, Any]]] = []
    for kind, taps, exact in _cases(step, KINDS):
        ours = on_outputs(port, recorder, taps, "eager")
        gaps = _gaps(ours, exact)
        names = {key: f"{key} given outputs {kind}" for key in gaps}
        found = {key: gradient_verdict(names[key], one, NO_FLOOR) for key, one in gaps.items()}
        if any(one.fails for one in found.values()):
            floors = moved_gaps(step.side, step.forward, taps, exact, turn)
            if kind == ALIKE:
                floors = {key: worst((one, _of_alike(taps))) for key, one in floors.items()}
            found = {
                key: gradient_verdict(names[key], one, floors[key]) for key, one in gaps.items()
            }
        failing = [key for key, one in found.items() if one.fails]
        if failing:
            wrong.append((f"{', '.join(failing[:3])} given outputs {kind}", (taps, ours, exact)))
        verdicts |= {one.key: one for one in found.values()}
    if not verdicts:
        return []
    one = margin_claim(
        "train_losses_extreme",
        "On extreme outputs every term of the loss and what it passes back are the same in float64",
        verdicts,
        "largest gap in units of its limit, min(32 x floor, 1e-9); the floor is the rounding of "
        "one number, or where a term is beyond that, the reference's own gap when outputs move "
        "by one unit in the last place; where all outputs are alike, the limit is at least one "
        "rounding for each of them",
        command,
    )
    if not wrong:
        return [one]
    tried = (_causes(step, port, recorder, case) for _, case in wrong)
    return [one.located(Place.at("loss", wrong[0][0]), *next(filter(None, tried), ()))]


def _of_alike(taps: Mapping[str, Tap]) -> Gap:
    """The floor of sums of terms that are alike, whose roundings all go in one direction.

    In one order of such a sum n terms lose up to n - 1 roundings, in another none (Higham, Accuracy
    and Stability of Numerical Algorithms, 4.2); moved outputs are not alike, and show nothing of
    it.
    """
    count = max(tap.array.size for tap in taps.values())
    least = count * float(np.finfo(np.float64).eps) / 2 / FUNCTION_FACTOR
    return Gap(least, least)


def extreme_precision_claim(
    step: ReferenceStep,
    sides: tuple[Side, Side],
    execution: str,
    command: str,
    turn: Turn | None = None,
) -> list[Claim]:
    """The same in float32: as exact as the reference's own; `sides` are both in float32."""
    single, port = sides
    recorders = [recorded(one) for one in sides]
    verdicts: dict[str, Verdict] = {}
    for kind, taps, exact in _cases(step, IN_FLOAT32):
        own = on_outputs(single, recorders[0], taps, "eager")
        if isinstance(own, str):
            continue
        exact = {key: one for key, one in exact.items() if key in own and _is_finite(own[key])}
        ours = on_outputs(port, recorders[1], taps, execution)
        gaps, errors = _gaps(ours, exact), _gaps(own, exact)

        def judged(
            floors: Mapping[str, Gap], gaps=gaps, errors=errors, kind=kind
        ) -> dict[str, Verdict]:
            return {
                (name := f"{key} given outputs {kind}"): precision_verdict(
                    name, one, errors[key], floors.get(key, NO_FLOOR)
                )
                for key, one in gaps.items()
                if errors[key].problem is None and errors[key].l2 < 1.0  # else it is all rounding
            }

        found = judged({})
        if any(one.fails for one in found.values()):
            found = judged(moved_gaps(single, recorders[0], taps, exact, turn))
        verdicts |= found
    if not verdicts:
        return []
    one = margin_claim(
        f"train_losses_extreme_float32_{execution}",
        f"On the reference's outputs and on extreme ones, in float32 ({execution}), no term of the "
        "loss is less exact than the reference's",
        verdicts,
        f"largest error in units of its limit; the limit is {PRECISION_FACTOR:g} x the error of "
        "the float32 reference against its own in float64, or its rounding floor where larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    return [one.located(Place.at("loss", f"in float32, {', '.join(wrong[:2])}"), fewer_digits(one))]


def _made(tap: Tap, kind: str) -> Tap:
    if kind != USUAL:
        return extreme(tap, kind)
    floats = tap.array.dtype.kind == "f"
    rounded = tap.array.astype(np.float32).astype(tap.array.dtype) if floats else tap.array
    return replace(tap, array=rounded)


def recorded(side: Side) -> Any:
    """A recorder of the side's forward pass, after a run."""
    recorder = side.recorder("eager", NOTHING_DROPPED)
    with side.training() as inputs:
        recorder(inputs, lambda tap: None)
    return recorder


def _cases(
    step: ReferenceStep, kinds: Sequence[str]
) -> Iterator[tuple[str, dict[str, Tap], dict[str, Any]]]:
    """Kinds of extreme outputs, with the reference's finite terms and gradients on them."""
    for kind in kinds:
        taps = {key: _made(tap, kind) for key, tap in step.outputs.items()}
        exact = on_outputs(step.side, step.forward, taps, "eager")
        if isinstance(exact, str):
            continue
        exact = {key: one for key, one in exact.items() if _is_finite(one)}
        if exact:
            yield kind, taps, exact


def on_outputs(
    side: Side, recorder: Any, taps: Mapping[str, Tap], execution: str
) -> "dict[str, Any] | str":
    """Terms and gradients by name; or why there are none."""
    try:
        with np.errstate(all="ignore"):
            terms, gradients = side.alone(recorder, taps, execution)
    except Exception as error:  # whatever a loss of the user raises on such outputs
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return {**{name: np.asarray(value, np.float64) for name, value in terms.items()}, **gradients}


def _array(one: Any) -> np.ndarray:
    return one.array if isinstance(one, Tap) else one


def _is_finite(one: Any) -> bool:
    return bool(np.isfinite(_array(one)).all())


def _gaps(ours: "Mapping[str, Any] | str", exact: Mapping[str, Any]) -> dict[str, Gap]:
    if isinstance(ours, str):
        return dict.fromkeys(exact, failed(f"cannot be computed: {ours}"))
    return {key: _gap(ours.get(key), one) for key, one in exact.items()}


def _gap(ours: Any, exact: Any) -> Gap:
    nothing = not _array(exact).any()
    if ours is None or (nothing and np.abs(_array(ours)).max(initial=0.0) <= NOTHING):
        return NO_FLOOR if nothing else failed("has no gradient")
    if isinstance(exact, Tap):
        return tap_gap(ours, exact)
    return gap(ours, exact)


def moved_gaps(
    side: Side,
    recorder: Any,
    taps: Mapping[str, Tap],
    exact: Mapping[str, Any],
    turn: Turn | None = None,
) -> dict[str, Gap]:
    """The largest gaps when outputs move by up to one unit in the last place.

    Each number by itself, and each slice together: sums over a slice whose numbers move apart
    hardly change, and do not show that a loss decides between equal slices. In float64 maps of
    pixels are also moved by as many units as their sides are long: the place that a resize takes
    a number from is rounded as coarsely, and where it is between two large numbers of opposite
    signs that is all that is left.

    `turn` puts outputs, and what a loss makes of them, in another order, and back: one that the
    loss does not tell from theirs, but that shows where it decides between what costs the same
    whatever rounding does, as probabilities do that are 0 or 1.
    """
    runs = []
    # In float32 the reference's own error has it already.
    moves = (_moved, _moved_together, *([_moved_along] if side.built.dtype == "float64" else []))
    for seed, move in itertools.product(SEEDS, moves):
        moved = {
            key: replace(tap, array=move(tap, side.built.dtype, seed + index))
            for index, (key, tap) in enumerate(taps.items())
        }
        runs.append(on_outputs(side, recorder, moved, "eager"))
    turned = on_outputs(side, recorder, turn(taps), "eager") if turn else None
    if turned and not isinstance(turned, str):
        runs.append(turn(turned))
    return {key: worst(_gaps(run, exact)[key] for run in runs) for key in exact}


def _moved(tap: Tap, dtype: str, seed: int) -> np.ndarray:
    return perturb_ulp(_floats(tap, dtype), seed)


def _moved_together(tap: Tap, dtype: str, seed: int) -> np.ndarray:
    """Each slice of the first two axes is moved up or down as a whole, at random."""
    array = _floats(tap, dtype)
    if array.dtype.kind != "f":
        return array
    shape = (*array.shape[:2], *(1 for _ in array.shape[2:]))
    up = np.random.default_rng(seed).random(shape) < 0.5
    moved = np.nextafter(array, np.where(up, np.inf, -np.inf).astype(dtype))
    return np.where(array == 0, array, moved)  # their neighbours are denormal


def _moved_along(tap: Tap, dtype: str, seed: int) -> np.ndarray:
    """Maps of pixels are moved by up to as many units as their longest side has pixels."""
    array = _floats(tap, dtype)
    sides = [size for axis, size in zip(tap.axes, tap.array.shape, strict=True) if axis in PIXELS]
    if array.dtype.kind != "f" or not sides:
        return array
    units = np.random.default_rng(seed).integers(-max(sides), max(sides) + 1, array.shape)
    return (array * (1 + units * np.finfo(dtype).eps)).astype(dtype)


def _floats(tap: Tap, dtype: str) -> np.ndarray:
    return tap.array.astype(dtype) if tap.array.dtype.kind == "f" else tap.array


def _causes(
    step: ReferenceStep, port: Side, recorder: Any, case: tuple[Any, Any, Any]
) -> Sequence[str]:
    """What the port's values tell by themselves, else the mistake that gives them."""
    taps, ours, exact = case
    if isinstance(ours, str):
        return ()
    for key, one in exact.items():
        array = _array(ours[key]) if key in ours else None
        if isinstance(one, Tap) and array is not None:
            array = align(ours[key], one.axes)
        if array is not None and array.shape == _array(one).shape:
            text = not_finite(array, _array(one))
            if text is not None:
                return (text,)
    terms = {key: one for key, one in exact.items() if not isinstance(one, Tap)}
    passed = {key: one for key, one in exact.items() if isinstance(one, Tap)}
    there = replace(
        step,
        taps={**step.taps, **taps},
        alone=Floored(terms, {}),
        by_output=Floored(passed, {}),
    )
    own = {key: one for key, one in ours.items() if not isinstance(one, Tap)}
    back = {key: one for key, one in ours.items() if isinstance(one, Tap)}
    return bounds(there, port, recorder, own, back)
