"""What a training step makes of the tensors that no gradient changes, such as batch statistics."""

from typing import Any

import numpy as np

from parity.claims import Claim, Place, claim, margin_claim
from parity.judge import DEFAULT, Verdict, function_verdict
from parity.measurements import Findings
from parity.metrics import gap
from parity.training.measured import ReferenceStep
from parity.training.sides import Arrays, Side

UNBIASED, BIASED = "n - 1", "n"  # what a variance is divided by
EXPLAINED = 1e-12  # relative to the change; what rounding leaves of two fitted numbers


def buffers_claim(step: ReferenceStep, port: Side, recorder: Any, command: str) -> Claim:
    """That the port's buffers are the reference's after one step in training mode.

    Args:
        port: the port.
        recorder: that of its forward pass, which is run.
    """
    before, ours = after_step(port, recorder)
    hidden = port.hidden()
    verdicts = _verdicts(step, ours)
    changed = [
        key
        for key, value in ours.items()
        if key not in step.buffers.values and not np.array_equal(value, before[key])
    ]
    lost = [key for key in step.buffers.values if key not in ours and key not in hidden]
    title = "What a training step changes besides its weights, such as statistics, is the same"
    derivation = (
        "largest gap of a buffer in units of its limit, min(32 x floor, 1e-9), the floor the "
        "reference's own gap when inputs, weights and buffers move by one unit in the last place"
    )
    lacking = [*(f"{key} changes in the port only" for key in changed), *lost]
    if not verdicts:
        measured = Findings(len(step.before), lacking)
        one = claim("train_buffers", title, measured, derivation, command)
    else:
        one = margin_claim("train_buffers", title, verdicts, derivation, command, lacking)
    if not one.fails:
        return one
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    alone = _alone(step, port, recorder, wrong) or ours
    own = [key for key, verdict in _verdicts(step, alone).items() if verdict.fails]
    if not (own or changed or lost):
        return one.located(Place.inherits(f"what {_owner(wrong[0]) or 'model'} is given"))
    wrong = [*own, *changed, *lost]
    return one.located(_place(wrong), *_causes(step, {**ours, **alone}, before, wrong))


def _verdicts(step: ReferenceStep, ours: Arrays) -> dict[str, Verdict]:
    return {
        key: function_verdict(key, gap(ours[key], value), step.buffers.floors[key])
        for key, value in step.buffers.values.items()
        if key in ours
    }


def _alone(step: ReferenceStep, port: Side, recorder: Any, keys: list[str]) -> Arrays:
    """These buffers after their modules alone are run on what the reference's are given."""
    calls = {(call.path, call.call): call for call in recorder.calls}
    with port.training():
        for call in step.forward.calls:
            if call.path not in map(_owner, keys) or (call.path, call.call) not in calls:
                continue
            place = (call.path, "input", call.call)
            feeds = {
                tap.name: tap
                for tap in step.taps.values()
                if (tap.path, tap.kind, tap.call) == place
            }
            try:
                recorder.isolate(calls[call.path, call.call], feeds)
            except Exception:  # what cannot be run alone is judged in place
                return {}
        return port.state(keys)


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _is_variance(key: str) -> bool:
    return "var" in key.rpartition(".")[2]


def _place(wrong: list[str]) -> Place:
    return Place(_owner(wrong[0]) or "model", ", ".join(wrong[:3]))


def _causes(step: ReferenceStep, ours: Arrays, before: Arrays, wrong: list[str]) -> list[str]:
    """Why: each cause once, in the order in which it is found; those of a mean before a variance's.

    Both sides move a statistic towards that of the batch: new = old + m (batch - old). What m each
    has, and which variance, follows from two numbers or more.
    """
    found: dict[str, None] = {}
    for key in sorted(wrong, key=_is_variance):
        if key not in step.buffers.values:
            found[f"{key} changes in the port, but not in the reference"] = None
            continue
        if np.array_equal(ours[key], before[key]):
            found["the statistics are not updated: the layer runs as in evaluation"] = None
            continue
        cause = _moved_otherwise(step, ours[key], key)
        if cause is not None:
            found[cause] = None
    return list(found)


def _moved_otherwise(step: ReferenceStep, ours: np.ndarray, key: str) -> str | None:
    old, new = step.before[key], step.buffers.values[key]
    if old.size < 2 or ours.shape != new.shape:
        return None
    batch = _of_batch(step, key, old.size)
    theirs, own = _fitted(batch, old, new), _fitted(batch, old, ours)
    if theirs is None or own is None:
        return None
    (way, momentum), (other, share) = theirs, own
    text = None
    if other != way:
        kind = "biased" if other == BIASED else "unbiased"
        text = f"the variance is {kind}: divided by {other} instead of {way}"
    moved = None
    if abs(share - momentum) > EXPLAINED:
        moved = f"momentum {share:.6g} instead of {momentum:g}"
        if abs(share - float(np.float32(momentum))) <= DEFAULT.loss_gap:
            moved = f"momentum is {momentum:g} rounded to float32, {share:.12g}"
        elif abs(share - float(np.float32(1) - np.float32(1 - momentum))) <= DEFAULT.loss_gap:
            moved = f"momentum is 1 - {1 - momentum:g} in float32, {share:.12g}"
    return "; ".join(one for one in (text, moved) if one) or None


def _fitted(batch: Arrays, old: np.ndarray, new: np.ndarray) -> tuple[str, float] | None:
    """Towards which statistic of the batch a buffer moved, and how much of the way."""
    for way, array in batch.items():
        towards = array.reshape(old.shape) - old
        share = float(np.vdot(towards, new - old) / np.vdot(towards, towards))
        left = float(np.linalg.norm(new - old - share * towards))
        if left <= EXPLAINED * float(np.linalg.norm(old) + np.linalg.norm(towards)):
            return way, share
    return None


def _of_batch(step: ReferenceStep, key: str, channels: int) -> Arrays:
    """What a statistic of the reference may be moved towards: of the channels of what its module is
    given, in its only call, the mean, or the variance in both ways; empty where it is not seen."""
    given = [tap for tap in step.taps.values() if tap.path == _owner(key) and tap.kind == "input"]
    if len(given) != 1:
        return {}
    array = given[0].array
    axes = [axis for axis, size in enumerate(array.shape) if size == channels]
    axes = [axis for axis in axes if given[0].axes[axis] == "C"] or axes
    if not axes or array.size == channels:
        return {}
    rows = np.moveaxis(array, axes[-1], -1).reshape(-1, channels)
    if not _is_variance(key):
        return {"": rows.mean(0)}
    return {UNBIASED: rows.var(0, ddof=1), BIASED: rows.var(0)}


def after_step(side: Side, recorder: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A side's buffers before and after one run in training mode."""
    with side.training() as inputs:
        before = side.state(side.buffers())
        recorder(inputs, lambda tap: None)
        return before, side.state(side.buffers())
