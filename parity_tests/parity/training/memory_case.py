"""How much memory a training audit takes, in units of what the larger model's training step needs.

    python -m parity_tests.parity.training.memory_case [--in-memory]

prints both in bytes, as JSON. With `--in-memory` traces are kept in memory.
"""

import itertools
import json
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import parity
from parity.auditing.options import Options
from parity.auditing.port import build_port
from parity.auditing.reference import measure_reference
from parity.steps import Steps, give_back
from parity.trace import Trace
from parity.training import measured
from parity.training.step import training_claims

DEPTH, CHANNELS, SIDE, RATE = 12, 16, 192, 0.1


class Model(nn.Module):
    """Convolutions at one size, so that what they compute is far larger than their weights."""

    def __init__(self) -> None:
        super().__init__()
        pairs = itertools.pairwise([3, *[CHANNELS] * DEPTH])
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.mean((2, 3))


def loss(outputs: Any) -> Any:
    """The sum of squares."""
    return (outputs**2).sum()


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Without moments."""
    return torch.optim.SGD([one for _, one in parameters], RATE)


def image() -> np.ndarray:
    """One, [1,3,H,W]."""
    return np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)


def step() -> None:
    """One training step in float64."""
    model = Model().double()
    made = optimizer(model.named_parameters())
    loss(model(torch.from_numpy(image()).double())).backward()
    made.step()


def audited() -> Callable[[], None]:
    """What audits a training step, with isolation, of both models measured before."""
    names = parity.Names({"layers.*": "layers.*"})
    both = Model().eval(), lambda: Model().eval()
    pair = parity.Pair(*both, (image(),), names=names, weights=parity.Weights())
    training = parity.Training((), loss, loss, optimizer, optimizer)
    options, quiet = Options(executions=(), isolate=True), Steps(quiet=True)
    reference = measure_reference(pair, options, quiet)
    port = build_port(reference, options, quiet)

    def audit() -> None:
        claims = training_claims(reference, port, training, options, quiet)
        assert {"train_gradients_isolated", "train_update"} <= {one.id for one in claims}
        assert all(one.holds for one in claims)

    return audit


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
    """Prints the numbers; the step is taken twice, since the first also sets PyTorch up."""
    needed = [peak(step) for _ in "ab"][1]
    in_memory = mock.patch.object(measured, "TraceOnDisk", Trace)
    with in_memory if "--in-memory" in sys.argv else nullcontext():
        found = peak(audited())
    print(json.dumps({"step": needed, "audit": found}))


if __name__ == "__main__":
    main()
