"""What a MaskFormer's training step is held to beside float64: extreme outputs, and float32."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskformer.family import family_of
from parity.claims import Claim, Place, margin_claim
from parity.judge import BFLOAT16, PRECISION_FACTOR, precision_verdict
from parity.judging.alone import narrowed
from parity.metrics import gap, worst
from parity.on_disk import TraceOnDisk
from parity.trace import Tap
from parity.training.extremes import (
    Turn,
    Values,
    extreme_loss_claim,
    extreme_precision_claim,
)
from parity.training.measured import NOTHING_DROPPED, TWINS, Floored
from parity.training.measured import ReferenceStep as EngineStep
from parity.training.precision import (
    Reference32,
    fewer_digits,
    how,
    measure_float32,
    precision_claims,
)
from parity.training.sides import Side
from parity.training.updates import (
    Update32,
    measure_update32,
    perturbed,
    update_precision_claim,
)
from replication.sides.tf_side import TENSORFLOW
from replication.sides.torch_side import TORCH
from replication.training.port import PortStep
from replication.training.reference import ReferenceStep
from replication.training.sides import port_side, reference_side

if TYPE_CHECKING:
    from replication.sides.weights import Weights


def as_engine(reference: ReferenceStep) -> EngineStep:
    """The reference's step as the engine judges one, with the losses by name, weighted."""
    side = dataclasses.replace(
        reference.side, loss=reference_terms(reference.model, reference.batch.targets)
    )
    forward = side.recorder("eager", NOTHING_DROPPED)
    taps = TraceOnDisk()
    with side.training() as inputs:
        forward(inputs, taps.add)
    weigh = _weights(reference.config)
    losses = {name: np.asarray(weigh(name) * one) for name, one in reference.losses.items()}
    nothing = Floored({}, {})
    return EngineStep(
        side,
        forward,
        reference.recorder,
        taps,
        Floored(reference.gradients, reference.floors),
        Floored(losses, {}),
        *(nothing, nothing, nothing),
        reference.updates.before,
        {},
    )


def reference_terms(model: Any, targets: Any) -> Callable[[Any], Any]:
    """The weighted losses by name, as a function of the PyTorch model's outputs."""
    from torch_reference.criterion import weighted_total
    from torch_reference.train_step import batch_losses

    return lambda outputs: {
        name: weighted_total({name: one}, model.config.loss)
        for name, one in batch_losses(model, outputs, targets).items()
    }


def port_terms(model: Any, targets: Any) -> Callable[[Any], Any]:
    """The same of the TensorFlow model."""
    from tf_impl import train_step
    from tf_impl.criterion import weighted_total

    return lambda outputs: {
        name: weighted_total({name: one}, model.config.loss)
        for name, one in train_step.batch_losses(model, outputs, targets)[0].items()
    }


def _weights(config: Any) -> Callable[[str], float]:
    from torch_reference.criterion import weighted_total

    return lambda name: float(weighted_total({name: 1.0}, config.loss))


def extreme_claims(step: EngineStep, port: PortStep, command: str) -> list[Claim]:
    """The engine's claim on extreme outputs, of which a difference is the criterion's."""
    side = dataclasses.replace(port.side, loss=port_terms(port.model, port.batch.targets))
    forward = side.recorder("eager", NOTHING_DROPPED)
    with side.training() as inputs:
        forward(inputs, lambda tap: None)
    found = extreme_loss_claim(step, side, forward, command, _turn(step))
    return [of_the_criterion(one) for one in found]


def _turn(step: EngineStep) -> Turn | None:
    """The other order of queries, where a matching gives them targets: which of two queries that
    cost the same is matched is the solver's."""
    if family_of(step.side.model.config).matching(step.side.model.config) is None:
        return None
    return queries_reversed


def queries_reversed(values: Values) -> Values:
    """Outputs [N,Q,...], or gradients for them, with their queries in the reverse order."""
    return {
        key: dataclasses.replace(one, array=np.ascontiguousarray(one.array[:, ::-1]))
        if isinstance(one, Tap)
        else one
        for key, one in values.items()
    }


def float32_claims(
    reference: ReferenceStep,
    step: EngineStep,
    weights: "tuple[Weights, Weights]",
    executions: Sequence[str],
    command: str,
) -> list[Claim]:
    """Costs, losses, gradients and the update of float32 steps of the port, usual and extreme.

    `weights` are both sides' own.
    """
    measured = single(reference, step, weights[0])
    update, port = measure_update32(step, measured.side), port32(reference, weights[1])
    return judged(reference, step, (measured, update), port, executions, command)


def single(reference: ReferenceStep, step: EngineStep, weights: "Weights") -> Reference32:
    """The reference's step in float32, measured."""
    return measure_float32(step, reference32(reference, weights))


def reference32(reference: ReferenceStep, weights: "Weights") -> Side:
    """The reference's side in float32."""
    config, images, sizes = reference.config, reference.images, reference.sizes
    model = TORCH.build(config, weights, "float32")
    batch = TORCH.batch(config, images, sizes, reference.targets, "float32")
    return reference_side(
        model,
        reference.solver,
        "float32",
        inputs=TORCH.inputs(images, sizes, "float32"),
        loss=reference_terms(model, batch.targets),
        axes=TORCH.axes,
    )


