"""One training step of a pair of models whose last features are pulled towards random numbers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

import parity

RATE = 0.05


def features(outputs: Any) -> Any:
    """The last features of a model of either side."""
    if isinstance(outputs, Mapping):
        names = ("last_hidden_state", "sequence_output", "decoder_sequence_output", "logits")
        return next(outputs[name] for name in names if name in outputs)
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def by_sgd(pair: parity.Pair) -> parity.Training:
    """Mean squares by plain gradient descent."""
    return _training(pair, partial(torch.optim.SGD, lr=RATE), _keras_sgd)


def by_adamw(pair: parity.Pair) -> parity.Training:
    """Mean squares by AdamW, as each side's framework has it."""
    return _training(
        pair, partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01, eps=1e-8), _keras_adamw
    )


def beside_torch(pair: parity.Pair) -> parity.Training:
    """Mean squares by AdamW where both sides are of PyTorch."""
    optimizer = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    return parity.Training((_goal(pair),), _squares, _squares, optimizer, optimizer)


def _training(
    pair: parity.Pair, optimizer: Callable[[Any], Any], port_optimizer: Callable[[Any], Any]
) -> parity.Training:
    goal = _goal(pair)
    theirs = np.ascontiguousarray(goal.transpose(0, 2, 3, 1)) if goal.ndim == 4 else goal
    return parity.Training(
        (goal,), _squares, _port_squares, optimizer, port_optimizer, port_targets=(theirs,)
    )


def _goal(pair: parity.Pair) -> np.ndarray:
    """Random numbers like the reference's last features."""
    with torch.no_grad():
        given = {name: torch.from_numpy(array) for name, array in pair.inputs.items()}
        shape = features(pair.reference(**given)).shape
    return np.random.default_rng(1).normal(size=tuple(shape)).astype(np.float32)


def _squares(outputs: Any, goal: torch.Tensor) -> torch.Tensor:
    return ((features(outputs) - goal) ** 2).mean()


def _port_squares(outputs: Any, goal: Any) -> Any:
    import keras

    return keras.ops.mean(keras.ops.square(features(outputs) - goal))


def _keras_sgd(model: Any) -> Any:
    import keras

    return keras.optimizers.SGD(RATE)


def _keras_adamw(model: Any) -> Any:
    import keras

    return keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-8)
