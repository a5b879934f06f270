"""The claims on what the step does with its gradients: which it hands over, and one update by them.

Each is judged on what the reference hands to it. An update divides small gradients by themselves,
so that the weights after it would tell rounding from mistakes badly if both came from elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from parity.claims import Claim, Place, margin_claim
from replication.training.port import PortStep
from replication.training.reference import ReferenceStep

STEP = "train step"  # the place of what the step does between model, losses and optimizer
NORM = "norm before clipping"  # the case among the weights


def step_gradients_claim(
    reference: ReferenceStep, port: PortStep, earlier: Sequence[Claim], command: str
) -> Claim:
    """That the port's step finds the gradients of the loss, which `earlier` claims have judged."""
    from parity.gradients import gradient_verdict, parameter_key
    from parity.metrics import gap
    from replication.sides.tf_side import keyed
    from replication.training import causes as training_causes

    values = (None if one is None else one.numpy() for one in port.found.values)
    ours = keyed(port.model, list(values))
    verdicts, lost = {}, []
    for name in reference.updated.weights:
        key, exact = parameter_key(name), reference.gradient(name)
        if (exact is None) != (name not in ours):
            lost.append(key)
        elif exact is not None:
            verdicts[key] = gradient_verdict(key, gap(ours[name], exact), reference.floors[key])
    one = margin_claim(
        "train_step_gradients",
        "The step hands the gradient of every parameter to its optimizer",
        verdicts,
        "largest gap in units of its limit, min(32 x floor, 1e-9), with the floors of the claim "
        "on gradients; a step may differentiate another sum than its losses'",
        command,
        lost,
    )
    if one.holds:
        return one
    if any(claimed.verdict == "fails" for claimed in earlier):
        return one.located(Place.inherits("the gradients"))
    return one.located(Place.at(STEP, "gradients"), training_causes.of_gradients(reference, ours))


def update_claim(reference: ReferenceStep, port: PortStep, command: str) -> Claim:
    """The weights after one step whose gradients are the reference's, and the norm it returns."""
    from replication.training import causes as training_causes

    stepped = _stepped(reference, port)
    verdicts = update_verdicts(reference, *stepped)
    one = margin_claim(
        "train_update",
        "By the same gradients one clipped update makes the same of every parameter in float64",
        verdicts,
        "largest gap of a weight, or of the norm before clipping, in units of its limit, "
        "min(32 x floor, 1e-9); the floor is the reference's own gap when gradients and weights "
        "move by one unit in the last place and the sum of the norm is reordered",
        command,
    )
    if one.holds:
        return one
    ours, norm = _updated(reference, port.model)
    alone = update_verdicts(reference, ours, norm)
    wrong = [key for key, verdict in alone.items() if not verdict.passed]
    if not wrong:
        twice = _updated(reference, port.model, times=2)[0]
        same = all(np.array_equal(stepped[0][name], value) for name, value in twice.items())
        return one.located(Place.at(STEP, "update"), "the step updates twice" if same else None)
    if set(wrong) <= _loaded_otherwise(reference, port.model):
        return one.located(Place.inherits("the weights before the update"))
    if wrong == [NORM]:
        clip = reference.solver.clip_value
        clipped = abs(float(norm) - clip) <= 1e-6  # what torch adds to the norm that it divides by
        cause = "the norm is that of the clipped gradients" if clipped else None
        return one.located(Place.at(STEP, NORM), cause)
    wrong = [key for key in wrong if key != NORM]
    count = f"{len(wrong)} of {len(reference.updated.weights)} parameters"
    place = Place.at("optimizer", f"{count}, such as {wrong[0]}")
    return one.located(place, training_causes.of_update(reference, ours))


def _loaded_otherwise(reference: ReferenceStep, model: Any) -> set[str]:
    """The keys of parameters that are not the reference's before the update already."""
    from replication.sides.tf_side import keyed

    ours = keyed(model, [one.numpy() for one in model.trainable_variables])
    return {
        _key(name)
        for name in reference.updated.weights
        if not np.array_equal(ours[name], reference.before(name))
    }


def update_verdicts(
    reference: ReferenceStep, ours: Mapping[str, np.ndarray], norm: np.ndarray
) -> dict[str, Any]:
    """The verdict on every weight after one update, by key, and on the norm before clipping."""
    from parity.gradients import gradient_verdict
    from parity.metrics import gap

    exact, floors = reference.updated, reference.update_floors
    verdicts = {
        _key(name): gradient_verdict(_key(name), gap(ours[name], value), floors.weights[name])
        for name, value in exact.weights.items()
    }
    return {**verdicts, NORM: gradient_verdict(NORM, gap(norm, exact.norm), floors.norm)}


def _key(name: str) -> str:
    from parity.trace import tap_key

    path, _, own = name.rpartition(".")
    return tap_key(path, "update", own)


def given_gradients(reference: ReferenceStep, model: Any) -> list[Any]:
    """The reference's gradients as the port's optimizer takes them."""
    import tensorflow as tf

    from replication.sides.tf_side import trainable_layouts

    values = []
    for key, layout in trainable_layouts(model):
        gradient = reference.gradient(key)
        values.append(None if gradient is None else tf.constant(layout.to_tf(gradient)))
    return values


def _stepped(reference: ReferenceStep, port: PortStep) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The port's weights by key, and the norm, after one step that finds these gradients."""
    from tf_impl import train_step

    found = port.found._replace(values=given_gradients(reference, port.model))
    optimizer = _optimizer(reference, port.model)
    with restored(port.model) as after:
        result = train_step.train_step(
            port.model, optimizer, port.batch, find=lambda *given, **named: found
        )
        return after(), result.gradient_norm.numpy()


def _updated(
    reference: ReferenceStep, model: Any, times: int = 1
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The same after one update alone, or after several."""
    from tf_impl import train_step

    optimizer = _optimizer(reference, model)
    with restored(model) as after:
        for _ in range(times):
            norm = train_step.update(model, optimizer, given_gradients(reference, model))
        return after(), norm.numpy()


def _optimizer(reference: ReferenceStep, model: Any) -> Any:
    from tf_impl.optimizer import build_optimizer

    optimizer = build_optimizer(model, reference.solver, "float64")
    optimizer.build(model.trainable_variables)
    return optimizer


@contextmanager
def restored(model: Any) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """What gives the port's weights by key; those of before come back at the end."""
    from replication.sides.tf_side import keyed

    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    try:
        yield lambda: keyed(model, [one.numpy() for one in variables])
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
