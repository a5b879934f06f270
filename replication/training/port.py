"""One training step of the port in float64, on what the reference's step was made of."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from maskformer.family import family_of
from replication.sides.tf_side import TENSORFLOW, port_parameters
from replication.training.reference import ReferenceStep


@dataclasses.dataclass(frozen=True)
class PortStep:
    """One float64 training step of the port: what its step returns, and its gradients' gaps."""

    model: Any
    batch: Any
    found: Any
    recorder: Any
    inputs: Mapping[str, Any]
    comparison: Any


def port_step(reference: ReferenceStep, model: Any) -> PortStep:
    """Runs the port `model`, float64, on the batch of the reference; no weight changes."""
    from parity.frameworks.tensorflow.gradients import GradientRecorder
    from parity.pairing import Comparison
    from tf_impl import train_step

    config, images, sizes = reference.config, reference.images, reference.sizes
    # With room for one more, so that what is padded shows where it counts.
    room = None
    if family_of(config).matching(config) is not None:
        room = 1 + max(len(one["labels"]) for one in reference.targets)
    batch = TENSORFLOW.batch(config, images, sizes, reference.targets, "float64", room)
    recorder = GradientRecorder(
        model,
        TENSORFLOW.axes,
        TENSORFLOW.loss(model, batch.targets),
        port_parameters(model),
    )
    comparison = Comparison(reference.gradients)
    inputs = TENSORFLOW.inputs(images, sizes, "float64")
    recorder(inputs, comparison)
    found = train_step.gradients(model, batch)
    return PortStep(model, batch, found, recorder, inputs, comparison)


@contextmanager
def noted_seeds() -> Iterator[list[tuple[int, ...]]]:
    """The seeds of the dropout masks that are drawn meanwhile; nothing is dropped."""
    from tf_impl.layers import dropping

    seeds: list[tuple[int, ...]] = []

    def noted(x: Any, rate: float, seed: Any) -> Any:
        if seed is not None:
            seeds.append(tuple(np.asarray(seed).tolist()))
        return x

    with dropping(noted):
        yield seeds


def constants(outputs: Any) -> Any:
    """The port's tensors of the reference's outputs."""
    import tensorflow as tf

    if isinstance(outputs, Mapping):
        return {name: constants(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return [constants(value) for value in outputs]
    return tf.constant(outputs.numpy())
