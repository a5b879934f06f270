"""How much memory a training audit takes, in units of what the larger model's training step needs.

    python -m parity_tests.parity.training.memory_case [--in-memory]

prints both in bytes, as JSON. With `--in-memory` traces are kept in memory.
"""

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
import tf_keras
import torch
from torch import nn

import parity
from parity.steps import give_back
from parity.trace import Trace
from parity.training import measured

DEPTH, CHANNELS, SIDE, RATE = 10, 16, 192, 0.1


class Reference(nn.Module):
    """Convolutions at one size, so that what they compute is far larger than their weights."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3, *[CHANNELS] * DEPTH]
        pairs = itertools.pairwise(channels)
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean((2, 3))


class Port(tf_keras.Model):
    """The same."""

    def __init__(self) -> None:
        super().__init__()
        self.layers_ = [tf_keras.layers.Conv2D(CHANNELS, 3, padding="same") for _ in range(DEPTH)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Logits of [B,H,W,3]."""
        for layer in self.layers_:
            x = tf.nn.relu(layer(x))
        return tf.reduce_mean(x, (1, 2))


def loss(outputs: Any, *targets: Any) -> Any:
    """In either framework."""
    return (outputs**2).sum() if torch.is_tensor(outputs) else tf.reduce_sum(outputs**2)


def inputs() -> np.ndarray:
    """One image [1,3,H,W]."""
    return np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def reference_step() -> None:
    """One in float64."""
    model = Reference().double()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    loss(model(torch.from_numpy(inputs()).double())).backward()
    optimizer.step()


def port_step() -> None:
    """One in float64."""
    tf_keras.backend.set_floatx("float64")
    try:
        model = Port()
        with tf.GradientTape() as tape:
            total = loss(model(tf.constant(inputs().transpose(0, 2, 3, 1), tf.float64)))
        tape.gradient(total, model.trainable_variables)
    finally:
        tf_keras.backend.set_floatx("float32")


def audit() -> None:
    """The audit of a training step, with isolation."""
    pair = parity.Pair(
        Reference().eval(),
        Port,
        (inputs(),),
        port_inputs=(inputs().transpose(0, 2, 3, 1).copy(),),
    )
    training = parity.Training(
        (),
        loss,
        loss,
        lambda parameters: torch.optim.SGD(parameters, RATE),
        lambda model: tf_keras.optimizers.SGD(RATE),
    )
    result = parity.audit(pair, training=training, executions=(), isolate=True, quiet=True)
    assert result.verdict == "equal", [str(one) for one in result.failing]


def peak(work: Callable[[], None]) -> int:
    """By how many bytes the process grows while it works, at most."""
    give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(name: str) -> int:
    """A number of bytes that the kernel says of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", text)[1])


def main() -> None:
    """Prints the numbers; steps are taken twice, since the first also sets frameworks up."""
    steps = [peak(one) for one in (reference_step, port_step) * 2][2:]
    if "--in-memory" in sys.argv:
        with mock.patch.object(measured, "TraceOnDisk", Trace):
            found = peak(audit)
    else:
        found = peak(audit)
    print(json.dumps({"steps": steps, "audit": found}))


if __name__ == "__main__":
    main()
