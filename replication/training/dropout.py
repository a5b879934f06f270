"""Dropout of a training step: the same masks fed to both sides, and the seeds that draw them."""

from types import SimpleNamespace
from typing import Any

from parity.claims import Claim, Place, claim
from parity.measurements import Findings
from replication.training.port import noted_seeds
from replication.training.reference import ReferenceStep
from replication.training.update import STEP


def dropout_claims(reference: ReferenceStep, model: Any, command: str) -> list[Claim]:
    """The engine's claim on dropout, and that on the seeds; nothing for a model without dropout."""
    from parity.causes.explain import explain
    from parity.frameworks.tensorflow import capture as capture_tf
    from parity.frameworks.torch import capture as capture_torch
    from parity.masks import Masks
    from parity.training.dropout import dropout_claim
    from replication.sides.tf_side import PORT_AXES, port_inputs
    from replication.sides.torch_side import REFERENCE_AXES

    axes = (REFERENCE_AXES, PORT_AXES)
    theirs = capture_torch.Recorder(reference.model, axes[0], masks=Masks(0, axes[0]))
    ours = capture_tf.Recorder(model, axes[1], "eager", masks=Masks(0, axes[1]))
    inputs = port_inputs(reference.images, reference.sizes, "float64")
    both = reference.inputs, {**inputs, "training": True}
    reference.model.train()
    try:
        floors = capture_torch.measure_floors
        one, count = dropout_claim(theirs, ours, both, floors, explain, command)
    finally:
        reference.model.eval()
    return [] if one is None else [one, _draws_claim(reference, model, count, command)]


def _draws_claim(reference: ReferenceStep, model: Any, wanted: int, command: str) -> Claim:
    """That the port's training step draws as many masks as the model has, each by its own seed."""
    seeds = _seeds_of_a_step(reference, model)
    found = [f"{len(seeds)} masks instead of {wanted}"] if len(seeds) < wanted else []
    again = len(seeds) - len(set(seeds))
    found += [f"{again} masks have the seed of another"] if again else []
    one = claim(
        "train_dropout_draws",
        "The training step drops what the model drops, by a mask of its own at every place",
        Findings(wanted, found),
        "masks that the step draws, and seeds that occur twice; with one seed all masks of a shape "
        "are the same",
        command,
    )
    cause = "several masks are drawn from one seed" if again else None
    if not seeds:
        cause = "the step calls the model without training=True"
    return one.located(Place.at(STEP, "; ".join(found)), cause)


def _seeds_of_a_step(reference: ReferenceStep, model: Any) -> list[tuple[int, ...]]:
    """The seeds of the masks that one training step of the port draws; nothing is dropped."""
    import tensorflow as tf

    from replication.sides.tf_side import port_batch
    from tf_impl import train_step
    from tf_impl.layers import dropout_seed

    batch = port_batch(
        reference.config, reference.images, reference.sizes, reference.targets, "float64"
    )
    # One that changes nothing.
    optimizer = SimpleNamespace(
        build=lambda variables: None, apply_gradients=lambda pairs, **options: None
    )
    with noted_seeds() as seeds, dropout_seed(tf.constant([1, 2])):
        # Without tracing it: what is drawn is the same.
        train_step.compiled_step(model, optimizer, training=True).python_function(batch)
    return seeds
