"""What a training step of a pair consists of, beside the two models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """How both models of a `Pair` are trained.

    Args:
        targets: what the reference's loss takes besides the outputs, NumPy arrays (floats in
            float32), structures of them such as one mapping for each image, or whatever else.
        loss: loss(outputs, *targets) of the reference, one scalar tensor or a mapping of named
            ones, the weighted terms whose sum is differentiated.
        port_loss: the same of the port.
        optimizer: makes the reference's optimizer: of PyTorch it is given the named parameters, as
            a list of (name, parameter), of other frameworks the model.
        port_optimizer: the same for the port.
        port_targets: the port's, where it takes others than `targets`.
        steps: how many updates are made one after the other, beside those of the reference's twin.
        schedule: schedule(optimizer) is the reference's scheduler in PyTorch's way: its `step()`,
            called after each update, sets the rates of the next one. A schedule of Keras is part
            of `port_optimizer`; None where rates are constant or part of the optimizer.
        turns: the updates at and around which the schedule changes its rule, counted from 0.
        decisions: decisions(outputs, *targets) of NumPy outputs: integers, or arrays of them by
            name, that must be the same on both sides, such as the pairs of a matching.
        port_decisions: the same of the port's outputs, by default `decisions`.

    Example:
        >>> import numpy, tf_keras, torch
        >>> training = parity.Training(
        ...     (numpy.array([0, 2, 1]),),
        ...     torch.nn.functional.cross_entropy,
        ...     lambda logits, labels: tf_keras.losses.SparseCategoricalCrossentropy(True)(
        ...         labels, logits
        ...     ),
        ...     lambda parameters: torch.optim.SGD(parameters, 0.1),
        ...     lambda model: tf_keras.optimizers.SGD(0.1),
        ... )
        >>> training.steps
        1
    """

    targets: tuple
    loss: Callable[..., Any]
    port_loss: Callable[..., Any]
    optimizer: Callable[[Any], Any]
    port_optimizer: Callable[[Any], Any]
    port_targets: tuple | None = None
    steps: int = 1
    schedule: Callable[[Any], Any] | None = None
    turns: tuple[int, ...] = ()
    port_schedule: Callable[[Any], Any] | None = None
    decisions: Callable[..., Any] | None = None
    port_decisions: Callable[..., Any] | None = None
