"""Dropout of a training step: the same masks fed to both sides, and the seeds that draw them."""

from types import SimpleNamespace
from typing import Any

from parity.claims import Claim
from replication.training.port import noted_seeds
from replication.training.reference import ReferenceStep


def dropout_claims(reference: ReferenceStep, model: Any, command: str) -> list[Claim]:
    """The engine's claim on dropout, and that on the seeds; nothing for a model without dropout."""
    from parity.causes.explain import explain
    from parity.frameworks.tensorflow import capture as capture_tf
    from parity.frameworks.torch import capture as capture_torch
    from parity.masks import Masks
    from parity.training.dropout import draws_claim, dropout_claim
    from replication.sides.tf_side import PORT_AXES, port_inputs
    from replication.sides.torch_side import REFERENCE_AXES

    axes = (REFERENCE_AXES, PORT_AXES)
    theirs = capture_torch.Recorder(reference.model, axes[0], masks=Masks(0, axes[0]))
    ours = capture_tf.Recorder(model, axes[1], "eager", masks=Masks(0, axes[1]))
    inputs = port_inputs(reference.images, reference.sizes, "float64")
    both = reference.side.inputs, {**inputs, "training": True}
    reference.model.train()
    try:
        floors = capture_torch.measure_floors
        one, count = dropout_claim(theirs, ours, both, floors, explain, command)
    finally:
        reference.model.eval()
    return (
        []
        if one is None
        else [one, draws_claim(_seeds_of_a_step(reference, model), count, command)]
    )


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