def port32(reference: ReferenceStep, weights: "Weights") -> tuple[Side, Any]:
    """The port's side in float32, and its targets."""
    return port_side32(reference, TENSORFLOW.build(reference.config, weights, "float32"))


def port_side32(reference: ReferenceStep, model: Any) -> tuple[Side, Any]:
    """The side of a port whose weights are float32, and its targets."""
    config, images, sizes = reference.config, reference.images, reference.sizes
    batch = TENSORFLOW.batch(config, images, sizes, reference.targets, "float32", None)
    side = port_side(
        model,
        reference.solver,
        "float32",
        inputs=TENSORFLOW.inputs(images, sizes, "float32"),
        loss=port_terms(model, batch.targets),
        axes=TENSORFLOW.axes,
    )
    return side, batch.targets


def judged(
    reference: ReferenceStep,
    step: EngineStep,
    measured: tuple[Reference32, Update32],
    port: tuple[Side, Any],
    executions: Sequence[str],
    command: str,
) -> list[Claim]:
    """The claims of `float32_claims` on sides that are built."""
    (side, targets), (own, moved) = port, measured
    single = own.side
    claims = []
    for execution in executions:
        found = []
        if reference.pairs is not None:
            found.append(cost_claim(reference, single.model, targets, execution, command))
        found += precision_claims(step, own, side, execution, command)
        found += extreme_precision_claim(step, (single, side), execution, command, _turn(step))
        found = [of_the_criterion(one) for one in found]
        update = update_precision_claim(moved, side, execution, command)
        claims += [*_in_order(found), update]
    return claims


def cost_claim(
    reference: ReferenceStep, single: Any, targets: Any, execution: str, command: str
) -> Claim:
    """That on the reference's predictions the port's float32 costs are as exact as its own; in
    bfloat16, whose costs are float32, on predictions that it holds."""
    import tensorflow as tf
    import torch

    from tf_impl import matcher as port

    names, weights = family_of(reference.config).outputs, reference.config.loss
    costs = port.matching_costs
    function: Any = lambda logits, masks: costs(logits, masks, targets, weights)  # noqa: E731
    ending, called, run = how(execution)
    if run != "eager":
        function = tf.function(function, autograph=False, jit_compile=run == "xla")
    exact_costs = reference.model.criterion.matcher.costs
    own_costs = single.criterion.matcher.costs
    verdicts = {}
    for layer, outputs in enumerate(names.layers(reference.outputs)):
        given = {
            name: outputs[name].detach().numpy().astype(np.float32)
            for name in (names.classes, names.masks)
        }
        if execution == BFLOAT16:
            given = {name: narrowed(one) for name, one in given.items()}
        ours = function(*map(tf.constant, given.values())).numpy()
        for image, target in enumerate(reference.batch.targets):
            arrays = {name: one[image] for name, one in given.items()}
            wide = [torch.from_numpy(one.astype(np.float64)) for one in arrays.values()]
            exact = exact_costs(*wide, target).numpy()
            runs = [arrays, *(perturbed(arrays, seed) for seed in TWINS)]
            gaps = [
                gap(own_costs(*map(torch.from_numpy, run.values()), target).numpy(), exact)
                for run in runs
            ]
            key = f"layer {layer}, image {image}"
            found = gap(ours[image][:, : exact.shape[1]], exact)
            verdicts[key] = precision_verdict(key, found, gaps[0], worst(gaps[1:]))
    one = margin_claim(
        f"train_costs_{ending}",
        f"In {called} no matching cost is less exact than the reference's",
        verdicts,
        f"largest error in units of its limit; the limit is {PRECISION_FACTOR:g} x the error of "
        "the reference's float32 costs, or its rounding floor where larger",
        command,
    )
    wrong = [key for key, verdict in verdicts.items() if verdict.fails]
    place = Place.at("matcher", f"in {called.split()[0]}, costs of {', '.join(wrong[:3])}")
    return one.located(place, fewer_digits(one, execution))


def of_the_criterion(one: Claim) -> Claim:
    """A claim whose place is a loss, which the criterion computes."""
    place = one.place
    if place is None or place.inherited or not (place.part == "loss" or _is_loss(place.part)):
        return one
    text = place.text.removeprefix("loss: ")
    return dataclasses.replace(one, place=Place.at("criterion", text))


def _is_loss(part: str) -> bool:
    return part.startswith("loss_")


def _in_order(claims: Sequence[Claim]) -> list[Claim]:
    """Claims on one step: in place losses and gradients inherit what a loss alone makes wrong, and
    losses that are right alone inherit from the predictions."""
    alone = next((one for one in claims if one.fails and "extreme" in one.id), None)
    source = Place.inherits("the predictions in float32")
    if alone is not None and alone.place is not None:
        source = Place.inherits(f"{alone.place.part} in float32")
    in_place = ("train_losses_float32", "train_gradients_float32")
    losses = any(one.fails and "losses" in one.id for one in claims)
    return [
        one.located(source) if losses and one.id.startswith(in_place) else one for one in claims
    ]
