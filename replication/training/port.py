"""One training step of the port in float64, on what the reference's step was made of."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from maskformer.family import family_of
from parity.calls import fill, flatten
from parity.on_disk import TraceOnDisk
from parity.pairing import Comparison
from parity.steps import give_back
from parity.training.backward import Backward
from parity.training.sides import Side
from replication.sides.tf_side import TENSORFLOW, keyed
from replication.training.reference import ReferenceStep
from replication.training.sides import port_side


@dataclasses.dataclass(frozen=True)
class PortStep:
    """One float64 training step of the port: what its step returns, and its gradients' gaps."""

    side: Side
    batch: Any
    found: Any
    recorder: Any
    comparison: Comparison

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.side.model

    def gradients(self) -> dict[str, np.ndarray]:
        """Those that the step found, by state-dict key; without those that are None."""
        values = (None if one is None else one.numpy() for one in self.found.values)
        return keyed(self.model, list(values))

    def given(self, held: Mapping[str, np.ndarray | None]) -> Any:
        """What the step finds, but for gradients, which are these by path."""
        paths = {id(one): path for path, one in self.side.trainer.trained(self.model).items()}
        values = [held[paths[id(one)]] for one in self.model.trainable_variables]
        tensors = [None if one is None else self.side.trainer.tensor(one) for one in values]
        return self.found._replace(values=tensors)

    def updating(self, optimizer: Any, held: Mapping[str, np.ndarray | None]) -> np.ndarray:
        """An update as the step makes it; the norm that it returns."""
        from tf_impl import train_step

        found = self.given(held)
        result = train_step.train_step(
            self.model, optimizer, self.batch, find=lambda *given, **named: found
        )
        return result.gradient_norm.numpy()


def port_step(reference: ReferenceStep, model: Any) -> PortStep:
    """Runs the port `model`, float64, on the batch of the reference; no weight changes."""
    from tf_impl import train_step

    config, images, sizes = reference.config, reference.images, reference.sizes
    # With room for one more, so that what is padded shows where it counts.
    room = None
    if family_of(config).matching(config) is not None:
        room = 1 + max(len(one["labels"]) for one in reference.targets)
    batch = TENSORFLOW.batch(config, images, sizes, reference.targets, "float64", room)
    side = port_side(
        model,
        reference.solver,
        "float64",
        inputs=TENSORFLOW.inputs(images, sizes, "float64"),
        loss=TENSORFLOW.loss(model, batch.targets),
        axes=TENSORFLOW.axes,
    )
    recorder = side.gradient_recorder("eager", None)
    comparison = Comparison(reference.gradients)
    recorder(side.inputs, comparison)
    found = train_step.gradients(model, batch)
    give_back()
    return PortStep(side, batch, found, recorder, comparison)


def backward_of(reference: ReferenceStep, port: PortStep) -> Backward:
    """Both sides' backward passes, as the engine judges them; a wrong loss is the `criterion`."""
    side = reference.side

    def values() -> TraceOnDisk:
        trace = TraceOnDisk()
        side.recorder("eager", None)(side.inputs, trace.add)
        return trace

    return Backward(
        values,
        reference.recorder,
        port.recorder,
        port.side.inputs,
        reference.gradients,
        reference.floors,
        port.comparison,
        "criterion",
    )


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
    import torch

    template, tensors = flatten(outputs, torch.is_tensor)
    found = {name: tf.constant(one.numpy()) for name, one in tensors}
    return fill(template, lambda slot: found[slot.name])
